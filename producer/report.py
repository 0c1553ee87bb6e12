"""Plan and jobs -> Report: plain values, the one thing that CLI, JSON and every other face render. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median, quantiles

from common.domain.aside import Trouble
from common.domain.job import Job, JobError, State
from common.domain.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the pass at hand is, in bytes and bytes per second, as its source reports."""

    sent: int = 0
    rate: int = 0


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """One job. Durations in seconds, sizes in bytes; ``passes`` is how many have finished.

    ``way`` is how the last of them went: its mode, which server dialled which, and where.
    """

    job: str
    instance: str
    project: str
    source: str
    target: str
    name: str
    method: str
    state: str
    phase: str
    step: str
    blocked_on: str
    error: JobError | None
    attempts: int
    passes: int
    bytes: int
    rate: int
    downtime_s: float | None
    started_at: datetime | None
    finished_at: datetime | None
    share: float  # of its itinerary, 0 to 1
    eta_s: float | None = None
    way: str = ""
    source_member: str = ""
    target_member: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Totals:
    """``failed`` counts jobs that ended otherwise than done; ``parked`` those of them that wait for a person."""

    jobs: int
    done: int
    failed: int
    parked: int
    bytes: int
    downtime_p50_s: float | None
    downtime_p99_s: float | None


@dataclass(frozen=True, kw_only=True)
class RefusalReport:
    """An instance that the plan leaves where it is."""

    instance: str
    project: str
    source: str
    reasons: tuple[str, ...]
    hints: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SetAsideReport:
    """A server that does not answer, and for which jobs of the plan wait."""

    server: str
    since: datetime
    reason: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """A plan and all its jobs at one moment. ``state`` is running, done, failed, paused or empty."""

    plan: str
    name: str
    state: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    totals: Totals
    jobs: tuple[JobReport, ...]
    refused: tuple[RefusalReport, ...] = ()
    set_aside: tuple[SetAsideReport, ...] = ()
    eta_s: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do by itself."""
        return self.state not in ("running", "paused")


def make_report(
    plan: Plan,
    jobs: Sequence[Job],
    progress: Mapping[str, Progress],
    now: datetime,
    set_aside: Collection[Trouble] = (),
) -> Report:
    """The report; ``progress`` by job id, ``set_aside`` are servers of whatever plan.

    No server tells how much there is to send, so times to the end are extrapolated: of the plan from the steps done so
    far, of a job from how long those that are done took.
    """
    usual = _usual_duration(jobs)
    ended = len(jobs) == len(plan.moves) and all(job.has_ended for job in jobs)
    finishes = [job.finished_at for job in jobs if job.finished_at]
    return Report(
        plan=plan.id,
        name=plan.name,
        state=_state(plan, jobs),
        created_at=plan.created_at,
        started_at=min((job.started_at for job in jobs if job.started_at), default=None),
        finished_at=max(finishes, default=plan.created_at) if ended else None,
        totals=_totals(plan, jobs, progress),
        jobs=tuple(_job(job, progress.get(job.id, Progress()), _eta(job, usual, now)) for job in jobs),
        eta_s=None if ended else _plan_eta(jobs, now),
        set_aside=_set_aside(jobs, set_aside),
        refused=tuple(
            RefusalReport(
                instance=refusal.instance,
                project=refusal.project,
                source=refusal.source,
                reasons=tuple(finding.message for finding in refusal.findings),
                hints=tuple(finding.hint for finding in refusal.findings),
            )
            for refusal in plan.refusals
        ),
    )


def _set_aside(jobs: Sequence[Job], set_aside: Collection[Trouble]) -> tuple[SetAsideReport, ...]:
    needed = {server for job in jobs if not job.has_ended for server in job.move.servers}
    needed |= {job.move.failover.remote for job in jobs if not job.has_ended and job.move.failover}
    return tuple(
        SetAsideReport(server=trouble.remote, since=trouble.since, reason=trouble.reason)
        for trouble in set_aside
        if trouble.remote in needed
    )


def _state(plan: Plan, jobs: Sequence[Job]) -> str:
    if not plan.moves:
        return "empty"
    states = {job.state for job in jobs}
    if len(jobs) < len(plan.moves) or states & {State.QUEUED, State.RUNNING, State.WAITING}:
        return "running"
    if State.PAUSED in states:
        return "paused"
    return "done" if states == {State.DONE} else "failed"


def _totals(plan: Plan, jobs: Sequence[Job], progress: Mapping[str, Progress]) -> Totals:
    downtimes = sorted(job.downtime.total_seconds() for job in jobs if job.downtime is not None)
    return Totals(
        jobs=len(plan.moves),
        done=sum(job.state is State.DONE for job in jobs),
        failed=sum(job.state in (State.PARKED, State.CANCELLED) for job in jobs),
        parked=sum(job.state is State.PARKED for job in jobs),
        bytes=sum(job.sent + progress.get(job.id, Progress()).sent for job in jobs),
        downtime_p50_s=_percentile(downtimes, 50),
        downtime_p99_s=_percentile(downtimes, 99),
    )


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    if not ordered:
        return None
    if len(ordered) == 1:
        return round(ordered[0], 3)
    return round(quantiles(ordered, n=100, method="inclusive")[percent - 1], 3)


def _usual_duration(jobs: Sequence[Job]) -> float | None:
    """The median seconds from first step to done."""
    took = [
        (job.finished_at - job.started_at).total_seconds()
        for job in jobs
        if job.state is State.DONE and job.finished_at and job.started_at
    ]
    return median(took) if took else None


def _eta(job: Job, usual: float | None, now: datetime) -> float | None:
    if usual is None or job.started_at is None or job.has_ended or job.state is State.PAUSED:
        return None
    return round(max(0.0, usual - (now - job.started_at).total_seconds()), 1)


def _plan_eta(jobs: Sequence[Job], now: datetime) -> float | None:
    share = sum(1.0 if job.has_ended else _share(job) for job in jobs) / max(1, len(jobs))
    started = min((job.started_at for job in jobs if job.started_at), default=None)
    if started is None or share <= 0:
        return None
    return round((now - started).total_seconds() * (1 - share) / share, 1)


def _job(job: Job, progress: Progress, eta: float | None) -> JobReport:
    return JobReport(
        job=job.id,
        instance=job.move.instance,
        project=job.move.project,
        source=job.move.source,
        target=job.move.target,
        source_member=job.move.source_member,
        target_member=job.move.target_member,
        name=job.move.name,
        method=job.move.method.value,
        state=job.state.value,
        phase=job.phase.value,
        step=job.step,
        blocked_on=job.blocked_on if job.state in (State.WAITING, State.PAUSED) else "",
        error=job.error if job.state is not State.DONE else None,
        attempts=job.total_attempts,
        passes=len(job.passes),
        bytes=job.sent + progress.sent,
        rate=progress.rate,
        downtime_s=round(job.downtime.total_seconds(), 3) if job.downtime is not None else None,
        started_at=job.started_at,
        finished_at=job.finished_at,
        share=round(_share(job), 3),
        eta_s=eta,
        way=str(job.facts.get("way", "")),
        notes=_notes(job),
    )


def _notes(job: Job) -> tuple[str, ...]:
    """What the operator should know although nothing failed."""
    wrecks = job.facts.get("wrecks", ())
    notes = [f"a wreck that only its server's operator can remove: {wreck}" for wreck in wrecks]
    notes += [f"no connection by {way}" for way in job.facts.get("closed_ways", ())]
    if "no_refresh" in job.facts:
        notes.append("everything was sent while it was down: its servers cannot refresh snapshots that moved before")
    if job.facts.get("stale_ran"):
        notes.append(f"{job.move.failover} came back and ran beside it until it was stopped")
    if job.facts.get("stale_kept"):
        notes.append(f"what was at home is kept, stopped and guarded: {job.facts['stale_kept']}")
    if job.move.is_refresh and job.state is State.PARKED and not job.is_committed:
        notes.append(f"`herder cancel {job.id}` puts {job.move.target}:{job.move.name} back as it was")
    return tuple(notes)


def _share(job: Job) -> float:
    if job.state is State.DONE:
        return 1.0
    at = job.reached if job.is_going_back else job.step
    return job.forward.index(at) / len(job.forward.steps) if at else 0.0
