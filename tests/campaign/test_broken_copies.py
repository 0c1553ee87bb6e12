"""What LXD 5.0.2 leaves of a copy whose source was killed at a bad moment, and copies that go while they come."""

from dataclasses import replace
from datetime import timedelta
from unittest import mock

import pytest
import redis

from common.domain.errors import NotFound, PreconditionFailed
from common.domain.instance import Instance
from common.domain.job import Outcome, State
from common.domain.operation import Operation
from common.domain.plan import AfterGrace, Limits, Method, Retire
from tests.campaign.checker import check
from tests.campaign.line import scripts_in_virtual_time
from tests.campaign.mishaps import source_notices_late
from tests.campaign.scenario import Machine, Scenario, Server
from tests.campaign.trial import Person, build, story
from tests.campaign.world import World, virtual_waits
from tests.simulator import MIB, Fault, Guest, Kind
from tests.simulator.adapter import client_of
from workers.steps import independence, undo
from workers.steps.context import Context
from workers.steps.copies import find_operation, remove_copy
from workers.steps.marks import restored

_SIZE = 60
MACHINE = Machine(
    name="c1", source="s1", target="s2", runs=True, mib=_SIZE, guest=Guest(writes_per_second=20.0), snapshots=1,
    autostart="", method=Method.WARM, retire=Retire.STOP, after_grace=AfterGrace.FORCE,
)  # fmt: skip
SCENARIO = Scenario(
    1, (Server("s1", "btrfs", 20e6), Server("s2", "btrfs", 20e6)), (MACHINE,), (timedelta(0),), Limits()
)


@pytest.mark.parametrize(
    ("at_bytes", "passes"),
    [pytest.param(2 * _SIZE * MIB - MIB, 0, id="full-pass"), pytest.param(MIB // 4, 1, id="refresh")],
)
def test_a_source_killed_at_a_bad_byte_costs_a_wreck_and_not_the_move(
    pool: redis.ConnectionPool, at_bytes: int, passes: int
) -> None:
    """The volume of a snapshot, or of all of it, stays without its record: it is set aside, and the move ends well."""
    with scripts_in_virtual_time():
        world = World(pool, 1, switches=0.0)
        with virtual_waits(world), mock.patch.object(world.fleet, "leaves_orphan", return_value=True):
            were = build(world, SCENARIO)
            person = Person(world)
            person.submit("p1", MACHINE, SCENARIO)
            world.hire("w1")
            while len(world.jobs()[0].passes) < passes:
                assert world._turn()
            world.fleet.inject(Fault(kind=Kind.KILL, server="s1", at_bytes=at_bytes, seconds=0.5))
            world.run_until_rest()
            world.settle(60)
            (job,) = world.jobs()
            world.close()
    assert job.state is State.DONE, "\n".join(story(world))
    assert job.facts["wrecks"] == [f"s2:c1-wreck-{job.id}-1"]
    assert check(world.fleet, were, person.endings()) == []


def test_a_pass_whose_source_notices_late_that_it_broke_is_not_looked_at_again_and_again(
    pool: redis.ConnectionPool,
) -> None:
    """The end of the one of its two operations would wake the job at once, again and again."""
    with scripts_in_virtual_time():
        world = World(pool, 1, switches=0.0)
        with virtual_waits(world):
            were = build(world, SCENARIO)
            person = Person(world)
            person.submit("p1", MACHINE, SCENARIO)
            world.hire("w1")
            while not world.fleet.servers["s2"].transfers:
                assert world._turn()
            source_notices_late(world, 20)
            world.fleet.inject(Fault(kind=Kind.CUT_TRANSFERS, server="s2", at=0.0))
            world.run_until_rest()
            world.settle(60)
            (job,) = world.jobs()
            world.close()
    assert job.state is State.DONE, "\n".join(story(world))
    assert check(world.fleet, were, person.endings()) == []
    assert len([text for _, text in world.story if text.endswith("takes p1-1")]) < 40


def test_a_copy_that_is_released_late_is_not_removed_under_its_owner(pool: redis.ConnectionPool) -> None:
    """A worker sleeps before it sends the release; a cancel is about to remove the copy when it wakes: LXD refuses."""
    copied = replace(MACHINE, method=Method.COPY)
    with scripts_in_virtual_time():
        world = World(pool, 1, switches=0.0)
        build(world, replace(SCENARIO, machines=(copied,)))
        target = client_of(world.fleet, "s2", direct=True)
        asleep, told = list[Instance](), list[str]()

        def falls_asleep(ctx: Context, copy: Instance, state: str, **_: object) -> Outcome:
            asleep.append(copy)
            return ctx.wait_for(ctx.on_target("0"), blocked_on=state)

        def wakes(operations: tuple[Operation, ...], name: str) -> Operation | None:
            if not told:
                try:
                    told.append(target.replace(asleep[0], config=restored(asleep[0]), devices={}))
                except PreconditionFailed:
                    told.append("refused")
            return find_operation(operations, name)

        with virtual_waits(world), mock.patch.object(independence, "free_target", falls_asleep):
            person = Person(world)
            person.submit("p1", copied, SCENARIO)
            world.hire("w1")
            while not asleep:
                assert world._turn()
            person.ask("cancel", copied.name)
            with mock.patch.object(undo, "find_operation", wakes):
                world.run_until_rest()
            (job,) = world.jobs()
            world.close()
    assert (job.state, told) == (State.CANCELLED, ["refused"]), "\n".join(story(world))
    with pytest.raises(NotFound):
        target.instance(copied.name)


def test_a_copy_that_its_server_removes_by_itself_is_as_good_as_removed(pool: redis.ConnectionPool) -> None:
    """Incus does that with one that it did not receive whole, between a cancel's look and its request."""
    with scripts_in_virtual_time():
        world = World(pool, 1, switches=0.0)
        build(world, SCENARIO)
        target = client_of(world.fleet, "s2", direct=True)

        def is_removed_meanwhile(ctx: Context, copy: Instance) -> Outcome | None:
            world.fleet.servers["s2"].instances.pop(("default", copy.name))
            return remove_copy(ctx, copy)

        with virtual_waits(world):
            person = Person(world)
            person.submit("p1", MACHINE, SCENARIO)
            world.hire("w1")
            while not world.jobs()[0].passes:
                assert world._turn()
            person.ask("cancel", MACHINE.name)
            with mock.patch.object(undo, "remove_copy", is_removed_meanwhile):
                world.run_until_rest()
            (job,) = world.jobs()
            world.close()
    assert job.state is State.CANCELLED, "\n".join(story(world))
    with pytest.raises(NotFound):
        target.instance(MACHINE.name)


@pytest.mark.parametrize("drivers", [("dir", "btrfs"), ("dir", "dir"), ("btrfs", "btrfs")], ids="-".join)
def test_a_refresh_whose_target_dies_ends_with_the_data_of_all_snapshots(
    pool: redis.ConnectionPool, drivers: tuple[str, str]
) -> None:
    """LXD keeps a record of the snapshot that was arriving; where it uses rsync it never sends the data again."""
    refreshed = replace(MACHINE, method=Method.REFRESH, runs=False, snapshots=3)
    servers = tuple(Server(name, driver, 20e6) for name, driver in zip(("s1", "s2"), drivers, strict=True))
    scenario = replace(SCENARIO, servers=servers, machines=(refreshed,))
    with scripts_in_virtual_time():
        world = World(pool, 1, switches=0.0)
        with virtual_waits(world):
            were = build(world, scenario)
            person = Person(world)
            person.submit("p1", refreshed, scenario)
            world.hire("w1")
            while world.jobs()[0].step != "refresh_copy":
                assert world._turn()
            world.fleet.inject(Fault(kind=Kind.KILL, server="s2", at_bytes=MIB, seconds=0.5))
            world.run_until_rest()
            world.settle(60)
            (job,) = world.jobs()
            copy = world.fleet.servers["s2"].instances["default", refreshed.name]
            world.close()
    assert job.state is State.DONE, "\n".join(story(world))
    assert {name: snapshot.data is not None for name, snapshot in copy.snapshots.items()} == dict.fromkeys(
        ("snap0", "snap1", "snap2"), True
    )
    assert check(world.fleet, were, person.endings()) == []
