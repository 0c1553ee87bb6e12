"""Makes the strikes of a scenario happen: those of servers by the simulator, all others here."""

from collections.abc import Callable
from typing import Any
from unittest import mock

from tests.campaign.scenario import OF_REQUESTS, Scenario, Strike
from tests.campaign.worker import Worker
from tests.campaign.world import World, obey
from tests.simulator import MIB, Fault, Kind
from tests.simulator.operations import Operation

#: Longer than a lease, and than a server's patience with an offer.
_SLEEP = 16.0
_RECOVERED_IN = 3.0


def arrange(world: World, scenario: Scenario, recover: Callable[[], None]) -> None:
    """Have everything that the scenario draws happen in its time."""
    for strike in scenario.strikes:
        _arrange(world, strike, recover)


def _arrange(world: World, strike: Strike, recover: Callable[[], None]) -> None:
    kind = strike.kind
    if kind in OF_REQUESTS:
        _of_request(world, strike)
    elif kind in ("kill-source", "kill-target"):
        _of_server(world, strike, Kind.KILL)
    elif kind in ("freeze", "cut-transfers", "disk-full", "forget"):
        _of_server(world, strike, Kind(kind))
    elif kind in ("rotate", "stop-hangs", "start-fails"):
        _of_machine(world, strike)
    elif kind == "worker-killed":
        world.at_points.append(_At(world, strike, _kill))
    elif kind == "worker-frozen":
        world.at_points.append(_At(world, strike, _freeze))
    elif kind == "clock-skew":
        world.happened["clock-skew"] += 1
    elif kind.startswith("redis-"):
        _of_redis(world, strike, recover)
    else:
        _of_messages(world, strike)


def _of_machine(world: World, strike: Strike) -> None:
    if strike.kind == "rotate":
        world.fleet.inject(Fault(kind=Kind.ROTATE, server=strike.server, at=strike.at))
    elif strike.kind == "stop-hangs":
        world.fleet.inject(Fault(kind=Kind.STOP_HANGS, server=strike.server, instance=strike.machine))
        # For ever is until somebody ends the process by hand.
        server = world.fleet.servers[strike.server]
        world.later(40 + strike.seconds, lambda: obey(server, strike.machine))
    else:
        for server in world.fleet.servers.values():
            server.failing_starts[strike.machine] = 1 + strike.nth % 4
        world.happened["start-fails"] += 1


class _At:
    """Does something to the worker that is about to do its n-th request, or its n-th change."""

    def __init__(self, world: World, strike: Strike, act: Callable[[World, Worker, Strike], None]) -> None:
        self._world = world
        self._strike = strike
        self._act = act
        self._left = strike.nth if strike.by == "time" else strike.nth * 8
        self._only_writes = strike.by != "bytes"

    def __call__(self, worker: Worker, what: str, is_write: bool) -> None:
        if self._only_writes and not is_write:
            return
        self._left -= 1 if not self._only_writes or self._strike.by == "time" else 4
        if self._left <= 0 and self in self._world.at_points:
            self._world.at_points.remove(self)
            self._world.tell(f"before {what}:")
            self._act(self._world, worker, self._strike)


def _kill(world: World, worker: Worker, strike: Strike) -> None:
    world.happened["worker-killed"] += 1
    world.kill(worker, back_in=strike.seconds)


def _freeze(world: World, worker: Worker, strike: Strike) -> None:
    seconds = strike.seconds + (_SLEEP if strike.mib * 2 > 1 else 0)
    world.happened["worker-frozen"] += 1
    world.tell(f"{worker.name} is frozen for {seconds:.1f} s")
    worker.freeze(seconds)


def _of_request(world: World, strike: Strike) -> None:
    fault = Fault(
        kind=Kind(strike.kind),
        server=strike.server,
        request=strike.request,
        nth=1 + strike.nth % 12,
        times=1 + (strike.nth % 3 == 0),
        seconds=min(strike.seconds, 20.0),
    )
    world.fleet.inject(fault)


def _of_server(world: World, strike: Strike, kind: Kind) -> None:
    place: dict[str, object] = {"at": strike.at}
    if strike.by == "request":
        place = {"request": strike.request, "nth": 1 + strike.nth % 8, "after_effect": strike.nth % 2 == 0}
    elif strike.by == "bytes":
        place = {"at_bytes": int(strike.mib * MIB)}
    world.fleet.inject(Fault(kind=kind, server=strike.server, seconds=strike.seconds, **place))  # type: ignore[arg-type]


def _of_redis(world: World, strike: Strike, recover: Callable[[], None]) -> None:
    kind = strike.kind
    if kind == "redis-answer-lost":
        world.later(strike.at, lambda: world.outages.answers_to_lose.append(strike.request))
    elif kind in ("redis-restarted", "redis-failed-over"):
        window, away = strike.mib % 1.0, min(strike.seconds, 12.0)
        world.later(strike.at, lambda: world.lose_redis(kind, window=window, away=away))
    elif kind == "redis-emptied":

        def empty() -> None:
            world.empty_redis()
            world.later(_RECOVERED_IN + strike.seconds, recover)

        world.later(strike.at, empty)
    else:
        world.later(strike.at, lambda: world.disturb_redis(kind, min(strike.seconds, 15.0)))


def _of_messages(world: World, strike: Strike) -> None:
    posts, count = world.posts, 1 + strike.nth % 5

    def disturb() -> None:
        if strike.kind == "wake-up-lost":
            posts.lost += count
        elif strike.kind == "wake-up-doubled":
            posts.doubled += count
        elif strike.kind == "wake-up-late":
            posts.late += count
        elif strike.kind == "wake-ups-reordered":
            posts.shuffled += 3 * count
        else:
            posts.events_lost += count

    world.later(strike.at / 3, disturb)


def source_notices_late(world: World, seconds: float) -> None:
    """As LXD does: the operation on s1 goes on for a while when the transfer to s2 has broken."""
    operations = world.fleet.servers["s1"].operations
    (transfer,) = world.fleet.servers["s2"].transfers
    at_once, offered = operations.end, transfer.offered

    def end(operation: Operation, error: str = "", **more: Any) -> None:
        if operation is offered and not is_late:
            is_late.append(True)
            world.fleet.servers["s1"].later(seconds, lambda: at_once(operation, error, **more))
        else:
            at_once(operation, error, **more)

    is_late: list[bool] = []
    mock.patch.object(operations, "end", end).start()
