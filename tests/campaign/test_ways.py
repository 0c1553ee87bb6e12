"""Servers that reach each other one way only, or are told who shall dial: which way the passes go."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from unittest import mock

import pytest
import redis

from common.domain.job import Job, State
from common.domain.plan import AfterGrace, Limits, Method, Mode, Retire
from tests.campaign.checker import check
from tests.campaign.line import scripts_in_virtual_time
from tests.campaign.scenario import Machine, Scenario, Server
from tests.campaign.trial import Person, build, story
from tests.campaign.worker import Worker
from tests.campaign.world import World, virtual_waits
from tests.simulator import MIB, Fault, Guest, Kind

_SIZE = 60
MACHINE = Machine(
    name="c1", source="s1", target="s2", runs=True, mib=_SIZE, guest=Guest(writes_per_second=20.0), snapshots=1,
    autostart="", method=Method.WARM, retire=Retire.STOP, after_grace=AfterGrace.FORCE,
)  # fmt: skip
SERVERS = (Server("s1", "btrfs", 20e6), Server("s2", "btrfs", 20e6))
PULL, PUSH = "pull: s2 dials s1 at https://s1.sim:8443", "push: s1 dials s2 at https://s2.sim:8443"
RELAY = "relay: a worker dials s1 and s2"
BOTH_WALLS = (("s1", "s2"), ("s2", "s1"))


def moved(
    pool: redis.ConnectionPool,
    machine: Machine = MACHINE,
    *walls: tuple[str, str],
    meanwhile: Callable[[World, Person], None] | None = None,
) -> tuple[Job, World]:
    """The job at rest; what is on the servers is as it must be."""
    scenario = Scenario(1, SERVERS, (machine,), (timedelta(0),), Limits(), walls=walls)
    with scripts_in_virtual_time():
        world = World(pool, 1, switches=0.0)
        with virtual_waits(world):
            were = build(world, scenario)
            person = Person(world)
            person.submit("p1", machine, scenario)
            world.hire("w1")
            if meanwhile:
                meanwhile(world, person)
            world.run_until_rest()
            world.settle(60)
            (job,) = world.jobs()
            found = check(world.fleet, were, person.endings())
            world.close()
    assert found == [], "\n".join(story(world))
    return job, world


@pytest.mark.parametrize("method", [Method.WARM, Method.COLD])
@pytest.mark.parametrize(
    ("mode", "wall", "way", "closed"),
    [
        pytest.param(Mode.AUTO, None, PULL, [], id="auto"),
        pytest.param(Mode.PUSH, None, PUSH, [], id="push"),
        pytest.param(Mode.PUSH, ("s2", "s1"), PUSH, [], id="push, the target reaches nobody"),
        pytest.param(Mode.AUTO, ("s2", "s1"), PUSH, [PULL], id="auto, the target reaches nobody"),
        pytest.param(Mode.AUTO, ("s1", "s2"), PULL, [], id="auto, the source reaches nobody"),
        pytest.param(Mode.RELAY, None, RELAY, [], id="relay"),
        pytest.param(Mode.RELAY, ("s2", "s1"), RELAY, [], id="relay, the target reaches nobody"),
    ],
)
def test_a_move_goes_the_first_way_that_is_open_and_stays_on_it(  # noqa: PLR0917 - a table
    pool: redis.ConnectionPool, method: Method, mode: Mode, wall: tuple[str, str] | None, way: str, closed: list[str]
) -> None:
    """Every pass after the first one knows the way."""
    job, _ = moved(pool, replace(MACHINE, mode=mode, method=method), *([wall] if wall else []))
    assert (job.state, job.facts["way"], job.facts.get("closed_ways", [])) == (State.DONE, way, closed)
    assert job.total_attempts == len(closed)


@pytest.mark.parametrize(
    ("mode", "walls", "said"),
    [
        pytest.param(Mode.PULL, [("s2", "s1")], PULL, id="pull"),
        pytest.param(Mode.PUSH, [("s1", "s2")], PUSH, id="push"),
    ],
)
def test_a_move_without_an_open_way_waits_for_a_person_and_leaves_all_as_it_was(
    pool: redis.ConnectionPool, mode: Mode, walls: list[tuple[str, str]], said: str
) -> None:
    job, _ = moved(pool, replace(MACHINE, mode=mode), *walls)
    assert job.state is State.PARKED
    assert job.error
    assert f"no connection by {said}: " in job.error.message
    assert "Unable to connect to" in job.error.message


def test_a_daemon_that_was_away_for_a_moment_does_not_close_the_way(pool: redis.ConnectionPool) -> None:
    """It is dead when its target dials it, and when herder asks why, it is another one."""

    def dies(world: World, _: Person) -> None:
        def restarts(*_dial: object) -> tuple[None, None]:
            dialling.stop()
            world.fleet.kill("s1")
            world.fleet.start("s1")
            return None, None

        dialling = mock.patch.object(world.fleet, "reach", side_effect=restarts)
        dialling.start()

    job, _ = moved(pool, meanwhile=dies)
    assert (job.state, job.total_attempts) == (State.DONE, 1)
    assert (job.facts["way"], job.facts.get("closed_ways", [])) == (PULL, [])


@pytest.mark.parametrize("server", ["s1", "s2"])
@pytest.mark.parametrize("at_bytes", [1, _SIZE * MIB])
def test_a_daemon_killed_in_a_push_costs_a_pass_and_not_the_move(
    pool: redis.ConnectionPool, server: str, at_bytes: int
) -> None:
    def dies(world: World, _: Person) -> None:
        world.fleet.inject(Fault(kind=Kind.KILL, server=server, at_bytes=at_bytes, seconds=0.5))

    job, _ = moved(pool, replace(MACHINE, mode=Mode.PUSH), meanwhile=dies)
    assert (job.state, job.facts["way"]) == (State.DONE, PUSH)


def test_a_cancelled_push_is_waited_for_and_then_nothing_shows_of_it(pool: redis.ConnectionPool) -> None:
    def cancels(world: World, person: Person) -> None:
        while " by push" not in world.jobs()[0].blocked_on:
            assert world._turn()
        person.ask("cancel", "c1")
        while world.jobs()[0].blocked_on != "the end of 'Migrating instance' on s1, which cannot be cancelled":
            assert world._turn()

    job, world = moved(pool, replace(MACHINE, mode=Mode.PUSH), meanwhile=cancels)
    assert job.state is State.CANCELLED
    assert ("default", "c1") not in world.fleet.servers["s2"].instances


def test_a_push_that_stands_still_is_named_and_ends_well_when_it_goes_on(pool: redis.ConnectionPool) -> None:
    """Nobody can cancel it: it waits for its servers, without an attempt, for longer than a pull may stand still."""

    def stands_still(world: World, _: Person) -> None:
        while not world.fleet.servers["s2"].transfers:
            assert world._turn()
        (transfer,) = world.fleet.servers["s2"].transfers
        transfer.flow_at(0.0)
        until = world.now() + 180
        while world.now() < until:
            assert world._turn()
        assert not transfer.is_over
        (job,) = world.jobs()
        assert job.blocked_on == "full pass 0 from s1 to s2 by push, which cannot be cancelled"
        assert job.state is State.WAITING
        transfer.flow_at(20e6)

    job, _ = moved(pool, replace(MACHINE, mode=Mode.PUSH), meanwhile=stands_still)
    assert (job.state, job.total_attempts) == (State.DONE, 0)


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.RELAY])
def test_a_move_with_a_limit_is_relayed_with_it(pool: redis.ConnectionPool, mode: Mode) -> None:
    """All its passes; no direct way is tried, for no server caps one."""
    workers: list[Worker] = []
    machine = replace(MACHINE, mode=mode, rate=10**6)
    job, _ = moved(pool, machine, meanwhile=lambda world, _: workers.extend(world.workers))
    assert (job.state, job.facts["way"], job.total_attempts) == (State.DONE, RELAY, 0)
    assert [limit for worker in workers for limit in worker.limits] == [10**6] * len(job.passes)


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.RELAY])
def test_servers_that_reach_each_other_no_way_are_relayed_between(pool: redis.ConnectionPool, mode: Mode) -> None:
    """With auto after a try of each direct way, and the job tells which were closed."""
    job, _ = moved(pool, replace(MACHINE, mode=mode), *BOTH_WALLS)
    closed = [PULL, PUSH] if mode is Mode.AUTO else []
    assert (job.state, job.facts["way"], job.facts.get("closed_ways", [])) == (State.DONE, RELAY, closed)


@pytest.mark.parametrize("server", ["s1", "s2"])
def test_a_daemon_killed_in_a_relay_costs_a_pass_and_not_the_move(pool: redis.ConnectionPool, server: str) -> None:
    def dies(world: World, _: Person) -> None:
        world.fleet.inject(Fault(kind=Kind.KILL, server=server, at_bytes=MIB, seconds=0.5))

    job, _ = moved(pool, replace(MACHINE, mode=Mode.RELAY), meanwhile=dies)
    assert (job.state, job.facts["way"]) == (State.DONE, RELAY)


def _in_a_relay(world: World) -> None:
    while not world.fleet.servers["s2"].transfers:
        assert world._turn()
    assert world.jobs()[0].blocked_on == "full pass 0 from s1 to s2 by relay"


def test_a_worker_killed_in_a_relay_costs_a_pass_and_not_the_move(pool: redis.ConnectionPool) -> None:
    def dies(world: World, _: Person) -> None:
        _in_a_relay(world)
        world.kill(world.workers[0], back_in=1.0)

    job, _ = moved(pool, replace(MACHINE, mode=Mode.RELAY), meanwhile=dies)
    assert (job.state, job.total_attempts, job.facts["way"]) == (State.DONE, 1, RELAY)


def test_a_relay_of_a_worker_that_hangs_is_cancelled_by_another_one(pool: redis.ConnectionPool) -> None:
    """It stands still until that sees it; then its own worker has nothing to go on with when it wakes up."""

    def hangs(world: World, _: Person) -> None:
        _in_a_relay(world)
        world.hire("w2")
        world.workers[0].freeze(300)

    job, _ = moved(pool, replace(MACHINE, mode=Mode.RELAY), meanwhile=hangs)
    assert (job.state, job.total_attempts) == (State.DONE, 2)  # the one that cancelled, the one that saw it fail


def test_a_cancelled_relay_ends_and_nothing_shows_of_it(pool: redis.ConnectionPool) -> None:
    def cancels(world: World, person: Person) -> None:
        _in_a_relay(world)
        person.ask("cancel", "c1")

    job, world = moved(pool, replace(MACHINE, mode=Mode.RELAY), meanwhile=cancels)
    assert job.state is State.CANCELLED
    assert ("default", "c1") not in world.fleet.servers["s2"].instances
