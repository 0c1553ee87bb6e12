"""Every state that a job can reach, found by trying everything that can happen to it, over and over.

Counters that only grow are held still where the rules do not look at them, so that the number of records is finite.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache

from common.domain.job import MAX_GIVE_BACKS, Job, JobError, Kind, Outcome, State
from common.domain.plan import Method
from tests.builders import NOW, a_job

LATER = NOW + timedelta(hours=1)
FAULT = JobError(code="server_unreachable", message="no answer")
VERDICT = JobError(code="stop_refused", message="the guest did not obey", hint="raise the grace")


@dataclass(frozen=True)
class Change:
    """What happened to a job, and what became of it."""

    event: str
    before: Job
    after: Job

    def __str__(self) -> str:
        return f"{self.event}: {described(self.before)} -> {described(self.after)}"


def described(job: Job) -> str:
    """A record in a few words."""
    return f"{job.state} at {job.itinerary}/{job.step} (reached {job.reached or '-'}, {job.give_backs} give-backs)"


def everything_that_can_happen(job: Job) -> Iterator[tuple[str, Job]]:
    """What workers and people can do to a job in this state."""
    match job.state:
        case State.QUEUED | State.WAITING:
            yield "taken", job.taken(NOW)
        case State.PAUSED:
            yield "resumed", job.to(State.QUEUED, blocked_on="")
            if not job.is_committed:
                yield "taken to be cancelled", job.taken(NOW)
        case State.PARKED:
            yield "retried", job.retried()
            if not job.is_committed:
                yield "cancelled", job.cancelled()
            elif not job.move.is_copy and not job.move.is_of_volume:
                yield "brought back", job.brought_back()
        case State.CANCELLED:
            yield "retried", job.retried()
        case State.RUNNING:
            yield from _in_the_hands_of_a_worker(job)
        case State.DONE if not job.move.is_copy and not job.move.is_of_volume:
            yield "brought back", job.brought_back()


def _in_the_hands_of_a_worker(job: Job) -> Iterator[tuple[str, Job]]:
    yield "completed", job.with_outcome(Outcome(kind=Kind.COMPLETED, facts=_learned_at(job.step)), NOW)
    if job.step == "refresh_passes":
        yield "again", job.with_outcome(Outcome.again(), NOW)
    if job.step in ("discard_copy", "discard_export", "discard_import", "discard_volume"):
        yield "found handed over", job.with_outcome(Outcome.goes_forward(), NOW)
    yield "wait", job.with_outcome(Outcome.wait("a slot", retry_in=timedelta(seconds=1)), NOW)
    yield "fault", job.with_outcome(Outcome.retry(FAULT, retry_in=timedelta(seconds=1)), NOW)
    yield "fault after an hour", job.with_outcome(Outcome.retry(FAULT, retry_in=timedelta(seconds=1)), LATER)
    broken = Outcome.retry(FAULT, retry_in=timedelta(seconds=1), turns_back=True)
    yield "fault that turns back", job.with_outcome(broken, NOW)
    yield "verdict", job.with_outcome(Outcome.failed(VERDICT), NOW)
    yield "paused", job.to(State.PAUSED, blocked_on="a person to resume it")
    if not job.is_committed:
        yield "cancelled", job.cancelled()


def _learned_at(step: str) -> dict[str, str]:
    """The facts by which the rules know whether the instance is down."""
    if step == "stop_source":
        return {"down_at": NOW.isoformat()}
    return {"up_at": LATER.isoformat()} if step == "verify_target" else {}


def _held_still(job: Job) -> Job:
    return replace(job, attempts=0, total_attempts=0, give_backs=min(job.give_backs, MAX_GIVE_BACKS), evidence={})


@cache
def all_changes(method: Method) -> tuple[Change, ...]:
    """Every change that can happen to a job of this method, from its creation on."""
    found: list[Change] = []
    first = a_job(method=method)
    known, to_visit = {repr(first)}, [first]
    while to_visit:
        before = to_visit.pop()
        for event, after in everything_that_can_happen(before):
            found.append(Change(event, before, after))
            still = _held_still(after)
            if repr(still) not in known:
                known.add(repr(still))
                to_visit.append(still)
    return tuple(found)
