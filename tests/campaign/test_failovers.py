"""Failovers and the way home on simulated servers: whoever dies where, one of the two runs, and nothing is lost."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
import redis

from common.domain.fleet import Fleet as Seen
from common.domain.generation import BACKUP_DEFINITION, Generation
from common.domain.instance import FAILED_OVER
from common.domain.job import State
from common.domain.plan import AfterGrace, Limits, Method, Overrides, Plan, Policy, Request, Retire
from common.lxd.survey import survey
from producer import control
from producer.failing_over import as_failover, requests_home
from producer.planner import make_plan
from producer.restoring import Chosen, Wanted, requests
from producer.submit import submit
from tests.campaign.scenario import Machine, Scenario, Server
from tests.campaign.trial import build, story
from tests.campaign.worker import Worker
from tests.campaign.world import World, open_world
from tests.simulator import Fault, Guest, Kind
from tests.simulator.model import Instance

STOPPED = Machine(
    name="c1", source="s1", target="s2", runs=False, mib=4, guest=Guest(writes_per_second=5.0), snapshots=0,
    autostart="true", method=Method.BACKUP, retire=Retire.STOP, after_grace=AfterGrace.FORCE, volumes=1,
)  # fmt: skip
RUNNING = replace(STOPPED, runs=True)
FIXED = {"type": "nic", "nictype": "bridged", "parent": "br0", "hwaddr": "00:16:3e:00:00:09"}
AT_HOME, AWAY = "s1", "s2"
_OUTAGE = 40.0


@contextmanager
def staged(pool: redis.ConnectionPool, machine: Machine) -> Iterator[World]:
    """An instance on s1, and a backup of it on s2 that is older than what it has."""
    servers = tuple(Server(name, "btrfs", 60e6) for name in (AT_HOME, AWAY))
    with open_world(pool, 1, switches=0.0) as world:
        build(world, Scenario(1, servers, (machine,), (timedelta(0),), Limits()))
        instance(world, AT_HOME).devices["eth9"] = dict(FIXED)
        world.hire("w1")
        yield world


def instance(world: World, server: str, name: str = "c1") -> Instance:
    return world.fleet.servers[server].instances["default", name]


def fail_over(world: World) -> Plan:
    """Planned as the command does, from what answers."""
    seen = survey(world.client_of(AWAY), projects=("default",))
    (generation,) = filter(None, (Generation.of(each, AWAY) for each in seen.instances))
    (told,) = (json.loads(each.config[BACKUP_DEFINITION]) for each in seen.instances if each.name == generation.name)
    definition = {
        **told,
        "name": "c1",
        "config": {"boot.autostart": "true", "volatile.eth0.hwaddr": "00:16:3e:00:00:01"},
        "devices": told["expanded_devices"],
        "expanded_devices": {"root": {"type": "disk", "path": "/", "pool": "default"}, **told["expanded_devices"]},
        "ran": True,
    }
    chosen = [Chosen(generation, definition)]
    (request,) = requests(chosen, Wanted(to=AWAY, keeps_addresses=True, takes_place=True))
    answers = world.fleet.servers[AT_HOME].is_up
    homes = {AT_HOME: world.client_of(AT_HOME).instances()} if answers else {}
    return as_failover(planned(world, request, AWAY), chosen, homes)


def planned(world: World, request: Request, *names: str) -> Plan:
    servers = {name: survey(world.client_of(name), projects=("default",)) for name in names}
    plan_id = f"p{len(world.store.plans()) + 1}"
    return make_plan(request, Seen(seen_at=world.clock.moment(), servers=servers), plan_id=plan_id)


def go_home(world: World) -> Plan:
    (made,) = (each for each in world.client_of(AWAY).instances() if FAILED_OVER in each.config)
    (request,) = requests_home([(AWAY, made)], Policy(grace=timedelta(seconds=5)), Limits(), Overrides())
    return planned(world, request, AWAY, AT_HOME)


def carried_out(world: World, plan: Plan) -> None:
    """To its end."""
    assert plan.moves, plan.refusals
    submit(plan, world.store)
    world.run_until_rest()
    world.settle(60)
    ended = [job for job in world.jobs() if job.plan == plan.id]
    assert [job.state for job in ended] == [State.DONE], "\n".join([str(ended[0].error), *story(world)])


def dying(point: int) -> Callable[[World], None]:
    """The worker dies at its request of this number, and another one comes."""

    def arrange(world: World) -> None:
        left = [point]

        def at_point(worker: Worker, what: str, _is_write: bool) -> None:
            left[0] -= 1
            if left[0] < 0:
                world.at_points.clear()
                world.tell(f"dies before {what}")
                world.kill(worker, back_in=1.0)

        world.at_points.append(at_point)

    return arrange


def check_never_two(world: World) -> None:
    """From the first entry of the histories to the last, whoever has the name then."""
    runs: set[str] = set()
    for entry in sorted(world.fleet.history(), key=lambda each: (each.at, each.kind != "stopped")):
        if entry.instance != "c1":
            continue
        if entry.kind == "started":
            assert not runs - {entry.server}, story(world)
            runs.add(entry.server)
        elif entry.kind == "stopped":
            runs.discard(entry.server)


def check_failed_over(world: World, lost: str) -> None:
    """The backup runs on s2 with its volume, as the machine that it was; at home nothing can start."""
    made, stale = instance(world, AWAY), instance(world, AT_HOME)
    (backup,) = (each for (_, name), each in world.fleet.servers[AWAY].instances.items() if name != "c1")
    assert made.is_alive
    assert backup.data
    assert not backup.is_alive
    assert made.config["volatile.eth0.hwaddr"] == "00:16:3e:00:00:01"
    assert [key for key in made.config if key.startswith("user.herder.")] == []
    assert made.devices["c1-0"]["source"] == "c1-0"
    assert stale.data
    assert (stale.is_alive, stale.data.token) == (False, lost)
    assert "herder-guard" in stale.devices
    assert stale.config["boot.autostart"] == "false"


def check_home(world: World, lost: str, job: str) -> None:
    """It runs at home with what it wrote on s2; what was at home is beside it."""
    home, away, stale = instance(world, AT_HOME), instance(world, AWAY), instance(world, AT_HOME, f"c1-stale-{job}")
    assert home.is_alive
    assert not away.is_alive
    assert "herder-guard" in away.devices
    assert stale.data
    assert (stale.is_alive, stale.data.token) == (False, lost)
    assert stale.devices["c1-0"]["source"] == f"c1-0-stale-{job}"
    assert stale.devices["eth9"] == {"type": "none"}
    assert home.devices["c1-0"]["source"] == "c1-0"
    assert FAILED_OVER not in home.config
    assert [key for key in home.config if key.startswith("user.herder.")] == []
    started = [e for e in world.fleet.history() if (e.kind, e.server, e.instance) == ("started", AT_HOME, "c1")][-1]
    last = [e for e in world.fleet.history() if (e.kind, e.server, e.instance) == ("stopped", AWAY, "c1")][-1]
    assert started.detail["token"] == last.detail["token"]


def there_and_back(
    pool: redis.ConnectionPool, *, over: Callable[[World], object], back: Callable[[World], object]
) -> None:
    with staged(pool, STOPPED) as world:
        data = instance(world, AT_HOME).data
        assert data
        over(world)
        carried_out(world, fail_over(world))
        world.at_points.clear()
        check_failed_over(world, data.token)
        world.settle(10)
        back(world)
        plan = go_home(world)
        carried_out(world, plan)
        check_home(world, data.token, plan.job_id(0))
        check_never_two(world)


@pytest.fixture
def known(pool: redis.ConnectionPool) -> tuple[int, int]:
    """How many requests a failover makes, and the way home."""
    over: list[str] = []
    back: list[str] = []
    there_and_back(
        pool,
        over=lambda world: world.at_points.append(lambda _w, what, _is_write: over.append(what)),
        back=lambda world: world.at_points.append(lambda _w, what, _is_write: back.append(what)),
    )
    return len(over), len(back)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(6))
def test_a_worker_that_dies_anywhere_in_a_failover_or_on_the_way_home_harms_nothing(
    pool: redis.ConnectionPool, known: tuple[int, int], part: int
) -> None:
    """One death on each way, at every third of its requests."""
    longest = max(known)
    for point in range(3 * part, longest, 18):
        over, back = dying(point % known[0]), dying(point % known[1])
        there_and_back(pool, over=over, back=back)


def cancelling(point: int, plan: Plan) -> Callable[[World], None]:
    """A person cancels at the request of this number, and the worker dies in the same moment."""

    def ask(world: World) -> None:
        control.cancel(plan.id, world.store)

    def arrange(world: World) -> None:
        left = [point]

        def at_point(worker: Worker, _what: str, _is_write: bool) -> None:
            left[0] -= 1
            if left[0] < 0:
                world.at_points.clear()
                world.later(0.0, partial(ask, world))
                world.kill(worker, back_in=1.0)

        world.at_points.append(at_point)

    return arrange


def cancelled(world: World, plan: Plan, point: int) -> bool:
    """Whether it was; if not, it is done."""
    cancelling(point, plan)(world)
    submit(plan, world.store)
    world.run_until_rest()
    world.settle(60)
    (job,) = (job for job in world.jobs() if job.plan == plan.id)
    assert job.state in (State.CANCELLED, State.DONE), "\n".join([str(job.error), *story(world)])
    return job.state is State.CANCELLED


def owned(world: World, server: str) -> dict[str, object]:
    """What is on a server: instances with config and devices, and who has which volume."""
    there = world.fleet.servers[server]
    found: dict[str, object] = {n: (dict(each.config), dict(each.devices)) for (_, n), each in there.instances.items()}
    return found | {f"volume {name}": "" for _, name in there.pools["default"].volumes}


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(6))
def test_a_failover_that_is_cancelled_anywhere_leaves_one_side_free(
    pool: redis.ConnectionPool, known: tuple[int, int], part: int
) -> None:
    """Cancelled, home is as it was and nothing is on s2; past the commit point it has ended as if nobody had asked."""
    for point in range(3 * part, known[0], 18):
        with staged(pool, STOPPED) as world:
            data, was = instance(world, AT_HOME).data, [owned(world, server) for server in (AT_HOME, AWAY)]
            assert data
            if cancelled(world, fail_over(world), point):
                assert [owned(world, server) for server in (AT_HOME, AWAY)] == was, story(world)
            else:
                check_failed_over(world, data.token)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(6))
def test_a_way_home_that_is_cancelled_anywhere_gives_everybody_his_name_back(
    pool: redis.ConnectionPool, known: tuple[int, int], part: int
) -> None:
    """Cancelled, the instance runs on, and what the failover left at home is what it was and is called as it was."""
    for point in range(3 * part + 1, known[1], 18):
        with staged(pool, STOPPED) as world:
            data = instance(world, AT_HOME).data
            assert data
            carried_out(world, fail_over(world))
            was = owned(world, AT_HOME)
            plan = go_home(world)
            if cancelled(world, plan, point):
                assert owned(world, AT_HOME) == was, story(world)
                check_failed_over(world, data.token)
            else:
                check_home(world, data.token, plan.job_id(0))
            check_never_two(world)


def test_what_comes_back_and_runs_is_stopped_guarded_and_kept(pool: redis.ConnectionPool) -> None:
    """s1 does not answer for a while, and its guest runs on: nobody could know. The job waits for it by name."""
    with staged(pool, RUNNING) as world:
        world.fleet.inject(Fault(kind=Kind.KILL, server=AT_HOME, at=world.now() + 0.1, seconds=_OUTAGE))
        world.settle(1.0)
        plan = fail_over(world)
        assert "you say that the server of s1:c1 is down" in "".join(plan.warnings)
        told: set[str] = set()
        world.at_points.append(lambda *_: told.update(job.blocked_on for job in world.jobs()))
        carried_out(world, plan)
        data = instance(world, AT_HOME).data
        assert data
        check_failed_over(world, data.token)
        kept = instance(world, AT_HOME).snapshots[f"failover-{plan.job_id(0)}"].data
        assert kept
        assert kept.token == data.token
        assert any("server s1 unreachable since" in each and "to guard c1 there" in each for each in told), told
        stopped = next(e.at for e in world.fleet.history() if (e.kind, e.server) == ("stopped", AT_HOME))
        assert stopped < _OUTAGE + 5
