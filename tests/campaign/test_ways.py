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
from tests.campaign.world import World, virtual_waits
from tests.simulator import MIB, Fault, Guest, Kind

_SIZE = 60
MACHINE = Machine(
    name="c1", source="s1", target="s2", runs=True, mib=_SIZE, guest=Guest(writes_per_second=20.0), snapshots=1,
    autostart="", method=Method.WARM, retire=Retire.STOP, after_grace=AfterGrace.FORCE,
)  # fmt: skip
SERVERS = (Server("s1", "btrfs", 20e6), Server("s2", "btrfs", 20e6))
PULL, PUSH = "pull: s2 dials s1 at https://s1.sim:8443", "push: s1 dials s2 at https://s2.sim:8443"


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
        pytest.param(Mode.AUTO, [("s1", "s2"), ("s2", "s1")], PUSH, id="auto"),
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
