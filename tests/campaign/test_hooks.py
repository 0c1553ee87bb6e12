"""What a hook has made quiet for its backup goes on afterwards, whoever dies, and whatever a person asks for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
import redis

from common.domain.generation import Hook
from common.domain.itinerary import ARCHIVE_OF_SNAPSHOT, BACKUP, Itinerary
from common.domain.job import State
from common.domain.plan import AfterGrace, Limits, Method, Retire
from tests.campaign.matrix import cancels, points
from tests.campaign.scenario import Machine, Scenario, Server
from tests.campaign.trial import Person, build
from tests.campaign.vault import check_hooks
from tests.campaign.worker import Worker
from tests.campaign.world import World, open_world
from tests.simulator import Guest, daemon

_WITH_HOOKS = (BACKUP, ARCHIVE_OF_SNAPSHOT)


@pytest.mark.parametrize("itinerary", _WITH_HOOKS, ids=lambda itinerary: itinerary.name)
def test_a_backup_that_is_cancelled_between_its_hooks_leaves_nothing_quiet(
    pool: redis.ConnectionPool, itinerary: Itinerary
) -> None:
    """At each point around the snapshot; also if the worker dies in the same moment."""
    meant = [point for point in points(pool, itinerary) if point.step == "take_snapshot"]
    ends = [cancels(pool, itinerary, point, dies=dies) for point in meant for dies in (False, True)]
    assert [line for violations, _ in ends for line in violations] == []
    assert {state for _, state in ends} == {State.CANCELLED}


BEFORE, AFTER = "be quiet", "go on"
MACHINE = Machine(
    name="c1", source="s1", target="s2", runs=True, mib=20, guest=Guest(writes_per_second=5.0), snapshots=0,
    autostart="", method=Method.BACKUP, retire=Retire.STOP, after_grace=AfterGrace.FORCE, nights=1,
    hook=Hook(before=(BEFORE,), after=(AFTER,)),
)  # fmt: skip


@contextmanager
def a_night(pool: redis.ConnectionPool, *machines: Machine, seed: int = 1) -> Iterator[World]:
    """The jobs of a run are there, and so are two workers; what happens is up to the test."""
    servers = tuple(Server(name, "btrfs", 60e6) for name in ("s1", "s2", "s3"))
    scenario = Scenario(1, servers, machines[:1], (timedelta(0),), Limits())
    with open_world(pool, seed, switches=0.5) as world:
        build(world, scenario)
        person = Person(world)
        for number, machine in enumerate(machines, 1):
            person.submit(f"p{number}", machine, scenario)
        world.hire("w1")
        world.hire("w2")
        yield world


def executed(world: World) -> list[tuple[float, str]]:
    """The lines that have ended in the instance, and when."""
    history = world.fleet.servers["s1"].history.of("c1", "executed")
    return [(entry.at, entry.detail["command"][-1]) for entry in history]


def once(world: World, act: Callable[[], object], *, after: str) -> None:
    """Do something as soon as these lines have ended."""

    def at_point(_worker: Worker, _what: str, _is_write: bool) -> None:
        if after in {line for _, line in executed(world)}:
            world.at_points.remove(at_point)
            act()

    world.at_points.append(at_point)


def test_lines_that_fail_leave_no_snapshot_and_those_after_run_all_the_same(pool: redis.ConnectionPool) -> None:
    """The job is parked with the reason in the end, and nothing is quiet any more."""
    failing = replace(MACHINE, hook=Hook(before=("exit 3",), after=(AFTER,)))
    with a_night(pool, failing) as world:
        world.run_until_rest()
        (job,) = world.jobs()
        assert (job.state, "hook before" in str(job.error), "exit code 3" in str(job.error)) == (
            State.PARKED,
            True,
            True,
        )
        assert executed(world)[-1][1] == AFTER
        assert list(check_hooks(world.fleet, failing)) == []
        assert not world.fleet.servers["s1"].instances["default", "c1"].snapshots


def test_what_is_quiet_waits_for_no_other_server(pool: redis.ConnectionPool) -> None:
    """The target dies when the lines before have ended: those after run at once, and the backup when it is back."""
    with a_night(pool, MACHINE) as world:
        target = world.fleet.servers["s2"]
        once(world, lambda: daemon.kill(target), after=BEFORE)
        world.later(900, lambda: daemon.start(target))
        world.run_until_rest()
        (begun, _), (over, _) = executed(world)
        assert (over - begun < 5, world.now() > 900) == (True, True)
        assert [job.state for job in world.jobs()] == [State.DONE]
        assert list(check_hooks(world.fleet, MACHINE)) == []


@pytest.mark.parametrize("seed", range(1, 5))
def test_two_policies_do_not_come_between_each_others_lines(pool: redis.ConnectionPool, seed: int) -> None:
    """The second one waits, in whatever order the jobs take their turns."""
    other = replace(MACHINE, target="s3", run_by="weekly")
    with a_night(pool, MACHINE, other, seed=seed) as world:
        world.run_until_rest()
        assert {job.state for job in world.jobs()} == {State.DONE}
        assert [line for _, line in executed(world)] == [BEFORE, AFTER] * 2
        assert [*check_hooks(world.fleet, MACHINE), *check_hooks(world.fleet, other)] == []


def test_what_a_job_that_is_gone_has_left_quiet_is_not_waited_for_without_end(pool: redis.ConnectionPool) -> None:
    """Its mark is on the instance, and Redis knows nothing of it: the next run takes it over and ends it."""
    with a_night(pool, MACHINE) as world:
        world.fleet.servers["s1"].instances["default", "c1"].config["user.herder.hook"] = "gone-1"
        world.run_until_rest()
        assert [job.state for job in world.jobs()] == [State.DONE]
        assert 100 < world.now() < 400
        assert list(check_hooks(world.fleet, MACHINE)) == []
