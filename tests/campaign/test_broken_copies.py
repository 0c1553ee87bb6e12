"""What LXD 5.0.2 leaves of a copy whose source was killed at a bad moment, and how a job goes on from there."""

from datetime import timedelta
from unittest import mock

import pytest
import redis

from common.domain.job import State
from common.domain.plan import AfterGrace, Limits, Method, Retire
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
