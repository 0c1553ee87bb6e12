"""The checkpoint: record, due time, events, permits and the next wake-up change together or not at all."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from redis import Redis

from common.domain.errors import FenceLost
from common.domain.itinerary import Phase
from common.domain.job import Job, Outcome, State
from common.domain.operation import Operation, OperationRef
from common.domain.plan import Plan
from common.store.events import EventStore, pack_event
from common.store.jobs import LEASE, Claim, JobStore
from common.store.keys import Keys
from common.store.operations import OperationStore
from tests.builders import NOW, a_plan, an_error, many_moves
from tests.integration.conftest import stored
from tests.integration.wire import Wire

JOB, OTHER = "p1-1", "p1-2"
MINUTE = timedelta(minutes=1)
OFFER = OperationRef(remote="s1", id="o1")
RECEIVE = OperationRef(remote="s2", id="o2", project="shop")
SLOTS = [("s1:transfer", 1), ("s2:transfer", 1)]


def taken(store: JobStore, job_id: str = JOB) -> tuple[Claim, Job]:
    """The claim and its job, running."""
    claim = store.claim(job_id, f"owner-of-{job_id}")
    assert claim
    return claim, claim.job if claim.job.state is State.RUNNING else claim.job.taken(NOW)


def waiting_for(job: Job, *operations: OperationRef) -> Job:
    """The job, waiting for the operations."""
    return job.with_outcome(Outcome.wait("the pass", retry_in=MINUTE, operations=operations), NOW)


def ended(ref: OperationRef, status_code: int = 200) -> Operation:
    """The operation, as a listener saw it end."""
    return Operation(id=ref.id, status_code=status_code)


@pytest.mark.usefixtures("plan")
def test_a_checkpoint_on_the_way_keeps_the_job(store: JobStore, wire: Wire) -> None:
    """The lease begins anew; nobody is woken."""
    wire.take()
    claim, job = taken(store)
    wire.let_pass(JOB)
    store.commit(claim, job, keep=True)
    assert wire.wake_ups() == []
    assert store.claim(JOB, "other") is None
    due = wire.due_in_seconds(JOB)
    assert due is not None
    assert LEASE.total_seconds() - 5 < due <= LEASE.total_seconds()


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize(
    ("completed", "phase"),
    [(2, Phase.TRANSFER), (4, Phase.CUTOVER), (9, Phase.CLEANUP)],
    ids=["to the transfer", "to the cutover", "to the cleanup"],
)
def test_a_change_of_phase_is_one_message_in_its_queue(
    store: JobStore, wire: Wire, completed: int, phase: Phase
) -> None:
    """It is there as soon as the checkpoint is; the job may be claimed at once."""
    wire.take()
    claim, job = taken(store)
    for _ in range(completed):
        job = job.with_outcome(Outcome.completed(), NOW)
    assert job.phase is phase
    store.commit(claim, job)
    assert wire.wake_ups() == [(phase.value, JOB)]
    assert taken(store)[1] == job


@pytest.mark.usefixtures("plan")
def test_a_message_is_what_dramatiq_sends(store: JobStore, wire: Wire) -> None:
    """Addressed to the actor that is named like the queue, with a message id that no other message has."""
    claim, job = taken(store)
    store.commit(claim, job)
    first, second = wire.messages()
    assert first["message_id"] != second["message_id"]
    message_id = second["message_id"]
    assert second == {
        "queue_name": "preflight",
        "actor_name": "preflight",
        "args": [],
        "kwargs": {"job_id": JOB},
        "options": {"redis_message_id": message_id},
        "message_id": message_id,
        "message_timestamp": second["message_timestamp"],
    }
    assert isinstance(second["message_timestamp"], int)


@pytest.mark.usefixtures("plan")
def test_a_stale_checkpoint_changes_nothing_at_all(store: JobStore, wire: Wire) -> None:
    """Neither record nor due time, events, permits, waits or queues."""
    stale, job = taken(store)
    assert store.acquire_slots(JOB, SLOTS, MINUTE) == ""
    wire.let_pass(JOB)
    assert store.claim(JOB, "other")
    before = wire.everything()
    for outcome in (waiting_for(job, OFFER), job.to(State.DONE), job.with_outcome(Outcome.completed(), NOW)):
        with pytest.raises(FenceLost):
            store.commit(
                stale, outcome, delay=MINUTE, release=[name for name, _ in SLOTS], events=[pack_event(step="x")]
            )
    assert wire.everything() == before


@pytest.mark.usefixtures("plan")
def test_one_transfer_less_begins_where_a_cutover_goes_first(store: JobStore, redis_client: Redis, keys: Keys) -> None:
    """Those that have begun go on, cutovers too; it ends by a later checkpoint, or by itself."""
    claim, job = taken(store)
    assert store.acquire_slots("begun", [("s1:transfer", 2)], MINUTE) == ""
    store.commit(claim, job, keep=True, goes_first={"s1": MINUTE})
    assert store.acquire_slots("late", [("s1:transfer", 2)], MINUTE) == "s1:first"
    assert store.acquire_slots("begun", [("s1:transfer", 2)], MINUTE) == ""
    assert store.acquire_slots("down", [("s1:cutover", 1)], MINUTE) == ""
    assert store.acquire_slots("elsewhere", [("s2:transfer", 1)], MINUTE) == ""
    assert store.acquire_slots("wide", [("s1:transfer", 3)], MINUTE) == ""
    redis_client.zrem(keys.slots("s1:transfer"), "wide")
    redis_client.zadd(keys.first("s1"), {JOB: 1})
    assert store.acquire_slots("late", [("s1:transfer", 2)], MINUTE) == ""


def test_the_end_of_a_cutover_calls_the_transfer_that_has_waited_longest(store: JobStore, wire: Wire) -> None:
    """Without waiting for its own next look."""
    stored(a_plan(*many_moves(2)), store)
    first, job = taken(store)
    store.commit(first, job, keep=True, goes_first={"s1": MINUTE})
    other, late = taken(store, OTHER)
    assert store.acquire_slots("begun", [("s1:transfer", 2)], MINUTE) == ""
    assert store.acquire_slots(OTHER, [("s1:transfer", 2)], MINUTE) == "s1:first"
    store.commit(other, late.to(State.WAITING, blocked_on="x"), delay=MINUTE)
    wire.take()
    store.commit(first, job, keep=True, goes_first={"s1": timedelta(0)})
    assert wire.take() == [("preflight", OTHER)]


@pytest.mark.usefixtures("plan")
def test_a_waiting_job_is_woken_by_the_end_of_its_operation(
    store: JobStore, operations: OperationStore, wire: Wire
) -> None:
    """Once, into the queue of its phase; then it may be claimed before its delay has passed."""
    wire.take()
    claim, job = taken(store)
    waiting = waiting_for(job, OFFER)
    store.commit(claim, waiting, delay=MINUTE)
    assert store.claim(JOB, "early") is None
    assert wire.wake_ups() == []
    assert operations.complete("s1", ended(OFFER))
    assert wire.take() == [("preflight", JOB)]
    assert taken(store)[0].job == waiting
    assert operations.complete("s1", ended(OFFER)) is False, "the same event once more wakes nobody"
    assert wire.take() == []


@pytest.mark.usefixtures("plan")
def test_an_operation_that_ended_before_the_wait_still_wakes(
    store: JobStore, operations: OperationStore, wire: Wire
) -> None:
    """The event may be faster than the checkpoint; then its result is there already."""
    wire.take()
    claim, job = taken(store)
    assert operations.complete("s1", ended(OFFER)) is False
    store.commit(claim, waiting_for(job, OFFER), delay=MINUTE)
    assert wire.take() == [("preflight", JOB)]
    assert store.claim(JOB, "other")
    assert operations.waiting("s1") == ()


@pytest.mark.usefixtures("plan")
def test_listeners_learn_which_servers_and_operations_are_waited_for(
    store: JobStore, operations: OperationStore
) -> None:
    """With their projects, because a server lists one project at a time."""
    claim, job = taken(store)
    store.commit(claim, waiting_for(job, OFFER, RECEIVE), delay=MINUTE)
    assert operations.listening() == ("s1", "s2")
    assert operations.waiting("s1") == (OFFER,)
    assert operations.waiting("s2") == (RECEIVE,)
    operations.complete("s2", ended(RECEIVE))
    assert operations.waiting("s2") == ()


@pytest.mark.usefixtures("plan")
def test_the_end_of_one_of_two_operations_is_enough(store: JobStore, operations: OperationStore, wire: Wire) -> None:
    """The step looks at both; the end of the other one is kept for it."""
    claim, job = taken(store)
    store.commit(claim, waiting_for(job, OFFER, RECEIVE), delay=MINUTE)
    wire.take()
    operations.complete("s2", ended(RECEIVE, 400))
    assert wire.take() == [("preflight", JOB)]
    result = operations.result(RECEIVE)
    assert result
    assert result.status_code == 400
    assert operations.result(OFFER) is None


@pytest.mark.usefixtures("plan")
def test_the_end_of_an_operation_wakes_no_job_that_went_on(
    store: JobStore, operations: OperationStore, wire: Wire
) -> None:
    """A running or an ended job does not care any more."""
    claim, job = taken(store)
    store.commit(claim, waiting_for(job, OFFER, RECEIVE), delay=MINUTE)
    wire.let_pass(JOB)
    claim, job = taken(store)
    wire.take()
    operations.complete("s1", ended(OFFER))
    assert wire.take() == []
    store.commit(claim, job.to(State.PARKED, error=an_error(), finished_at=NOW))
    operations.complete("s2", ended(RECEIVE))
    assert wire.take() == []


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("state", [State.DONE, State.PARKED, State.CANCELLED, State.PAUSED])
def test_a_job_at_rest_is_not_waited_for(store: JobStore, wire: Wire, state: State) -> None:
    """It is not due, sends no message, and a control that was meant for it is settled."""
    wire.take()
    claim, job = taken(store)
    store.control(JOB, "pause")
    store.commit(claim, job.to(state, blocked_on="a person", error=an_error()))
    assert wire.due_in_seconds(JOB) is None
    assert wire.take() == []
    assert wire.job(JOB)["control"] == ""
    assert store.unfinished() == 0


@pytest.mark.usefixtures("plan")
def test_events_are_written_with_the_checkpoint_in_their_order(store: JobStore, events: EventStore) -> None:
    """And read from where one left off."""
    claim, job = taken(store)
    store.commit(claim, job, keep=True, events=[pack_event(step="a"), pack_event(step="b")])
    first = events.read("p1")
    assert [event["step"] for _, event in first] == ["a", "b"]
    store.commit(claim, job, events=[pack_event(step="c", text="ü")])
    assert [event for _, event in events.read("p1", first[-1][0])] == [{"step": "c", "text": "ü"}]
    assert events.read("p9") == []


def test_permits_are_given_back_with_the_checkpoint(
    store: JobStore, wire: Wire, redis_client: "Redis", keys: Keys
) -> None:
    """And the one that has waited longest for each is woken in the same moment."""
    stored(a_plan(*many_moves(3)), store)
    claim, job = taken(store)
    assert store.acquire_slots(JOB, SLOTS, MINUTE) == ""
    for waiter in ("p1-3", "p1-2"):
        other, waits = taken(store, waiter)
        assert store.acquire_slots(waiter, SLOTS, MINUTE) == "s1:transfer"
        store.commit(other, waiting_for(waits), delay=MINUTE)
    redis_client.zincrby(f"{keys.namespace}:queue:s1:transfer", -1000, "p1-3")  # by a second, not by its name
    wire.take()
    store.commit(claim, job.to(State.DONE, finished_at=NOW), release=[name for name, _ in SLOTS])
    assert wire.take() == [("preflight", "p1-3")]
    assert store.acquire_slots("p1-3", SLOTS, MINUTE) == ""


@pytest.mark.parametrize("fate", [State.CANCELLED, State.PARKED, State.PAUSED])
def test_a_permit_is_not_offered_to_one_that_waits_no_more(store: JobStore, wire: Wire, fate: State) -> None:
    """The next in the queue gets it."""
    stored(a_plan(*many_moves(3)), store)
    holder, job = taken(store)
    assert store.acquire_slots(JOB, SLOTS, MINUTE) == ""
    for waiter, state in (("p1-2", fate), ("p1-3", State.WAITING)):
        other, waits = taken(store, waiter)
        assert store.acquire_slots(waiter, SLOTS, MINUTE)
        store.commit(other, waits.to(state, blocked_on="x", error=an_error()), delay=MINUTE)
    wire.take()
    store.commit(holder, job.to(State.DONE, finished_at=NOW), release=["s1:transfer"])
    assert ("preflight", "p1-3") in wire.take()


@pytest.mark.usefixtures("plan")
def test_nobody_is_woken_for_a_permit_that_was_not_held(store: JobStore, wire: Wire) -> None:
    """A checkpoint may name a permit whose lease has ended meanwhile."""
    claim, job = taken(store)
    wire.take()
    store.commit(claim, job, keep=True, release=["s1:transfer"])
    assert wire.take() == []


def asked(store: JobStore, commands: Sequence[str]) -> None:
    """A person asks for these, one after the other."""
    for command in commands:
        store.control(JOB, command)


@pytest.mark.usefixtures("plan")
def test_a_checkpoint_tells_what_a_person_asked_for_meanwhile(store: JobStore) -> None:
    """So that the worker obeys before its next step."""
    claim, job = taken(store)
    assert store.commit(claim, job, keep=True) == ""
    asked(store, ["pause"])
    assert store.commit(claim, job, keep=True) == "pause"
    asked(store, ["cancel"])
    assert store.commit(claim, job, keep=True) == "cancel"


@pytest.mark.usefixtures("plan")
def test_a_cancel_during_the_last_moment_before_a_wait_wakes_at_once(store: JobStore, wire: Wire) -> None:
    """The job does not sleep through its delay first."""
    claim, job = taken(store)
    asked(store, ["cancel"])
    wire.take()
    store.commit(claim, waiting_for(job, OFFER), delay=MINUTE)
    assert wire.take() == [("preflight", JOB)]
    claim, _ = taken(store)
    assert claim.control == "cancel"


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize(
    "at", [("undo", "discard_copy"), ("warm", "start_target")], ids=["obeyed", "past the commit point"]
)
def test_a_cancel_that_is_settled_does_not_cut_waits_short(store: JobStore, wire: Wire, at: tuple[str, str]) -> None:
    """The job is on its way back, or can only go forward: it waits as long as it said."""
    claim, job = taken(store)
    asked(store, ["cancel"])
    wire.take()
    itinerary, step = at
    store.commit(claim, replace(waiting_for(job), itinerary=itinerary, step=step), delay=MINUTE)
    assert wire.take() == []
    assert store.claim(JOB, "other") is None


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("state", [State.PAUSED, State.PARKED])
def test_a_cancel_is_not_lost_when_the_job_comes_to_rest_in_that_moment(
    store: JobStore, wire: Wire, state: State
) -> None:
    """The person was told that it goes back to the source."""
    claim, job = taken(store)
    asked(store, ["pause", "cancel"])
    wire.take()
    store.commit(claim, job.to(state, blocked_on="a person", error=an_error(), finished_at=None))
    assert wire.take() == [("preflight", JOB)]
    again = store.claim(JOB, "other")
    assert again
    assert again.control == "cancel"


def test_a_cancel_of_a_committed_job_that_parks_is_settled(store: JobStore, wire: Wire, plan: Plan) -> None:
    """There is no way back for it: it stays parked for a person."""
    claim, job = taken(store)
    while not job.is_committed:
        job = job.with_outcome(Outcome.completed(), NOW)
    asked(store, ["cancel"])
    wire.take()
    store.commit(claim, job.with_outcome(Outcome.failed(an_error()), NOW))
    assert wire.take() == []
    assert wire.job(f"{plan.id}-1") == {**wire.job(JOB), "state": "parked", "control": ""}
