"""Plan -> jobs in the store and their first wake-ups. Submitting twice changes nothing."""

from datetime import UTC, datetime

from common.domain.job import Job
from common.domain.plan import Plan
from common.store.jobs import JobStore


def submit(plan: Plan, store: JobStore) -> int:
    """Store the plan and create every job that is not there yet; how many were new.

    A producer that dies in here is no harm: the plan was stored first, and the next call creates the rest.
    """
    store.save_plan(plan)
    now = datetime.now(UTC)
    created = sum(store.create(Job.of_move(plan, number, now)) for number in range(len(plan.moves)))
    store.wait_durable()
    return created
