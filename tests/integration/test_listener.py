"""Listeners: how jobs learn that their operations have ended, whether an event told it or not."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest
from redis import Redis

from common.domain.errors import ServerUnreachable, UnknownRemote
from common.domain.job import Outcome
from common.domain.operation import Operation, OperationRef
from common.lxd.client import LxdClient
from common.lxd.events import Event
from common.store.jobs import JobStore
from common.store.keys import Keys
from common.store.operations import OperationStore
from tests.builders import NOW
from tests.integration.wire import Wire
from workers import listener
from workers.listener import Listener, Listeners

JOB = "p1-1"
OFFER = OperationRef(remote="s1", id="o1")
IN_SHOP = OperationRef(remote="s1", id="o2", project="shop")
#: Only reached by a test that fails.
PATIENCE = 20.0


@dataclass
class OperationsOf:
    """Stands for a server's client: what it lists by project, and what it knows beyond that."""

    listed: dict[str, list[Operation]] = field(default_factory=dict)
    known: dict[str, Operation] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    transport: Any = None

    def operations(self, *, project: str) -> tuple[Operation, ...]:
        """The listing of one project."""
        self.asked.append(project)
        return tuple(self.listed.get(project, ()))

    def operation(self, operation_id: str) -> Operation | None:
        """One operation, or None if it is forgotten."""
        return self.known.get(operation_id)


def listening(server: OperationsOf, operations: OperationStore) -> Listener:
    """The listener of ``s1``."""
    return Listener("s1", cast("LxdClient", server), operations)


@pytest.fixture
def waiting(plan: object, store: JobStore, wire: Wire) -> None:
    """A job that waits for two operations of ``s1``, of two projects."""
    assert plan
    claim = store.claim(JOB, "me")
    assert claim
    outcome = Outcome.wait("the pass", retry_in=timedelta(minutes=1), operations=(OFFER, IN_SHOP))
    store.commit(claim, claim.job.taken(NOW).with_outcome(outcome, NOW), delay=outcome.retry_in)
    wire.take()


def result_of(operations: OperationStore, ref: OperationRef) -> Operation:
    """How the operation ended, as stored."""
    found = operations.result(ref)
    assert found
    return found


@pytest.mark.usefixtures("waiting")
def test_the_end_of_an_operation_wakes_its_job(operations: OperationStore, wire: Wire) -> None:
    """As soon as the event is seen."""
    listening(OperationsOf(), operations).take(Operation(id="o1", status_code=400, error="No space left"))
    assert wire.take() == [("preflight", JOB)]
    assert result_of(operations, OFFER).error == "No space left"


@pytest.mark.usefixtures("waiting")
def test_an_operation_under_way_only_shows_its_progress(operations: OperationStore, wire: Wire) -> None:
    """Nobody is woken for it."""
    text = "web1: 1.50MB (500.00kB/s)"
    listening(OperationsOf(), operations).take(Operation(id="o1", status_code=103, metadata={"fs_progress": text}))
    assert operations.progress(OFFER) == (1_500_000, 500_000)
    assert wire.take() == []
    assert operations.result(OFFER) is None


@pytest.mark.usefixtures("waiting")
def test_what_ended_while_nobody_listened_is_found_in_the_listing(operations: OperationStore, wire: Wire) -> None:
    """One project at a time, as a server lists them."""
    server = OperationsOf(
        listed={
            "default": [Operation(id="o1", status_code=200), Operation(id="other", status_code=200)],
            "shop": [Operation(id="o2", status_code=103)],
        }
    )
    listening(server, operations).reconcile()
    assert sorted(server.asked) == ["default", "shop"]
    assert wire.take() == [("preflight", JOB)]
    assert result_of(operations, OFFER).succeeded
    assert operations.waiting("s1") == (IN_SHOP,)


@pytest.mark.usefixtures("waiting")
def test_what_is_not_listed_is_asked_for_by_itself(operations: OperationStore, wire: Wire) -> None:
    """A listing may leave out what one may still ask for."""
    running = {ref.id: Operation(id=ref.id, status_code=103) for ref in (OFFER, IN_SHOP)}
    listening(OperationsOf(known=running), operations).reconcile()
    assert wire.take() == []
    assert len(operations.waiting("s1")) == 2


@pytest.mark.usefixtures("waiting")
def test_what_the_server_has_forgotten_has_ended(operations: OperationStore, wire: Wire) -> None:
    """How, the step finds out by looking at the instance."""
    listening(OperationsOf(known={"o2": Operation(id="o2", status_code=103)}), operations).reconcile()
    assert wire.take() == [("preflight", JOB)]
    assert result_of(operations, OFFER).is_forgotten


def test_a_server_that_nobody_waits_for_is_not_asked(operations: OperationStore) -> None:
    """Listening is cheap, listing is not."""
    server = OperationsOf()
    listening(server, operations).reconcile()
    assert server.asked == []


@pytest.fixture
def event_stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What connections to the event stream give, one after the other; the last one stays silent until the test ends."""
    connections: list[Any] = []
    over = threading.Event()

    def connect(_: object, **__: object) -> Iterator[Event]:
        given = connections.pop(0) if connections else []
        if isinstance(given, Exception):
            raise given
        return told(given)

    def told(given: list[Event]) -> Iterator[Event]:
        yield from given
        over.wait(PATIENCE)

    monkeypatch.setattr(listener, "events", connect)
    monkeypatch.setattr(listener, "_RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr(listener, "_RECONCILE", timedelta(milliseconds=20))
    yield connections
    over.set()


def an_event(operation: Operation) -> Event:
    """The event of an operation."""
    return Event(kind="operation", project="default", location="none", timestamp=NOW, metadata={}, operation=operation)


def eventually(is_so: Callable[[], object]) -> None:
    """Wait until it is so; a test fails if it never is."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.01)


def run(running: Listener) -> threading.Thread:
    """Let it listen."""
    running.is_ours.set()
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("waiting")
def test_a_listener_that_loses_its_connection_makes_another(
    operations: OperationStore, event_stream: list[Any]
) -> None:
    """However the first one was lost; nothing that is waited for is missed."""
    event_stream += [ServerUnreachable("reset"), [an_event(Operation(id="o1", status_code=200))]]
    server = OperationsOf(known={ref.id: Operation(id=ref.id, status_code=103) for ref in (OFFER, IN_SHOP)})
    running = listening(server, operations)
    run(running)
    eventually(lambda: operations.result(OFFER))
    running.is_ours.clear()


@pytest.mark.usefixtures("waiting")
def test_a_server_that_is_down_for_long_is_told_of_once(
    operations: OperationStore, event_stream: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "herder.listener")
    event_stream += [ServerUnreachable("refused")] * 5 + [[an_event(Operation(id="o1", status_code=200))]]
    server = OperationsOf(known={ref.id: Operation(id=ref.id, status_code=103) for ref in (OFFER, IN_SHOP)})
    running = listening(server, operations)
    run(running)
    eventually(lambda: operations.result(OFFER))
    running.is_ours.clear()
    told = [record.getMessage().split()[0] for record in caplog.records]
    assert told == ["listener.lost", "listener.back"]


@pytest.mark.usefixtures("waiting", "event_stream")
def test_a_silent_stream_is_not_trusted(operations: OperationStore) -> None:
    """Behind some firewalls events stop without a word: the listing is compared all the same."""
    server = OperationsOf(known={ref.id: Operation(id=ref.id, status_code=103) for ref in (OFFER, IN_SHOP)})
    running = listening(server, operations)
    run(running)
    eventually(lambda: server.asked.count("default") > 2)
    server.known["o1"] = Operation(id="o1", status_code=200)
    eventually(lambda: operations.result(OFFER))
    running.is_ours.clear()


@pytest.mark.usefixtures("waiting", "event_stream")
def test_one_worker_of_all_listens_to_a_server_and_another_takes_over(
    operations: OperationStore, redis_client: "Redis", keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one whose sign has lapsed lets go when it finds out."""
    monkeypatch.setattr(listener, "_LEASE", timedelta(seconds=60))
    first, second = (Listeners(operations, lambda _: cast("LxdClient", OperationsOf()), f"w{n}") for n in (1, 2))
    first.tend()
    second.tend()
    assert set(first._running) == {"s1"}
    assert second._running == {}
    redis_client.delete(keys.listener("s1"))
    second._tended = float("-inf")
    second.tend()
    assert set(second._running) == {"s1"}
    let_go = first._running["s1"][0]
    first._tended = float("-inf")
    first.tend()
    assert first._running == {}
    assert not let_go.is_ours.is_set()
    second._running["s1"][0].is_ours.clear()


@pytest.mark.usefixtures("waiting")
def test_a_server_that_nobody_knows_any_more_does_not_stop_the_others(
    operations: OperationStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Its remote was removed from the client's configuration; the log says so."""

    def unknown(remote: str) -> LxdClient:
        raise UnknownRemote(f"no remote {remote!r}")

    listeners = Listeners(operations, unknown, "w1")
    listeners.tend()
    assert listeners._running == {}
    assert "listener.impossible remote=s1" in caplog.text
