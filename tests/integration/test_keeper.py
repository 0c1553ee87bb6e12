"""The keeper: prolongs, pumps and maintains while all is well, and ends the process when it is not."""

import os
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import dramatiq
import pytest
import redis
from redis import Redis

from common.domain.job import State
from common.store.connect import connect
from common.store.jobs import LEASE, JobStore
from common.store.keys import Keys
from tests.builders import NOW
from tests.integration.wire import Wire
from workers.broker import build_broker
from workers.keeper import EXIT_START_AGAIN, Keeper
from workers.listener import Listeners
from workers.prober import Prober
from workers.runner import HeldJobs

JOB = "p1-1"


class Left(BaseException):
    """The process has ended with this code."""


@dataclass
class QuietListeners:
    """Stands for listeners with nobody to listen to."""

    worker: str = "host:1:abc"
    tended: int = 0
    faults: list[Exception] = field(default_factory=list)

    def tend(self) -> None:
        """Count, or fail as told."""
        self.tended += 1
        if self.faults:
            raise self.faults.pop(0)


@dataclass
class QuietProber:
    """Stands for a prober; no server is set aside."""

    tended: int = 0

    def tend(self) -> None:
        """Count."""
        self.tended += 1


@pytest.fixture
def prober() -> QuietProber:
    """Nobody to probe."""
    return QuietProber()


@pytest.fixture
def listeners() -> QuietListeners:
    """Nobody to listen to."""
    return QuietListeners()


@pytest.fixture
def keeper(  # noqa: PLR0917 - pytest passes fixtures by name
    monkeypatch: pytest.MonkeyPatch,
    redis_url: str,
    keys: Keys,
    store: JobStore,
    listeners: QuietListeners,
    prober: QuietProber,
) -> Keeper:
    """The keeper of a process whose end is an exception."""

    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)
    alive = SimpleNamespace(name="consumer", is_alive=lambda: True)
    worker: Any = SimpleNamespace(consumers={"preflight": alive}, workers=[alive])
    return Keeper(
        build_broker(connect(redis_url, patient=False), keys.dramatiq),
        cast("dramatiq.Worker", worker),
        store,
        HeldJobs(),
        cast("Listeners", listeners),
        cast("Prober", prober),
    )


def keep_once(keeper: Keeper) -> None:
    """One round of its thread, or two: it ends after the one in which it is asked to."""
    looked = keeper.jobs.pump

    def pump_and_stop(limit: int = 1000) -> int:
        keeper.stopping.set()
        return looked(limit)

    keeper.jobs.pump = pump_and_stop  # type: ignore[method-assign]
    try:
        keeper.run()
    finally:
        keeper.jobs.pump = looked  # type: ignore[method-assign]
        keeper.stopping.clear()


@pytest.mark.usefixtures("plan")
def test_it_prolongs_the_leases_of_the_jobs_at_hand(keeper: Keeper, store: JobStore, wire: Wire) -> None:
    """However long a step takes, nobody takes the job away as long as the process lives."""
    claim = store.claim(JOB, "me")
    assert claim
    wire.let_pass(JOB)
    with keeper.held.hold(claim):
        keep_once(keeper)
    assert store.claim(JOB, "other") is None


@pytest.mark.usefixtures("plan")
def test_a_lost_lease_does_not_keep_it_from_prolonging_the_others(
    keeper: Keeper, store: JobStore, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """The step that lost it finds out by itself."""
    claim = store.claim(JOB, "me")
    assert claim
    wire.let_pass(JOB)
    assert store.claim(JOB, "other")
    with keeper.held.hold(claim):
        keep_once(keeper)
    assert f"lease.lost job={JOB}" in caplog.text


@pytest.mark.usefixtures("plan")
def test_it_sends_overdue_jobs_again(keeper: Keeper, wire: Wire) -> None:
    """Every worker pumps; whoever is first."""
    wire.take()
    wire.let_pass(JOB)
    keep_once(keeper)
    assert wire.take() == [("preflight", JOB)]


@pytest.mark.usefixtures("plan")
def test_it_knows_when_there_is_nothing_to_do(
    keeper: Keeper, store: JobStore, listeners: QuietListeners, prober: QuietProber
) -> None:
    """Then consumers sleep longer, and no server is probed; listeners are tended all the same."""
    keep_once(keeper)
    assert not keeper.broker.nothing_to_do
    claim = store.claim(JOB, "me")
    assert claim
    store.commit(claim, claim.job.taken(NOW).to(State.DONE))
    keeper._looked_around = 0
    keep_once(keeper)
    assert keeper.broker.nothing_to_do
    assert (listeners.tended, prober.tended) == (2, 1)


def test_it_shows_life_to_people_and_to_the_other_workers(
    keeper: Keeper, store: JobStore, redis_client: "Redis", keys: Keys
) -> None:
    """People ask whether anything moves at all; other workers would take its messages."""
    assert store.alive_workers() == ()
    keep_once(keeper)
    assert store.alive_workers() == ("host:1:abc",)
    assert redis_client.zscore(f"{keys.dramatiq}:__heartbeats__", keeper.broker.broker_id) is not None


def test_a_worker_that_has_been_silent_is_not_told_to_be_alive(
    keeper: Keeper, store: JobStore, redis_client: "Redis", keys: Keys
) -> None:
    """Its last sign of life is older than a lease."""
    keep_once(keeper)
    redis_client.zincrby(keys.workers, -LEASE.total_seconds() - 1, "host:1:abc")
    assert store.alive_workers() == ()


def test_it_ends_the_process_when_a_thread_of_it_has_died(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    """A process without its consumer would look alive for ever."""
    dead = threading.Thread(name="consumer-cutover")
    keeper.worker.consumers["cutover"] = dead  # type: ignore[assignment]
    with pytest.raises(Left) as left:
        keep_once(keeper)
    assert left.value.args == (EXIT_START_AGAIN,)
    assert "threads died: consumer-cutover" in caplog.text


def test_it_ends_the_process_when_redis_was_away(keeper: Keeper) -> None:
    """Only once it is back: messages may be orphaned, and a fresh process finds them."""
    working, rounds = keeper.jobs.pump, iter([redis.ConnectionError("gone"), redis.ConnectionError("gone"), None])

    def pump(limit: int = 1000) -> int:
        trouble = next(rounds)
        if trouble:
            raise trouble
        return working(limit)

    keeper.jobs.pump = pump  # type: ignore[method-assign]
    with pytest.raises(Left) as left:
        keeper.run()
    assert left.value.args == (EXIT_START_AGAIN,)
    assert next(rounds, "none left") == "none left"


def test_it_ends_the_process_when_a_consumer_lost_redis(keeper: Keeper) -> None:
    """Though the keeper itself has not noticed anything."""
    keeper.broker.tainted.set()
    with pytest.raises(Left):
        keep_once(keeper)


def test_it_ends_the_process_when_its_command_has_ended(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody would ever stop it."""
    keeper.parent = os.getppid() + 1
    with pytest.raises(Left):
        keep_once(keeper)
    assert "the command that started it has ended" in caplog.text


def test_it_ends_the_process_when_it_cannot_go_on_itself(keeper: Keeper, listeners: QuietListeners) -> None:
    """Without a keeper, leases lapse and heartbeats stop while everything else seems to work."""
    listeners.faults.append(OSError("a certificate that cannot be read"))
    with pytest.raises(Left) as left:
        keep_once(keeper)
    assert left.value.args == (EXIT_START_AGAIN,)
