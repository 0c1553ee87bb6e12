"""A policy's newest run and the ages of its backups -> what somebody must know of it. Pure."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import timedelta

from common.domain.alert import Alert, Cause
from common.domain.generation import origin
from common.domain.job import Job, State
from common.domain.plan import Plan
from producer.ages import Age


def of_ages(ages: Iterable[Age]) -> Iterator[Alert]:
    """Whose last good backup is too old, or not proven."""
    for each in ages:
        if each.is_breached:
            last = f"is {_hours(each.age)} old" if each.last_good else "was never made"
            text = (
                f"policy {each.policy}: the last good backup of {each.source} on {each.target} {last}, "
                f"which is allowed to be {_hours(each.rpo)} old; `herder status` and the scheduler's log tell why"
            )
            yield Alert(cause=Cause.BREACH, policy=each.policy, subject=f"{each.source} -> {each.target}", text=text)
        if each.is_unproven:
            what = str(each.drill) if each.drill else "never"
            text = (
                f"policy {each.policy}: the backup of {each.source} on {each.target} is not proven: its last drill: "
                f"{what}; `herder backup drill {each.source.partition(':')[0]}:{each.source.rpartition('/')[2]}` makes "
                "another one"
            )
            yield Alert(cause=Cause.UNPROVEN, policy=each.policy, subject=f"{each.source} -> {each.target}", text=text)


def of_run(policy: str, plans: Sequence[Plan], jobs: Iterable[Job], told: Collection[str]) -> Iterator[Alert]:
    """Who got no generation from a run: who was refused, and whose job ended otherwise.

    One who failed before, whose new job is under way, has still failed: ``told`` are the keys of what was told.
    """
    for plan in plans:
        for refusal in plan.refusals:
            target = plan.request.archive or plan.request.targets[0]
            subject = f"{origin(refusal.source, refusal.project, refusal.instance)} -> {target}"
            reasons = "; ".join(f"{finding.message} ({finding.hint})" for finding in refusal.findings)
            yield _failure(policy, subject, f"is not backed up: {reasons}")
    for job in jobs:
        subject = f"{job.move.origin} -> {job.move.target}"
        if job.state in (State.PARKED, State.CANCELLED):
            yield _failure(policy, subject, _why(job))
        elif job.state is not State.DONE:
            again = _failure(policy, subject, f"failed before; job {job.id} is under way")
            if again.key in told:
                yield again


def _why(job: Job) -> str:
    if job.error is None:
        return f"job {job.id} is {job.state}; `herder retry {job.id}` makes it again"
    return f"job {job.id} is {job.state}: {job.error.message} ({job.error.hint or f'herder retry {job.id}'})"


def _failure(policy: str, subject: str, why: str) -> Alert:
    return Alert(cause=Cause.FAILURE, policy=policy, subject=subject, text=f"policy {policy}: {subject}: {why}")


def _hours(span: timedelta | None) -> str:
    return f"{span.total_seconds() / 3600:.1f} h" if span is not None else ""
