"""The volumes of backups: one set of snapshots for all targets, of one moment, whoever dies while it is made."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest
import redis

from common.domain.job import State
from common.domain.plan import AfterGrace, Limits, Method, Retire
from tests.campaign.scenario import Machine, Scenario, Server
from tests.campaign.trial import Person, build
from tests.campaign.vault import back_up_earlier, check_backups
from tests.campaign.worker import Worker
from tests.campaign.world import World, open_world
from tests.simulator import Guest
from tests.simulator.model import Volume

WRITES_PER_SECOND = 5.0
MACHINE = Machine(
    name="c1", source="s1", target="s2", runs=True, mib=20, guest=Guest(writes_per_second=WRITES_PER_SECOND),
    snapshots=0, autostart="", method=Method.BACKUP, retire=Retire.STOP, after_grace=AfterGrace.FORCE, volumes=2,
    nights=1,
)  # fmt: skip
OTHER = replace(MACHINE, target="s3")
(SNAPSHOT,) = {order.snapshot for order in MACHINE.orders}


def volumes(world: World) -> list[Volume]:
    """Those of the source that the instance attaches."""
    there = world.fleet.servers["s1"].pools["default"].volumes
    return [there["default", place.partition("/")[2]] for place in MACHINE.shelves]


def backed_up(
    pool: redis.ConnectionPool,
    meanwhile: Callable[[World], None],
    *,
    driver: str = "btrfs",
    onto: tuple[Machine, ...],
    seed: int = 1,
) -> World:
    """The world after the run; all of it is done, and the judge has nothing to say."""
    scenario = Scenario(
        1,
        (Server("s1", driver, 60e6), Server("s2", "btrfs", 60e6), Server("s3", "dir", 60e6)),
        (MACHINE,),
        (timedelta(0),),
        Limits(),
    )
    with open_world(pool, seed, switches=0.5) as world:
        build(world, scenario)
        person = Person(world)
        for machine in onto:
            if machine is not MACHINE:
                back_up_earlier(world.fleet, machine, world.fleet.servers["s1"].instances["default", "c1"])
            person.submit(f"to-{machine.target}", machine, scenario)
        world.hire("w1")
        world.hire("w2")
        meanwhile(world)
        world.run_until_rest()
        world.settle(60)
        assert {job.state for job in world.jobs()} == {State.DONE}, [job.error for job in world.jobs()]
        for machine in onto:
            wrong = check_backups(world.fleet, machine, person.states(machine), forgets=False)
            assert wrong == [], machine.target
        return world


def apart(world: World) -> float:
    """How many seconds lie between the snapshots of the set, by what was written until each."""
    instance = world.fleet.servers["s1"].instances["default", "c1"].snapshots[SNAPSHOT].data
    assert instance
    versions = [instance.version, *(volume.snapshots[SNAPSHOT].version for volume in volumes(world))]
    return (max(versions) - min(versions)) / WRITES_PER_SECOND


def dying(*, before: int, point: int, back_in: float, last: bool = False) -> Callable[[World], None]:
    """A worker dies at this point after so many volumes have got the run's snapshot; all do, if it is the ``last``."""

    def arrange(world: World) -> None:
        points = count()

        def at_point(worker: Worker, _what: str, _is_write: bool) -> None:
            is_reached = sum(SNAPSHOT in volume.snapshots for volume in volumes(world)) == before
            if is_reached and next(points) == point:
                world.at_points.clear()
                for each in world.workers if last else [worker]:
                    world.kill(each, back_in=back_in)

        world.at_points.append(at_point)

    return arrange


@pytest.mark.parametrize("driver", ["btrfs", "dir"])
@pytest.mark.parametrize("seed", range(1, 7))
def test_jobs_of_several_targets_share_one_set(pool: redis.ConnectionPool, driver: str, seed: int) -> None:
    """In whatever order they take their turns: if they ask for a snapshot at the same instant, one of them fails."""
    world = backed_up(pool, lambda _: None, driver=driver, onto=(MACHINE, OTHER), seed=seed)
    assert apart(world) < 10
    assert [set(volume.snapshots) for volume in volumes(world)] == [{"first", SNAPSHOT}] * 2


@pytest.mark.exhaustive
@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("point", range(6))
def test_a_set_of_which_a_part_is_old_is_made_anew(pool: redis.ConnectionPool, before: int, point: int) -> None:
    """Nobody is there for ten minutes after the first snapshots: all of it is of one moment in the end."""
    world = backed_up(pool, dying(before=before, point=point, back_in=600, last=True), onto=(MACHINE,))
    assert world.now() > 600
    assert apart(world) < 60


@pytest.mark.exhaustive
@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("point", range(6))
def test_the_job_of_another_target_takes_a_set_over_whose_maker_is_gone(
    pool: redis.ConnectionPool, before: int, point: int
) -> None:
    """The other worker goes on; when the first one is back it uses the set that is there."""
    world = backed_up(pool, dying(before=before, point=point, back_in=600), onto=(MACHINE, OTHER))
    assert apart(world) < 60
