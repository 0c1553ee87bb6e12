"""Plan -> jobs in the store and their first wake-ups. Submitting twice changes nothing."""

import string
from datetime import UTC, datetime

from common.domain.job import Job
from common.domain.plan import Plan
from common.store.jobs import JobStore

#: Of the ids of plans. No vowels: an id is never a word.
ID_ALPHABET = "".join(c for c in string.ascii_lowercase + string.digits if c not in "aeiou01l")


def submit(plan: Plan, store: JobStore) -> int:
    """Store the plan and create every job that is not there yet; how many were new.

    A producer that dies in here is no harm: the plan was stored first, and the next call creates the rest. Of two plans
    with one id the first that was stored counts.
    """
    if not store.save_plan(plan):
        plan = store.plan(plan.id)
    now = datetime.now(UTC)
    created = sum(store.create(Job.of_move(plan, number, now)) for number in range(len(plan.moves)))
    store.wait_durable()
    return created
