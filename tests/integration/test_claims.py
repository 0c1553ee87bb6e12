"""Claims: who may change a job, until when, and how somebody else takes over."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from common.domain.errors import FenceLost
from common.domain.job import Job, Outcome, State
from common.domain.plan import Plan
from common.store.jobs import LEASE, Claim, JobStore
from tests.builders import NOW, a_job, an_error
from tests.integration.wire import Wire

JOB = "p1-1"
MINUTE = timedelta(minutes=1)


def claimed(store: JobStore, owner: str = "me", *, ended_too: bool = False) -> Claim:
    """A claim that is expected to succeed."""
    claim = store.claim(JOB, owner, ended_too=ended_too)
    assert claim is not None
    return claim


def left_in(state: State, store: JobStore, *, delay: timedelta = MINUTE) -> Job:
    """Bring the job into this state and let go of it."""
    claim = claimed(store)
    error = an_error() if state is State.PARKED else None
    job = replace(claim.job, state=state, blocked_on="something", error=error)
    store.commit(claim, job, delay=delay)
    return job


def test_a_queued_job_is_claimed_with_its_record(plan: Plan, store: JobStore, wire: Wire) -> None:
    """The claim has the job as stored; the lease has begun, and nothing is overdue before it ends."""
    claim = claimed(store)
    assert claim.job == Job.of_move(plan, 0, NOW)
    assert (claim.version, claim.control) == (1, "")
    assert (wire.job(JOB)["state"], wire.job(JOB)["owner"]) == ("running", "me")
    due = wire.due_in_seconds(JOB)
    assert due is not None
    assert LEASE.total_seconds() - 5 < due <= LEASE.total_seconds()


@pytest.mark.usefixtures("plan")
def test_a_held_job_is_not_claimed_by_another(store: JobStore) -> None:
    """Its holder may be slow, but lives."""
    claimed(store, "me")
    assert store.claim(JOB, "other") is None


@pytest.mark.usefixtures("plan")
def test_after_the_lease_another_takes_over_from_the_checkpoint(store: JobStore, wire: Wire) -> None:
    """With a larger version, so that the first one can be told apart."""
    first = claimed(store, "me")
    checkpoint = first.job.taken(NOW).noted({"offer": "o1"})
    store.commit(first, checkpoint, keep=True)
    wire.let_pass(JOB)
    second = claimed(store, "other")
    assert second.job == checkpoint
    assert second.version > first.version


@pytest.mark.usefixtures("plan")
def test_who_lost_the_lease_can_change_nothing(store: JobStore, wire: Wire) -> None:
    """Neither prolong it nor save: the other one is at work."""
    first = claimed(store, "me")
    wire.let_pass(JOB)
    claimed(store, "other")
    before = wire.everything()
    with pytest.raises(FenceLost, match=f"job {JOB} belongs to another worker now"):
        store.renew(first)
    with pytest.raises(FenceLost, match=f"job {JOB} belongs to another worker now"):
        store.commit(first, first.job.taken(NOW))
    assert wire.everything() == before


@pytest.mark.usefixtures("plan")
def test_a_lapsed_lease_can_be_renewed_as_long_as_nobody_took_the_job(store: JobStore, wire: Wire) -> None:
    """A worker that slept too long goes on if it was not missed."""
    claim = claimed(store)
    wire.let_pass(JOB)
    store.renew(claim)
    assert store.claim(JOB, "other") is None


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize(
    ("owner", "newer"), [("me", 1), ("me", -1), ("other", 0)], ids=["version ahead", "version behind", "owner"]
)
def test_the_fence_is_the_version_and_the_owner(store: JobStore, wire: Wire, owner: str, newer: int) -> None:
    """Either alone could repeat after a Redis has lost writes."""
    claim = claimed(store, "me")
    forged = replace(claim, owner=owner, version=claim.version + newer)
    before = wire.everything()
    with pytest.raises(FenceLost):
        store.renew(forged)
    with pytest.raises(FenceLost):
        store.commit(forged, claim.job.taken(NOW), keep=True)
    assert wire.everything() == before
    store.renew(claim)


@pytest.mark.usefixtures("plan")
def test_a_job_that_was_given_up_is_nobodys(store: JobStore) -> None:
    """Its last holder cannot change it any more either."""
    claim = claimed(store)
    store.commit(claim, claim.job.taken(NOW).to(State.WAITING, blocked_on="x"), delay=MINUTE)
    with pytest.raises(FenceLost):
        store.renew(claim)


@pytest.mark.usefixtures("plan")
def test_a_waiting_job_is_not_claimed_before_its_time(store: JobStore, wire: Wire) -> None:
    """A stray wake-up is no reason to look at a server again."""
    waiting = left_in(State.WAITING, store)
    assert store.claim(JOB, "me") is None
    wire.let_pass(JOB)
    assert claimed(store).job == waiting


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("state", [State.DONE, State.PARKED, State.CANCELLED, State.PAUSED])
def test_a_job_at_rest_is_only_claimed_for_a_person(store: JobStore, state: State) -> None:
    """A stray wake-up must not bring it back to life."""
    rested = left_in(state, store)
    assert store.claim(JOB, "me") is None
    claim = claimed(store, ended_too=True)
    assert claim.job == rested
    assert store.claim(JOB, "other", ended_too=True) is None, "one person at a time"


def test_an_unknown_job_is_not_claimed(store: JobStore) -> None:
    """A message may outlive its plan."""
    assert store.claim("nobody-1", "me") is None
    assert store.job("nobody-1") is None


@pytest.mark.usefixtures("plan")
def test_one_of_many_gets_the_job(store: JobStore) -> None:
    """However many wake-ups are answered at the same time."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        claims = list(pool.map(lambda number: store.claim(JOB, f"worker-{number}"), range(64)))
    assert len([claim for claim in claims if claim]) == 1


@pytest.mark.usefixtures("plan")
def test_a_committed_record_is_what_everybody_reads(store: JobStore) -> None:
    """By job and by plan."""
    claim = claimed(store)
    fault = Outcome.retry(an_error(), retry_in=MINUTE)
    job = a_job("full_pass").taken(NOW).with_outcome(fault, NOW)
    store.commit(claim, job, delay=MINUTE)
    assert store.job(JOB) == job
    assert store.jobs("p1") == (job,)
