"""`herder backup failover` and `home`: backups take the place of what is lost, and come home with nothing lost."""

import signal
from pathlib import Path
from typing import Any

import pytest

from common.domain.itinerary import FAILOVER, GUARD_STALE, HOME, UNDO_FAILOVER
from common.domain.job import State
from common.domain.plan import Method
from tests.acceptance import world
from tests.acceptance.killed import Killed, around
from tests.acceptance.nights import Nights
from tests.acceptance.story import DONE, INPUT, NOT_ALL, UNREACHABLE, Herder, worker
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Tree, Wish
from tests.lab import LabServer, host

pytestmark = pytest.mark.lab

FAIL_OVER = ("backup", "failover", "s1:", "--on", "s2:", "--no-profiles", "--yes", "--json")
GO_HOME = ("backup", "home", "s2:", "--yes", "--json")
POLICIES = """\
policies:
  - name: nightly
    select: {source: s1}
    schedule: {when: "02:00"}
    targets: [{remote: s2, keep: {last: 1}}]
"""


def cut_power(server: LabServer) -> None:
    """The daemon and every process of its containers are gone at once."""
    server.kill()
    begins = f"[lxc monitor] {server.lxd_dir}/containers"
    monitors = [process for process in host.processes() if process.command.startswith(begins)]
    for guest in host.descendants(monitors):
        guest.send(signal.SIGKILL)
    host.wait_until("the end of all guests", lambda: not any(monitor.alive for monitor in monitors))


def files(server: LabServer, name: str, **where: str) -> Tree:
    return world.tree(world.rootfs(server, name, **where))


@pytest.fixture
def nights(s1: LabServer, s2: LabServer, herder: Herder) -> Nights:
    """A stopped and a running instance with volumes, backed up from s1 onto s2; a day has passed since."""
    story = Nights({"s1": s1, "s2": s2}, herder, instances=2, volumes=1, keep_on={"s2": {"last": 3}})
    story.begin()
    story.day()
    story.night()
    world.write(s1, "web2", "/srv/since", "written after the last night")
    return story


def test_what_is_lost_runs_from_its_backup_and_comes_home_with_what_both_sides_wrote(
    nights: Nights, s1: LabServer, s2: LabServer
) -> None:
    """The power of s1 fails; it comes back and starts what ran, which is stopped, guarded and kept. Then home again."""
    herder = nights.herder
    refused = herder.run(*FAIL_OVER).ended(NOT_ALL)
    assert "s1:web2: it is Running on s1" in refused.error
    assert "--source-is-down" in herder.run(*FAIL_OVER, "--source-is-down").ended(INPUT).error
    cut_power(s1)
    at_home = {name: files(s1, name) for name in nights.names}
    assert "--source-is-down" in herder.run(*FAIL_OVER).ended(UNREACHABLE).error
    before = {each["name"] for each in world.listing(s2)}

    failover = herder.start(*FAIL_OVER, "--source-is-down")
    host.wait_until("web2 to run on s2", lambda: world.status(s2, "web2") == "Running", seconds=60)
    for name in nights.names:
        assert files(s2, name) == nights.was[name, 0], name
        (volume,) = nights.shelves(name)
        assert world.tree(world.volume_folder(s2, volume)) == nights.was[volume, 0]
    world.write(s2, "web2", "/srv/on-s2", "written on s2")
    (world.volume_folder(s2, "web2-v1") / "on-s2").write_text("written on s2")
    host.wait_until("the watch to be told", lambda: all(_is_watched(herder, name) for name in nights.names), seconds=60)

    s1.start()
    (report,) = failover.wait().ended(DONE).json
    assert {world.status(s1, "web2"), world.status(s1, "web1"), world.status(s2, "web1")} == {"Stopped"}
    for each in report["jobs"]:
        name = each["name"]
        world.assert_cannot_start(s1, name)
        assert files(s1, name) == at_home[name]
        assert files(s1, name, snapshot=f"failover-{each['job']}") == at_home[name]
    world.restart_daemon(s1)
    assert world.status(s1, "web2") == "Stopped"
    assert {each["name"] for each in world.listing(s2)} == {*before, *nights.names}
    assert [trace for trace in world.traces_on(s2, "web2") if "failed-over" not in trace] == []

    _comes_home(nights, s1, s2, at_home)


def _is_watched(herder: Herder, name: str) -> bool:
    return any(f"to guard {name} there" in job.blocked_on for job in herder.jobs())


def _comes_home(nights: Nights, s1: LabServer, s2: LabServer, at_home: dict[str, Tree]) -> None:
    same = ("volatile.uuid", "volatile.cloud-init.instance-id")
    was = {key: (world.get(s1, "web2")["config"][key], world.get(s2, "web2")["config"][key]) for key in same}
    with NeverTwice(s1, s2):
        (report,) = nights.herder.run(*GO_HOME).ended(DONE).json
    now = world.get(s1, "web2")["config"]
    assert {key: (now[key], now[key]) for key in same} == was
    jobs = {each["name"]: each for each in report["jobs"]}
    assert world.status(s1, "web2") == "Running"
    assert (world.status(s1, "web1"), world.status(s2, "web2")) == ("Stopped", "Stopped")
    assert (world.rootfs(s1, "web2") / "srv/on-s2").read_text() == "written on s2"
    assert (world.volume_folder(s1, "web2-v1") / "on-s2").read_text() == "written on s2"
    assert not any("failed-over" in key for key in world.get(s1, "web2")["config"])
    for name in nights.names:
        stale = f"{name}-stale-{jobs[name]['job']}"
        assert files(s1, stale) == at_home[name]
        assert any(stale in note for note in jobs[name]["notes"])
        assert world.volumes(s1)[f"{name}-v1-stale-{jobs[name]['job']}"]["used_by"] == [f"/1.0/instances/{stale}"]
        world.assert_cannot_start(s1, stale)
        world.assert_cannot_start(s2, name)
    nights.night()
    for name in nights.names:
        (record,) = [
            each
            for each in world.listing(s2)
            if each["config"].get("user.herder-backup-at", "").startswith(f"{nights.at(1):%Y-%m-%d}")
            and each["config"]["user.herder-backup-of"] == f"s1:default/{name}"
        ]
        assert files(s2, record["name"]) == nights.was[name, 1]
    found = nights.herder.run("janitor", "s1:", "s2:", "--json").json["found"]
    held = {each["subject"]: each["held"] for each in found}
    for name in nights.names:
        assert "a failover has kept it" in held[f"{name}-stale-{jobs[name]['job']}"]


@pytest.fixture
def one(s1: LabServer, s2: LabServer, killed: Killed, home: Path) -> Killed:  # noqa: ARG001 - it must be there
    """``web`` runs on s1 and has a backup on s2."""
    world.make(s1, Wish(name="web", config={"boot.autostart": "true"}, files={"/root/data": "of the night"}))
    (home / "policies.yaml").write_text(POLICIES)
    killed.ends(killed.begins("backup", "run", "policies.yaml", "--json"), DONE)
    world.write(s1, "web", "/root/data", "of the day")
    return killed


@pytest.mark.exhaustive
@pytest.mark.parametrize("moment", ["before", "after"])
def test_workers_that_die_at_every_step_of_a_failover_and_of_the_way_home_are_carried_on(
    s1: LabServer, s2: LabServer, one: Killed, moment: str
) -> None:
    """The instance at home was stopped, so it is guarded first: from then on nothing starts it."""
    world.stop(s1, "web")
    with NeverTwice(s1, s2):
        failover = one.begins(*FAIL_OVER)
        one.strike(*((moment, step.name) for step in FAILOVER.steps))
        one.ends(failover, DONE)
        assert (world.status(s2, "web"), data(s2)) == ("Running", "of the night")
        world.assert_cannot_start(s1, "web")
        world.write(s2, "web", "/root/data", "of s2")
        homing = one.begins(*GO_HOME)
        one.strike(*((moment, step.name) for step in HOME[Method.WARM, False].steps))
        (report,) = one.ends(homing, DONE)
    assert (world.status(s1, "web"), data(s1), data(s2)) == ("Running", "of s2", "of s2")
    assert data(s1, f"web-stale-{report['jobs'][0]['job']}") == "of the day"
    world.assert_cannot_start(s2, "web")


@pytest.mark.exhaustive
def test_workers_that_die_while_home_is_silent_leave_its_guard_to_the_next_one(
    s1: LabServer, s2: LabServer, one: Killed
) -> None:
    """At every step without home, and while they wait for it; home is back, and runs, when nobody is at work."""
    cut_power(s1)
    failover = one.begins(*FAIL_OVER, "--source-is-down")
    blows = [blow for blow in around(FAILOVER) if FAILOVER.index(blow[1]) < FAILOVER.index(GUARD_STALE)]
    one.strike(*blows, ("before", GUARD_STALE))
    assert (world.status(s2, "web"), data(s2)) == ("Running", "of the night")
    watching = worker(one.herder, log=one.herder.home / "watching.log")
    host.wait_until("the watch to be told", lambda: _is_watched(one.herder, "web"), seconds=60)
    watching.kill()
    watching.wait()

    s1.start()
    host.wait_until("web to run at home", lambda: world.status(s1, "web") == "Running", seconds=60)
    one.ends(failover, DONE)
    (job,) = one.herder.jobs()
    assert job.state is State.DONE
    assert (world.status(s2, "web"), data(s2), world.status(s1, "web")) == ("Running", "of the night", "Stopped")
    world.assert_cannot_start(s1, "web")
    assert (world.rootfs(s1, "web", snapshot=f"failover-{job.id}") / "root/data").read_text() == "of the day"


@pytest.mark.exhaustive
@pytest.mark.incus_too
def test_what_is_stopped_at_home_fails_over_and_comes_home(
    s1: LabServer, s2: LabServer, herder: Herder, home: Path
) -> None:
    """Warm, and never do both run."""
    world.make(s1, Wish(name="web", files={"/root/data": "of the night"}))
    (home / "policies.yaml").write_text(POLICIES)
    herder.run("backup", "run", "policies.yaml", "--json").ended(DONE)
    world.write(s1, "web", "/root/data", "of the day")
    world.stop(s1, "web")
    with NeverTwice(s1, s2):
        herder.run(*FAIL_OVER).ended(DONE)
        assert (world.status(s2, "web"), data(s2)) == ("Running", "of the night")
        world.write(s2, "web", "/root/data", "of s2")
        (report,) = herder.run(*GO_HOME).ended(DONE).json
    assert [job["method"] for job in report["jobs"]] == ["warm"]
    assert (world.status(s1, "web"), data(s1)) == ("Running", "of s2")
    assert data(s1, f"web-stale-{report['jobs'][0]['job']}") == "of the day"
    world.assert_cannot_start(s2, "web")


@pytest.mark.exhaustive
def test_a_cancelled_failover_leaves_nothing_and_home_is_free_again(s1: LabServer, s2: LabServer, one: Killed) -> None:
    """Also one of which all workers of the way back die."""
    world.stop(s1, "web")
    was, there = world.get(s1, "web"), {each["name"] for each in world.listing(s2)}
    failover = one.begins(*FAIL_OVER)
    one.strike(("before", "take_over"))
    world.assert_cannot_start(s1, "web")
    (job,) = one.herder.jobs()
    one.herder.run("cancel", job.id, "--no-wait").ended(DONE)
    one.strike(*around(UNDO_FAILOVER))
    one.ends(failover, NOT_ALL)
    assert {each["name"] for each in world.listing(s2)} == there
    assert world.owners_config(world.get(s1, "web")) == world.owners_config(was)
    assert [trace for trace in world.traces_on(s1, "web") if "herder-nightly" not in trace] == []
    world.start(s1, "web")


@pytest.mark.exhaustive
def test_a_backup_on_a_dir_pool_fails_over_too_and_comes_home_cold(
    s1: LabServer, d1: LabServer, herder: Herder, home: Path
) -> None:
    """LXD's rsync could leave out what changes within a second, so nothing is sent while it runs."""
    world.make(s1, Wish(name="web", files={"/root/data": "of the night"}))
    (home / "policies.yaml").write_text(POLICIES.replace("s2", "d1"))
    herder.run("backup", "run", "policies.yaml", "--json").ended(DONE)
    world.write(s1, "web", "/root/data", "of the day")
    world.stop(s1, "web")
    with NeverTwice(s1, d1):
        herder.run("backup", "failover", "s1:web", "--on", "d1:", "--yes", "--json").ended(DONE)
        assert (world.status(d1, "web"), data(d1)) == ("Running", "of the night")
        world.write(d1, "web", "/root/data", "of d1")
        (report,) = herder.run("backup", "home", "d1:web", "--yes", "--json").ended(DONE).json
    assert [job["method"] for job in report["jobs"]] == ["cold"]
    assert (world.status(s1, "web"), data(s1)) == ("Running", "of d1")
    assert data(s1, f"web-stale-{report['jobs'][0]['job']}") == "of the day"


def data(server: LabServer, name: str = "web") -> Any:
    return (world.rootfs(server, name) / "root/data").read_text()
