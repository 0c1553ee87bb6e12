"""Store -> Report, as things are at this moment. Used by every face that shows a plan."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from common.domain.errors import InputError, RecordLost
from common.domain.job import Job, State
from common.store.jobs import JobStore
from common.store.operations import OperationStore
from producer.report import Progress, Report, make_report


def read_report(plan_id: str, jobs: JobStore, operations: OperationStore) -> Report:
    """The report of one plan now. Raises InputError if there is no such plan."""
    plan = jobs.plan(plan_id)
    records = jobs.jobs(plan_id)
    progress = {job.id: _progress(job, operations) for job in records}
    return make_report(plan, records, progress, datetime.now(UTC), jobs.servers.set_aside())


def _progress(job: Job, operations: OperationStore) -> Progress:
    if job.state is not State.WAITING:
        return Progress()
    on_source = [ref for ref in job.operations if ref.remote == job.move.source]
    sent, rate = operations.progress(on_source[0]) if on_source else (0, 0)
    return Progress(sent=sent, rate=rate)


def has_ended(report: Report) -> bool:
    """Whether nothing is left to do by itself."""
    return report.has_ended


def follow(
    plan_id: str,
    jobs: JobStore,
    operations: OperationStore,
    pause: Callable[[], None],
    is_over: Callable[[Report], bool] = has_ended,
) -> Iterator[Report]:
    """Reports, one after the other, ``pause`` between them, until it is over; the last one is yielded too.

    Raises RecordLost if the plan vanishes meanwhile.
    """
    report = read_report(plan_id, jobs, operations)
    while True:
        yield report
        if is_over(report):
            return
        pause()
        try:
            report = read_report(plan_id, jobs, operations)
        except InputError as error:
            raise RecordLost(f"Redis has lost plan {plan_id}") from error
