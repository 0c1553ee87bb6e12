"""Where a job stands, read from the servers alone. Called by ``producer.recover`` when Redis has lost the record.

The servers know what matters: the guard says whether the source may run, the marks of the copy how complete it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from common.domain.instance import Instance
from common.domain.itinerary import GIVE_BACK
from common.domain.job import Job, State
from common.domain.plan import Method
from common.domain.volume import COPIED_BY, Volume


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What the job's profile on the source tells: ``state`` is ``guards``, ``handed-over`` or ``open``."""

    state: str = ""
    since: str = ""


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What a job has left on its source and its target. None: there is no such instance."""

    source: Instance | None
    copy: Instance | None
    guard: Guard = Guard()


def continued_volume(job: Job, there: Volume | None, marked: Iterable[Volume]) -> Job:
    """As ``continued``, for a volume that goes by itself.

    ``there`` has its name on the target, and the ``marked`` bear the marks of this job. It looks at everything again,
    and a complete copy is not trusted: the source may have changed since.
    """
    if there is not None and there.config.get(COPIED_BY) == job.id:
        return _at(job, _after_commit(job))
    following = max((int(each.marks.get("pass", "-1")) + 1 for each in marked), default=0)
    return _at(job, job.forward.steps[0].name, next_pass=following, whole_from=following)


def continued(job: Job, traces: Traces) -> Job | None:
    """The job at the step that comes next; None if nothing is left to do.

    ``job`` is as its memo tells. Whatever was under way is looked at again by its step.
    """
    source, copy = traces.source, _own(job, traces.copy)
    if job.move.is_copy:
        return _copied(job, copy)
    if source is None or _own(job, source) is None or source.is_retired:
        return _at(job, _cleanup(job)) if copy else None
    if traces.guard.state == "handed-over" or (copy is not None and not copy.is_guarded):
        return _at(job, _after_commit(job))
    was_running = bool(job.facts.get("was_running"))
    if source.is_guarded or (was_running and not source.is_running):
        return _given_back(_numbered(job, copy), traces.guard.since)
    return _forward(_numbered(job, copy), copy)


def _copied(job: Job, copy: Instance | None) -> Job | None:
    """A copy that is complete is accepted by its full pass, and not sent again; a refresh goes on from what is kept."""
    if job.move.is_refresh:
        is_free = copy is not None and not copy.is_guarded
        return _at(job, "drop_kept") if is_free else _at(_numbered(job, copy), "claim_copy")
    if copy is None:
        return None
    if job.move.failover and not copy.is_guarded:
        return _at(job, _after_commit(job))
    return _at(_numbered(job, copy), "full_pass") if copy.is_guarded else _at(job, _cleanup(job))


def _own(job: Job, instance: Instance | None) -> Instance | None:
    return instance if instance is not None and instance.marks.get("job") == job.id else None


def _at(job: Job, step: str, **facts: Any) -> Job:
    """Queued at a step of its way forward."""
    rested = replace(job, state=State.QUEUED, attempts=0, give_backs=0, reached="", undo_then="", finished_at=None)
    return replace(rested, itinerary=job.forward.name, step=step, facts={**job.facts, **facts})


def _cleanup(job: Job) -> str:
    """What follows when the source was dealt with."""
    return "release_volumes" if job.move.volumes else "drop_snapshots"


def _after_commit(job: Job) -> str:
    steps = job.forward.steps
    return next(after.name for step, after in pairwise(steps) if step.commit)


def _numbered(job: Job, copy: Instance | None) -> Job:
    """No pass gets the number of an earlier one."""
    following = int(copy.marks.get("pass", "-1")) + 1 if copy else 0
    facts = {"next_pass": max(following, int(job.facts.get("next_pass", 0)))}
    if job.move.method.stops_first:
        facts["whole_from"] = facts["next_pass"]  # nobody knows whether the source has run since
    return replace(job, facts={**job.facts, **facts})


def _given_back(job: Job, since: str) -> Job:
    """It was in its cutover: the source runs again first, and the passes go on from the copy that is there."""
    reached = "final_pass" if job.move.method is Method.WARM else "full_pass"
    at = _at(job, reached, **({"down_at": since} if since else {"down_at": job.created_at.isoformat()}))
    return replace(at, itinerary=GIVE_BACK.name, step=GIVE_BACK.steps[0].name, reached=reached, undo_then="resume")


def _forward(job: Job, copy: Instance | None) -> Job:
    if copy is None:
        return _at(job, job.forward.steps[0].name)
    if job.move.method.stops_first:
        return _at(job, "stop_source")
    # A refresh that broke off has a whole copy to go on from, which a full pass would throw away.
    is_refresh = copy.marks.get("state") == "receiving" and int(copy.marks.get("pass", "0")) > 0
    return _at(job, "refresh_passes" if is_refresh else "full_pass")
