"""Wake-ups: none is lost for ever, none is sent without need, and what a person asks for is heard."""

from dataclasses import replace
from datetime import timedelta

import pytest
from redis import Redis

from common.domain.job import Outcome, State
from common.domain.plan import Plan
from common.store.jobs import LEASE, JobStore
from common.store.keys import Keys
from tests.builders import NOW, a_plan, an_error, many_moves
from tests.integration.conftest import stored
from tests.integration.wire import Wire

JOB = "p1-1"
MINUTE = timedelta(minutes=1)


def leave(store: JobStore, state: State, *, job_id: str = JOB, step: str = "check_source") -> None:
    """Bring a job into this state at this step and let go of it."""
    claim = store.claim(job_id, "me")
    assert claim
    store.commit(claim, replace(claim.job, state=state, step=step, blocked_on="x", error=an_error()), delay=MINUTE)


def test_a_new_job_sends_its_first_wake_up(plan: Plan, wire: Wire) -> None:
    """Into the queue of its first phase."""
    assert wire.wake_ups() == [("preflight", plan.job_id(0))]


@pytest.mark.usefixtures("plan")
def test_a_wake_up_that_nobody_answered_is_sent_again(store: JobStore, wire: Wire) -> None:
    """Redis was restarted from an older file, or the worker that had taken it died."""
    wire.take()
    assert store.pump() == 0
    assert wire.take() == []
    wire.let_pass(JOB)
    assert store.pump() == 1
    assert wire.take() == [("preflight", JOB)]


@pytest.mark.usefixtures("plan")
def test_it_is_not_sent_again_at_every_look(store: JobStore, wire: Wire) -> None:
    """Only after it had time to be answered."""
    wire.let_pass(JOB)
    wire.take()
    assert [store.pump() for _ in range(3)] == [1, 0, 0]
    assert len(wire.take()) == 1


@pytest.mark.usefixtures("plan")
def test_a_job_whose_worker_died_is_sent_again_after_its_lease(store: JobStore, wire: Wire) -> None:
    """And can be claimed then; not before, though it was overdue when it was claimed."""
    wire.let_pass(JOB)
    assert store.claim(JOB, "dead")
    wire.take()
    store.pump()
    assert wire.take() == []
    wire.let_pass(JOB)
    store.pump()
    assert wire.take() == [("preflight", JOB)]
    assert store.claim(JOB, "other")


@pytest.mark.usefixtures("plan")
def test_a_renewed_lease_keeps_the_job_from_being_sent_again(store: JobStore, wire: Wire) -> None:
    """The keeper renews it as long as the step runs."""
    claim = store.claim(JOB, "me")
    assert claim
    wire.let_pass(JOB)
    wire.take()
    store.renew(claim)
    assert store.pump() == 0
    assert wire.take() == []
    due = wire.due_in_seconds(JOB)
    assert due is not None
    assert due > LEASE.total_seconds() - 5


@pytest.mark.usefixtures("plan")
def test_a_delay_that_has_passed_wakes_the_job(store: JobStore, wire: Wire) -> None:
    """So a step that waits looks again: the wake-up makes the job claimable."""
    leave(store, State.WAITING, step="final_pass")
    wire.take()
    store.pump()
    assert wire.take() == []
    wire.let_pass(JOB)
    store.pump()
    assert wire.take() == [("cutover", JOB)]
    assert store.claim(JOB, "me")


def test_an_urgent_job_is_sent_again_behind_any_backlog(store: JobStore, wire: Wire) -> None:
    """However many jobs are overdue because their queue is long, an instance that is down is not forgotten."""
    stored(a_plan(*many_moves(30)), store)
    leave(store, State.WAITING, job_id="p1-30", step="final_pass")
    for number in range(30):
        wire.let_pass(f"p1-{number + 1}")
    wire.take()
    for _ in range(4):
        store.pump(limit=10)
    assert ("cutover", "p1-30") in wire.take()


def test_a_long_queue_is_slow_and_not_lost(store: JobStore, wire: Wire) -> None:
    """While many wake-ups wait to be answered, none of them is doubled."""
    stored(a_plan(*many_moves(250)), store)
    for number in range(250):
        wire.let_pass(f"p1-{number + 1}")
    for _ in range(3):
        store.pump()
    assert len(wire.take()) == 250


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("state", [State.DONE, State.PARKED, State.CANCELLED, State.PAUSED])
def test_a_job_at_rest_is_forgotten_by_the_pump(
    store: JobStore, wire: Wire, redis_client: "Redis", keys: Keys, state: State
) -> None:
    """Even if a stray entry says that it is due."""
    leave(store, state)
    redis_client.zadd(keys.due, {JOB: 1})
    wire.take()
    store.pump()
    assert wire.take() == []
    assert store.unfinished() == 0


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("command", ["pause", "cancel"])
def test_what_is_asked_of_a_waiting_job_wakes_it(store: JobStore, wire: Wire, command: str) -> None:
    """It does not wait for its delay to pass; the next holder is told."""
    leave(store, State.WAITING)
    wire.take()
    assert store.control(JOB, command) is State.WAITING
    assert wire.take() == [("preflight", JOB)]
    claim = store.claim(JOB, "me")
    assert claim
    assert claim.control == command


@pytest.mark.usefixtures("plan")
def test_what_is_asked_of_a_running_job_is_heard_at_its_next_checkpoint(store: JobStore, wire: Wire) -> None:
    """Nobody else is woken."""
    claim = store.claim(JOB, "me")
    assert claim
    wire.take()
    assert store.control(JOB, "cancel") is State.RUNNING
    assert wire.take() == []
    assert store.commit(claim, claim.job.taken(NOW), keep=True) == "cancel"


@pytest.mark.usefixtures("plan")
def test_a_paused_job_is_only_woken_to_be_cancelled(store: JobStore, wire: Wire) -> None:
    """Any other wake-up finds it paused; and if the wake-up of the cancel is lost, it is sent again."""
    leave(store, State.PAUSED)
    assert store.claim(JOB, "me") is None
    wire.take()
    assert store.control(JOB, "cancel") is State.PAUSED
    wire.take()
    wire.let_pass(JOB)
    store.pump()
    assert wire.take() == [("preflight", JOB)]
    claim = store.claim(JOB, "me")
    assert claim
    assert (claim.job.state, claim.control) == (State.PAUSED, "cancel")


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("state", [State.DONE, State.PARKED, State.CANCELLED])
def test_nothing_can_be_asked_of_an_ended_job(store: JobStore, wire: Wire, state: State) -> None:
    """Its state is the answer; it stays as it is."""
    leave(store, state)
    before = wire.everything()
    assert store.control(JOB, "cancel") is state
    assert wire.everything() == before


def test_nothing_can_be_asked_of_an_unknown_job(store: JobStore) -> None:
    """There is no state to answer with."""
    assert store.control("nobody-1", "cancel") is None


@pytest.mark.usefixtures("plan")
def test_a_resume_takes_back_a_pause_and_no_cancel(store: JobStore, wire: Wire) -> None:
    """Who cancelled was told that the instance goes back."""
    store.control(JOB, "pause")
    store.control(JOB, "resume")
    assert wire.job(JOB)["control"] == ""
    store.control(JOB, "cancel")
    store.control(JOB, "resume")
    assert wire.job(JOB)["control"] == "cancel"


@pytest.mark.usefixtures("plan")
def test_a_pause_does_not_take_back_a_cancel(store: JobStore, wire: Wire) -> None:
    """An interrupted command asks all jobs to pause, those too that were told to go back."""
    store.control(JOB, "cancel")
    store.control(JOB, "pause")
    assert wire.job(JOB)["control"] == "cancel"


@pytest.mark.usefixtures("plan")
def test_spurious_wake_ups_do_no_harm(store: JobStore) -> None:
    """The first one that is answered takes the job; the others find nothing to do."""
    leave(store, State.WAITING)
    store.control(JOB, "resume")
    store.control(JOB, "resume")
    first = store.claim(JOB, "me")
    assert first
    assert store.claim(JOB, "other") is None
    store.commit(first, first.job.taken(NOW).with_outcome(Outcome.wait("x", retry_in=MINUTE), NOW), delay=MINUTE)
    assert store.claim(JOB, "other") is None
