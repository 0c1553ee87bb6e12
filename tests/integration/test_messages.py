"""Scripts push, dramatiq delivers: real messages through the real broker, and what it does when Redis is away."""

import queue
import threading
import time
from collections.abc import Callable, Iterator

import dramatiq
import pytest
import redis
from dramatiq.broker import MessageProxy
from dramatiq.errors import ConnectionClosed, DecodeError
from redis import Redis

from common.domain.itinerary import Phase
from common.domain.job import State
from common.messages import QUEUES
from common.store.connect import connect
from common.store.jobs import JobStore
from common.store.keys import Keys
from tests.builders import NOW, a_plan, many_moves
from tests.integration.conftest import stored
from tests.integration.redis_server import RedisServer
from tests.integration.wire import Wire
from workers.actors import declare_actors
from workers.broker import MsgpackEncoder, WakeUpBroker, build_broker

#: Only reached by a test that fails.
PATIENCE = 20.0


@pytest.fixture
def broker(redis_url: str, redis_client: "Redis", keys: Keys) -> WakeUpBroker:
    """The broker of a worker process on the test's namespace."""
    assert redis_client.ping()
    return build_broker(connect(redis_url, patient=False), keys.dramatiq)


@pytest.fixture
def answered() -> "queue.Queue[str]":
    """The job ids for which a wake-up was answered."""
    return queue.Queue()


@pytest.fixture
def worker(broker: WakeUpBroker, answered: "queue.Queue[str]") -> Iterator[dramatiq.Worker]:
    """A running dramatiq worker whose actors only take note."""
    declare_actors(broker, answered.put)
    running = dramatiq.Worker(broker, worker_timeout=50, worker_threads=2)
    running.start()
    yield running
    running.stop()


def eventually(is_so: Callable[[], object]) -> None:
    """Wait until it is so; a test fails if it never is."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.01)


@pytest.mark.usefixtures("plan", "worker")
def test_a_wake_up_of_a_script_reaches_the_runner(answered: "queue.Queue[str]") -> None:
    """With the job's id, decoded from what Lua has packed."""
    assert answered.get(timeout=PATIENCE) == "p1-1"


@pytest.mark.usefixtures("worker")
def test_every_phase_is_answered_and_every_message_settled(
    store: JobStore, wire: Wire, answered: "queue.Queue[str]", redis_client: "Redis", keys: Keys
) -> None:
    """No queue without an actor; an answered message leaves nothing behind."""
    stored(a_plan(*many_moves(5)), store)
    steps = {
        "check_source": Phase.PREFLIGHT,
        "full_pass": Phase.TRANSFER,
        "final_pass": Phase.CUTOVER,
        "retire_source": Phase.CLEANUP,
        "cancel_pass": Phase.UNDO,
    }
    assert set(steps.values()) == set(QUEUES)
    for _ in range(5):
        answered.get(timeout=PATIENCE)
    for number, step in enumerate(steps):
        claim = store.claim(f"p1-{number + 1}", "me")
        assert claim
        way = "undo" if step == "cancel_pass" else "warm"
        changes = {"itinerary": way, "step": step, "reached": "full_pass"}
        job = claim.job.taken(NOW).to(State.RUNNING, **changes)
        store.commit(claim, job)
    assert {answered.get(timeout=PATIENCE) for _ in range(5)} == {f"p1-{n}" for n in range(1, 6)}
    eventually(lambda: not redis_client.keys(f"{keys.dramatiq}:*.msgs"))
    assert wire.messages() == []


def test_an_actor_that_fails_does_not_stop_the_worker(broker: WakeUpBroker, store: JobStore) -> None:
    """Its message is given up, for the pump sends another; the next one is answered."""
    seen: queue.Queue[str] = queue.Queue()

    def advance(job_id: str) -> None:
        seen.put(job_id)
        if job_id == "p1-1":
            raise ZeroDivisionError

    declare_actors(broker, advance)
    running = dramatiq.Worker(broker, worker_timeout=50, worker_threads=1)
    running.start()
    try:
        stored(a_plan(*many_moves(3)), store)
        assert {seen.get(timeout=PATIENCE) for _ in range(3)} == {"p1-1", "p1-2", "p1-3"}
    finally:
        running.stop()
    assert not broker.tainted.is_set()


def test_there_is_one_actor_for_each_queue_and_no_delay_queue(broker: WakeUpBroker) -> None:
    """Waiting is done in the job's record, where an outage cannot lose it; so dramatiq gets no options either."""
    actors = declare_actors(broker, lambda _: None)
    assert set(actors) == set(QUEUES) == set(Phase)
    assert all(actor.queue_name == actor.actor_name == phase for phase, actor in actors.items())
    assert all(not actor.options for actor in actors.values())
    assert broker.get_declared_queues() == set(QUEUES)
    assert broker.get_declared_delay_queues() == set()
    assert broker.middleware == []


def test_wake_ups_of_a_worker_that_was_killed_are_given_to_others(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, keys: Keys, store: JobStore
) -> None:
    """It had taken a message and never answered it; the maintenance of any other worker finds it."""
    monkeypatch.setattr("workers.broker.HEARTBEAT_TIMEOUT_MS", 100)
    dead, alive = (build_broker(connect(redis_url, patient=False), keys.dramatiq) for _ in range(2))
    stored(a_plan(), store)
    taken = next(dead.consume(Phase.PREFLIGHT))
    assert taken
    assert taken.kwargs == {"job_id": "p1-1"}
    found: list[MessageProxy] = []

    def given_to_the_other() -> bool:
        alive.maintain()
        message = next(alive.consume(Phase.PREFLIGHT))
        found.extend([message] if message else [])
        return bool(found)

    eventually(given_to_the_other)
    assert found[0].message_id == taken.message_id


def test_wake_ups_of_a_worker_that_shows_life_stay_with_it(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, keys: Keys, store: JobStore
) -> None:
    """Its keeper does the maintenance, though its consumers have nothing to fetch."""
    monkeypatch.setattr("workers.broker.HEARTBEAT_TIMEOUT_MS", 60_000)
    busy, other = (build_broker(connect(redis_url, patient=False), keys.dramatiq) for _ in range(2))
    stored(a_plan(), store)
    assert next(busy.consume(Phase.PREFLIGHT))
    for _ in range(5):
        busy.maintain()
        other.maintain()
        assert next(other.consume(Phase.PREFLIGHT)) is None


def test_wake_ups_that_were_not_begun_are_given_back_at_an_orderly_stop(
    broker: WakeUpBroker, store: JobStore, wire: Wire
) -> None:
    """The worker had prefetched more than it could answer."""
    stored(a_plan(*many_moves(20)), store)
    begun, may_end = threading.Event(), threading.Event()

    def advance(_: str) -> None:
        begun.set()
        may_end.wait(PATIENCE)

    declare_actors(broker, advance)
    running = dramatiq.Worker(broker, worker_timeout=50, worker_threads=1)
    running.start()
    assert begun.wait(PATIENCE)
    threading.Timer(0.2, may_end.set).start()
    running.stop()
    assert len(wire.wake_ups()) >= 18


def test_a_consumer_that_loses_redis_taints_its_process(keys: Keys) -> None:
    """It may hold messages that nobody sees any more, so the keeper will end the process."""
    server = RedisServer()
    server.start()
    try:
        broker = build_broker(connect(server.url, patient=False), keys.dramatiq)
        consumer = broker.consume(Phase.CUTOVER)
        assert next(consumer) is None
        assert not broker.tainted.is_set()
        server.kill()
        with pytest.raises(ConnectionClosed):
            next(consumer)
        assert broker.tainted.is_set()
    finally:
        server.close()


@pytest.mark.parametrize(
    "trouble",
    [
        redis.ConnectionError("reset"),
        redis.TimeoutError("slow"),
        redis.exceptions.ReadOnlyError("a replica now"),
        redis.exceptions.OutOfMemoryError("full"),
        redis.exceptions.BusyLoadingError("loading"),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
@pytest.mark.parametrize("call", ["ack", "nack"])
def test_an_answer_that_redis_does_not_take_taints_the_process(
    broker: WakeUpBroker, store: JobStore, monkeypatch: pytest.MonkeyPatch, trouble: redis.RedisError, call: str
) -> None:
    """Whatever the trouble: dramatiq must see a closed connection, or its consumer thread would die."""
    stored(a_plan(), store)
    consumer = broker.consume(Phase.PREFLIGHT)
    message = next(consumer)

    def fail(*_: object) -> None:
        raise trouble

    monkeypatch.setattr(broker, f"do_{call}", fail, raising=False)
    with pytest.raises(ConnectionClosed):
        getattr(consumer, call)(message)
    assert broker.tainted.is_set()


def test_a_cutover_is_looked_for_more_often_than_anything_else(broker: WakeUpBroker) -> None:
    """An instance is down while it waits; with nothing to do at all, everybody sleeps longer."""
    polls = {phase: broker.poll_ms(phase) for phase in QUEUES}
    assert min(polls, key=lambda phase: polls[phase]) is Phase.CUTOVER
    broker.nothing_to_do = True
    assert min(broker.poll_ms(phase) for phase in QUEUES) > max(polls.values())


def test_what_is_no_message_is_said_so() -> None:
    """As dramatiq expects it to be said."""
    encoder = MsgpackEncoder()
    assert encoder.decode(encoder.encode({"args": [], "kwargs": {"job_id": "ü"}})) == {
        "args": [],
        "kwargs": {"job_id": "ü"},
    }
    with pytest.raises(DecodeError):
        encoder.decode(b"\xc1")
