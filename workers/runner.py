"""One wake-up of one job: claim it, run its steps, save a checkpoint after each, and let go.

Called by the actors. Knows the store and the itineraries, not LXD; the steps know LXD, not the store.
"""

import logging
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import redis
import tenacity

from common.domain.aside import Trouble
from common.domain.errors import (
    ArchiveUnreachable,
    CopyLost,
    CutoverBroken,
    FenceLost,
    HerderError,
    PermanentError,
    ServerBusy,
    ServerUnreachable,
    TemporaryError,
)
from common.domain.itinerary import GIVE_BACK_BACKUP, GUARD_STALE, Slot, Step
from common.domain.job import GIVE_BACK_AFTER, Job, JobError, Kind, Outcome, State
from common.domain.plan import Move
from common.logs import event
from common.lxd import relay
from common.lxd.client import LxdClient
from common.store.events import pack_event
from common.store.jobs import Claim, JobStore
from common.store.memo import write_memo
from common.store.operations import OperationStore
from workers.steps.context import Carry, Context
from workers.steps.registry import STEPS

log = logging.getLogger("herder.runner")

#: A permit outlives the longest silence of a healthy job, which looks at its operations every 15 s.
SLOT_LEASE = timedelta(minutes=2)
_SLOT_RETRY = timedelta(seconds=30)
#: For so long after a step of a cutover has begun, one transfer less may begin on its servers: what makes its pass or
#: its start slow makes the downtime long. A guest may take long to stop, and meanwhile there is nothing to make slow.
_GOES_FIRST = timedelta(seconds=30)
_GOES_FIRST_UNTIL_DOWN = timedelta(seconds=2)
_FIRST_RETRY = timedelta(seconds=2)
_THE_CUTOVERS = "the cutovers on server "
#: A job that waits for a server is woken when the server is back; this is only in case a write of Redis was lost.
_ASIDE_RETRY = timedelta(minutes=10)
#: So much later than the moment from which an instance is given back, a job that waited for it is surely late enough.
_A_MOMENT = timedelta(milliseconds=50)
#: Attempts of one step until a fault that keeps coming back waits for a person. Unreachable servers do not count.
MAX_ATTEMPTS = 8
#: Backups that a worker process carries at a time, unless it is told otherwise; each takes one of its threads.
MAX_STREAMS = 4
_MAX_ATTEMPTS_OF_A_BUG = 3
_RETRY_SCHEDULE = tenacity.wait_exponential_jitter(initial=1, max=30, jitter=1)


def retry_delay(attempts: int) -> timedelta:
    """How long to wait after the given number of failed attempts of a step: exponential with jitter, at most 30 s."""
    state = tenacity.RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = attempts + 1
    return timedelta(seconds=_RETRY_SCHEDULE(state))


@dataclass
class HeldJobs:
    """The claims of this process, whose leases the keeper prolongs."""

    _claims: dict[str, Claim] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def hold(self, claim: Claim) -> Iterator[None]:
        """Keep the lease alive while the block runs."""
        with self._lock:
            self._claims[claim.job.id] = claim
        try:
            yield
        finally:
            with self._lock:
                self._claims.pop(claim.job.id, None)

    def snapshot(self) -> list[Claim]:
        """The claims held at this moment."""
        with self._lock:
            return list(self._claims.values())


@dataclass
class Runner:
    """Advances jobs. One per worker process, used by all its threads."""

    jobs: JobStore
    operations: OperationStore
    client_of: Callable[[str], LxdClient]
    held: HeldJobs = field(default_factory=HeldJobs)
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    carry: Carry = relay.carry
    streams: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(MAX_STREAMS))

    def advance(self, job_id: str) -> None:
        """Answer one wake-up: run steps until the job has to wait, changes its phase or ends."""
        claim = self.jobs.claim(job_id, uuid.uuid4().hex)
        if claim is None:
            return
        with self.held.hold(claim):
            try:
                self._run(claim)
            except FenceLost as lost:
                event(log, "job.fence_lost", job=job_id, reason=lost.message)
            except redis.RedisError as error:
                log.warning("redis.unreachable job=%s reason=%s", job_id, error)

    def _run(self, claim: Claim) -> None:
        job = _runnable(claim, self.now())
        control = claim.control
        while True:
            job, stop = self._obey(claim, job, control)
            if stop:
                return
            before = job
            job, outcome, stranded = self._attempt(claim, job)
            goes_on = job.state is State.RUNNING and job.phase is before.phase
            delay = outcome.retry_in if job.state is State.WAITING else timedelta(0)
            control = self._commit(claim, before, job, outcome, keep=goes_on, delay=delay, stranded=stranded)
            if not goes_on:
                return

    def _obey(self, claim: Claim, job: Job, control: str) -> tuple[Job, bool]:
        """Carry out what a person asked for; the job as it goes on, and whether this wake-up is over."""
        if control == "cancel" and not job.is_committed and not job.is_undoing:
            turned = job.cancelled()
            self._commit(claim, job, turned, None, keep=turned.phase is job.phase)
            return turned, turned.phase is not job.phase
        is_at_rest = not job.evidence and not job.is_quiet and job.down_at is None
        if control == "pause" and is_at_rest and not job.is_committed:
            paused = job.to(State.PAUSED, blocked_on="a person to resume it")
            self._commit(claim, job, paused, None)
            return paused, True
        return job, False

    def _attempt(self, claim: Claim, job: Job) -> tuple[Job, Outcome, tuple[str, ...]]:
        """Run the current step once and fold its outcome into the job; also the servers without which it waits."""
        troubles = self.jobs.servers.troubles()
        away = [troubles[each] for each in needed_servers(job) if each in troubles and troubles[each].is_set_aside]
        if away:
            outcome = self._stand_aside(job, away)
            return job.with_outcome(outcome, self.now()), outcome, tuple(trouble.remote for trouble in away)
        blocked = self._take_slots(job)
        if blocked:
            retry_in = _FIRST_RETRY if blocked.startswith(_THE_CUTOVERS) else _SLOT_RETRY
            outcome = Outcome.wait(blocked, retry_in=retry_in, evidence=job.evidence)
            return job.with_outcome(outcome, self.now()), outcome, ()
        try:
            ctx = self._context(claim, job)
        except HerderError as error:
            outcome = self._outcome_of(job, error)
            return job.with_outcome(outcome, self.now()), outcome, ()
        return self._run_step(ctx, troubles)

    def _stand_aside(self, job: Job, away: Sequence[Trouble]) -> Outcome:
        """Wait for servers without asking them; but an instance that is down for too long is given back first."""
        blocked_on = ", ".join(map(str, away))
        if job.move.failover and job.step == GUARD_STALE:
            blocked_on += f", to guard {job.move.failover.instance} there as soon as it answers"
        retry_in = _ASIDE_RETRY
        if job.down_at is not None and not job.is_committed and not job.is_going_back:
            left = job.down_at + GIVE_BACK_AFTER - self.now()
            if left < timedelta(0):
                error = JobError(code=ServerUnreachable.code, message=blocked_on, hint=ServerUnreachable.default_hint)
                return Outcome.retry(error, retry_in=timedelta(0))
            retry_in = left + _A_MOMENT
        return Outcome.wait(blocked_on, retry_in=retry_in, evidence=job.evidence)

    def _run_step(self, ctx: Context, troubles: Mapping[str, Trouble]) -> tuple[Job, Outcome, tuple[str, ...]]:
        begun_at = time.monotonic()
        silent, stranded = "", tuple[str, ...]()
        try:
            outcome = STEPS[ctx.job.step](ctx)
        except (FenceLost, redis.RedisError):
            raise  # nothing can be recorded; the pump sends another wake-up
        except Exception as error:  # noqa: BLE001 - a bug in one step must not take the worker down
            outcome = self._outcome_of(ctx.job, error)
            silent = error.server if isinstance(error, TemporaryError) else ""
            stranded = self._count_failure(silent, str(error))
        for remote, client in zip(ctx.move.servers, (ctx.source, ctx.target), strict=False):
            if remote in troubles and remote != silent and client.transport.answered_at >= begun_at:
                self._count_answer(remote)
        return ctx.job.with_outcome(outcome, self.now()), outcome, stranded

    def _count_failure(self, remote: str, reason: str) -> tuple[str, ...]:
        """One more request that this server, if any, did not answer; the server if it is set aside."""
        if not remote:
            return ()
        trouble, is_new = self.jobs.servers.failed(remote, reason)
        if is_new:
            since = trouble.since.isoformat(timespec="seconds")
            event(log, "server.set_aside", remote=remote, since=since, reason=reason)
        return (remote,) if trouble.is_set_aside else ()

    def _count_answer(self, remote: str) -> None:
        if self.jobs.servers.answered(remote):
            event(log, "server.back", remote=remote)

    def _context(self, claim: Claim, job: Job) -> Context:
        def save(changed: Job) -> None:
            self.jobs.commit(claim, changed, keep=True)

        def keep_alive() -> str:
            self._take_slots(job)
            return self.jobs.commit(claim, ctx.job, keep=True)

        near, far = job.move.servers[0], job.move.servers[-1]
        ctx = Context(
            job=job,
            source=self._client_at(near, job.move.source_member),
            target=self._client_at(far, job.move.target_member),
            log=self.operations,
            now=self.now,
            confirm_fence=lambda: self.jobs.renew(claim),
            save=save,
            memo=lambda changed: write_memo(changed, self.jobs.plan(changed.plan)),
            carry=self.carry,
            streams=self.streams,
            keep_alive=keep_alive,
            client_of=self.client_of,
        )
        return ctx

    def _client_at(self, remote: str, member: str) -> LxdClient:
        client = self.client_of(remote)
        return client.at(member) if member else client

    def _outcome_of(self, job: Job, error: Exception) -> Outcome:
        """Who acts next: the queue, a person, or, for a bug, first the queue and then a person."""
        known = isinstance(error, HerderError)
        stored = JobError(
            code=error.code if isinstance(error, HerderError) else "bug",
            message=error.message
            if isinstance(error, HerderError)
            else "".join(traceback.format_exception(error)[-3:]),
            hint=error.hint if isinstance(error, HerderError) else "report this with the job's record",
        )
        if isinstance(error, PermanentError):
            return Outcome.failed(stored)
        endless = isinstance(error, ServerUnreachable | ServerBusy | ArchiveUnreachable)
        limit = MAX_ATTEMPTS if isinstance(error, TemporaryError) else _MAX_ATTEMPTS_OF_A_BUG
        if not known:
            log.error("step.crashed job=%s step=%s", job.id, job.step, exc_info=error)
        if job.attempts + 1 >= limit and not endless:
            tried = replace(stored, hint=stored.hint or f"tried {job.attempts + 1} times; `herder retry {job.id}`")
            return Outcome.failed(tried)
        turns_back = isinstance(error, CutoverBroken | CopyLost)
        return Outcome.retry(stored, retry_in=retry_delay(job.attempts), turns_back=turns_back)

    def _take_slots(self, job: Job) -> str:
        limits = [] if job.is_quiet else slots_of(job, job.current)
        full = self.jobs.acquire_slots(job.id, limits, SLOT_LEASE) if limits else ""
        remote, _, role = full.rpartition(":")
        if role == "first":
            return f"{_THE_CUTOVERS}{remote}, which go first"
        return f"a {role} slot on server {remote}" if full else ""

    def _commit(
        self,
        claim: Claim,
        before: Job,
        job: Job,
        outcome: Outcome | None,
        *,
        keep: bool = False,
        delay: timedelta = timedelta(0),
        stranded: Sequence[str] = (),
    ) -> str:
        control = self.jobs.commit(
            claim,
            job,
            keep=keep,
            delay=delay,
            servers=stranded if job.state is State.WAITING else (),
            release=_slots_given_back(before, job, outcome, is_stranded=bool(stranded)),
            goes_first=_goes_first(before, job, outcome, is_stranded=bool(stranded)),
            events=[self._tell(before, job, outcome)],
        )
        return control if keep else ""

    def _tell(self, before: Job, job: Job, outcome: Outcome | None) -> bytes:
        """One event of the plan's story, also logged."""
        fields = {
            "at": self.now().isoformat(),
            "job": job.id,
            "instance": job.move.instance,
            "step": before.step,
            "outcome": outcome.kind.value if outcome else job.state.value,
            "state": job.state.value,
            "blocked_on": job.blocked_on if job.state is State.WAITING else "",
            "error": outcome.error.message if outcome and outcome.error else "",
        }
        event(log, f"step.{fields['outcome']}", **{k: v for k, v in fields.items() if k not in ("at", "outcome")})
        return pack_event(**fields)


def _runnable(claim: Claim, now: datetime) -> Job:
    """The claimed job as running; one that was parked in the moment of its cancel goes back instead."""
    job = claim.job.cancelled() if claim.job.state is State.PARKED else claim.job
    return job if job.state is State.RUNNING else job.taken(now)


def needed_servers(job: Job) -> tuple[str, ...]:
    """The servers without which the current step can do nothing.

    To give an instance back, or to undo what a hook has made quiet in it, takes its source alone.
    """
    if job.move.failover and job.step == GUARD_STALE:
        return (job.move.failover.remote,)
    gives_back = job.step in {step.name for step in GIVE_BACK_BACKUP.steps}
    return (job.move.source,) if gives_back or job.is_quiet else job.move.servers


def slots_of(job: Job, step: Step) -> list[tuple[str, int]]:
    """``(resource, limit)`` of each permit that a step needs: one on each server of its move."""
    move, limits = job.move, job.limits
    if step.slot is None:
        return []
    of_role = {
        Slot.TRANSFER: (limits.per_source, limits.per_target),
        Slot.CUTOVER: (limits.cutovers, limits.cutovers),
    }[step.slot]
    sides = zip((move.source_place, move.target_place), of_role, strict=True)
    return [(f"{place}:{step.slot.value}", limit) for place, limit in sides if place in _places(move)]


def _places(move: Move) -> tuple[str, ...]:
    """Where it needs permits: an archive counts none."""
    return tuple(place for place in (move.source_place, move.target_place) if place != move.archive)


def _slots_given_back(before: Job, job: Job, outcome: Outcome | None, *, is_stranded: bool) -> list[str]:
    """What the job does not need any more: after a change of slot, at its end, and while a fault makes it wait."""
    held = [resource for resource, _ in slots_of(before, before.current)]
    rests = _rests(job, outcome, is_stranded=is_stranded)
    return held if rests or job.current.slot is not before.current.slot else []


def _goes_first(before: Job, job: Job, outcome: Outcome | None, *, is_stranded: bool) -> dict[str, timedelta]:
    """Where one transfer less may begin from now on, and for how long; zero where that is over."""
    places = _places(job.move)
    if job.current.slot is Slot.CUTOVER and not _rests(job, outcome, is_stranded=is_stranded):
        time = _GOES_FIRST if job.is_down else _GOES_FIRST_UNTIL_DOWN
        return {} if job.step == before.step else dict.fromkeys(places, time)
    return dict.fromkeys(places, timedelta(0)) if before.current.slot is Slot.CUTOVER else {}


def _rests(job: Job, outcome: Outcome | None, *, is_stranded: bool) -> bool:
    failed = is_stranded or (outcome is not None and outcome.kind is Kind.RETRY)
    return job.has_ended or job.state is State.PAUSED or failed
