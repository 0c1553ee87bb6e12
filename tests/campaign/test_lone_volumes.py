"""Volumes that go by themselves, while people and servers do what they should not."""

from collections.abc import Callable
from datetime import timedelta
from functools import cache

import pytest
import redis

from common.domain.itinerary import VOLUME_MOVE, VOLUME_REFRESH, VOLUME_WAYS, Itinerary
from common.domain.job import Job, State
from common.domain.plan import Limits, Method, Retire
from tests.campaign.line import scripts_in_virtual_time
from tests.campaign.matrix import Point, cancels, dies, points
from tests.campaign.mishaps import source_notices_late
from tests.campaign.scenario import Box, Scenario, Server
from tests.campaign.shelves import boxes_before, check_boxes
from tests.campaign.trial import Person, build
from tests.campaign.world import World, virtual_waits
from tests.simulator import MIB, Fault, Kind

WAYS = list(VOLUME_WAYS.values())


@cache
def _points(pool: redis.ConnectionPool, name: str) -> list[Point]:
    return points(pool, next(way for way in WAYS if way.name == name))


@pytest.mark.parametrize("itinerary", WAYS, ids=lambda itinerary: itinerary.name)
def test_a_worker_that_dies_at_any_checkpoint_harms_nothing(pool: redis.ConnectionPool, itinerary: Itinerary) -> None:
    """And after each rename; the crash matrix has all other places."""
    meant = [p for p in _points(pool, itinerary.name) if p.when == "checkpoint" or p.step == "swap_volume"]
    assert meant
    wrong = [line for point in meant for line in dies(pool, itinerary, point)]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("itinerary", [VOLUME_MOVE, VOLUME_REFRESH], ids=lambda itinerary: itinerary.name)
def test_one_that_is_cancelled_anywhere_leaves_all_as_it_was(pool: redis.ConnectionPool, itinerary: Itinerary) -> None:
    """Or ends, if it was past its commit point."""
    ends = [cancels(pool, itinerary, point, dies=False) for point in _points(pool, itinerary.name)[::3]]
    assert [line for violations, _ in ends for line in violations] == []
    assert {state for _, state in ends} == {State.DONE, State.CANCELLED}


def gone(
    pool: redis.ConnectionPool,
    method: Method,
    meanwhile: Callable[[World, Person], None],
    *,
    retire: Retire = Retire.STOP,
    driver: str = "btrfs",
) -> tuple[Job, World, list[str]]:
    """What became of ``box1`` on its way from s1 to s2, its world, and what the judge says."""
    box = Box(name="box1", source="s1", target="s2", mib=20, method=method, retire=retire)
    servers = (Server("s1", "btrfs", 20e6), Server("s2", driver, 20e6))
    scenario = Scenario(1, servers, (), (timedelta(0),), Limits(), boxes=(box,))
    with scripts_in_virtual_time():
        world = World(pool, 1, switches=0.0)
        with virtual_waits(world):
            try:
                build(world, scenario)
                were, person = boxes_before(world.fleet, scenario.boxes), Person(world)
                person.submit_box("p1", box, scenario)
                world.hire("w1")
                meanwhile(world, person)
                world.run_until_rest()
                world.settle(60)
                (job,) = world.jobs()
                return job, world, check_boxes(world.fleet, were, person.endings())
            finally:
                world.close()


def _is_sent(world: World) -> None:
    while not world.fleet.servers["s2"].transfers:
        assert world._turn()


def _attach(world: World, server: str) -> None:
    disk = {"type": "disk", "pool": "default", "source": "box1", "path": "/mnt"}
    world.fleet.launch(server, "reader", devices={"box1": disk}, runs=False)


@pytest.mark.parametrize("retire", Retire)
def test_a_source_that_is_attached_meanwhile_stays_and_nothing_is_left_on_the_target(
    pool: redis.ConnectionPool, retire: Retire
) -> None:
    """The job waits for a person, and says who attaches it."""

    def attaches(world: World, _: Person) -> None:
        _is_sent(world)
        _attach(world, "s1")

    job, world, _ = gone(pool, Method.VOLUME_MOVE, attaches, retire=retire)
    assert job.state is State.PARKED
    assert job.error
    assert "volume default/box1 is attached by reader now" in job.error.message
    assert world.fleet.servers["s2"].pools["default"].volumes == {}
    assert ("default", "box1") in world.fleet.servers["s1"].pools["default"].volumes


def test_a_volume_that_is_attached_while_it_is_refreshed_is_not_replaced(pool: redis.ConnectionPool) -> None:
    def attaches(world: World, _: Person) -> None:
        _is_sent(world)
        _attach(world, "s2")

    job, world, _ = gone(pool, Method.VOLUME_REFRESH, attaches)
    assert job.state is State.PARKED
    assert job.error
    assert "volume default/box1 is attached by reader now" in job.error.message
    (volume,) = world.fleet.servers["s2"].pools["default"].volumes.values()
    assert (volume.name, set(volume.snapshots)) == ("box1", {"gone"})


@pytest.mark.parametrize("method", VOLUME_WAYS)
@pytest.mark.parametrize("driver", ["btrfs", "dir"])
@pytest.mark.parametrize("server", ["s1", "s2"])
def test_a_daemon_that_dies_while_it_is_sent_costs_a_try(
    pool: redis.ConnectionPool, method: Method, driver: str, server: str
) -> None:
    def dies_then(world: World, _: Person) -> None:
        world.fleet.inject(Fault(kind=Kind.KILL, server=server, at_bytes=MIB, seconds=0.5))

    job, _, wrong = gone(pool, method, dies_then, driver=driver)
    assert (job.state, wrong) == (State.DONE, [])
    assert job.total_attempts >= 1


def test_a_cancel_waits_for_what_is_sent(pool: redis.ConnectionPool) -> None:
    def cancels_it(world: World, person: Person) -> None:
        _is_sent(world)
        person.ask("cancel", "default/box1")

    job, _, wrong = gone(pool, Method.VOLUME_MOVE, cancels_it)
    assert (job.state, wrong) == (State.CANCELLED, [])


def test_a_source_that_does_not_notice_the_death_of_its_target_is_not_waited_for(pool: redis.ConnectionPool) -> None:
    def dies_then(world: World, _: Person) -> None:
        _is_sent(world)
        source_notices_late(world, 100)
        world.fleet.kill("s2")
        world.later(1.0, lambda: world.fleet.start("s2"))

    job, _, wrong = gone(pool, Method.VOLUME_COPY, dies_then)
    assert (job.state, wrong) == (State.DONE, [])
    assert job.started_at
    assert job.finished_at
    assert job.finished_at - job.started_at < timedelta(seconds=50)


def test_a_job_that_waits_for_one_of_two_operations_is_not_woken_by_the_other(pool: redis.ConnectionPool) -> None:
    """It would be, at once and again and again."""

    def is_cut(world: World, _: Person) -> None:
        _is_sent(world)
        source_notices_late(world, 20)
        world.fleet.inject(Fault(kind=Kind.CUT_TRANSFERS, server="s2", at=0.0))

    job, world, wrong = gone(pool, Method.VOLUME_COPY, is_cut)
    assert (job.state, wrong) == (State.DONE, [])
    taken = [text for _, text in world.story if text.endswith("takes p1-1")]
    assert len(taken) < 20
