"""Custom volumes from LXD to Incus 6.0.4, which crashes if LXD sends it one: they go as backups, and lose nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import test_lone_volumes as lone
from tests.acceptance import world
from tests.acceptance.choke import Choke
from tests.acceptance.story import DONE, NOT_ALL, Herder, worker
from tests.acceptance.test_volumes import NAME, assert_same_volumes, device, files, make_database, traces
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, host

pytestmark = [pytest.mark.lab, pytest.mark.of_lxd, pytest.mark.timeout(300)]

WHY = "carried by a worker: Incus 6.0.4 crashes when LXD sends it a custom volume"
#: How many go in the evacuation.
MANY = 12


@pytest.fixture
def s1(incus: Lab) -> Iterator[LabServer]:
    """A server of LXD."""
    yield from world.cleaned(incus.servers["s1"])


@pytest.fixture
def i1(incus: Lab) -> Iterator[LabServer]:
    """A server of Incus."""
    yield from world.cleaned(incus.servers["i1"])


@pytest.fixture
def herder(incus: Lab, home: Path) -> Herder:
    """A user of all servers of the lab."""
    return Herder.of(incus, home)


def leftovers(*servers: LabServer) -> list[str]:
    """Backups of volumes, and volumes that bear the name of an import."""
    found = []
    for server in servers:
        for name in world.volumes(server):
            found += [name] if "-import-" in name else []
            found += server.query("GET", f"{world.VOLUMES}/{name}/backups")
    return found


def said(ran: Any) -> str:
    return " ".join(f"{ran.out} {ran.err}".split())


@pytest.mark.parametrize("method", ["warm", "cold"])
def test_volumes_go_with_their_instance_from_lxd_to_incus(
    s1: LabServer, i1: LabServer, herder: Herder, method: str
) -> None:
    """With all that was written until the stop, snapshots, config and owners. The daemon of Incus lives on."""
    make_database(s1)
    world.take_snapshot(s1, NAME, "s0")
    daemon = i1.pid
    with NeverTwice(s1, i1):
        ran = herder.run("move", f"s1:{NAME}", "i1:", "--method", method, "--yes", "--json").ended(DONE)
    (job,) = ran.json["jobs"]
    assert job["state"] == "done"
    world.assert_moved(s1, i1, NAME)
    assert_same_volumes(s1, i1)
    assert "s0" in world.snapshots(i1, NAME)
    assert leftovers(s1, i1) == []
    assert i1.pid == daemon


def test_the_plan_says_that_volumes_go_as_backups_and_why(s1: LabServer, i1: LabServer, herder: Herder) -> None:
    """So does that of a volume by itself. A copy of an instance has volumes of its own."""
    make_database(s1)
    ran = herder.run("copy", f"s1:{NAME}", "i1:", "--yes").ended(DONE)
    assert f"its custom volumes default/data, default/logs go as backups, {WHY}" in said(ran)
    assert world.status(s1, NAME) == "Running"
    assert (traces(s1), traces(i1), leftovers(s1, i1)) == ([], [], [])
    assert files(i1, "data", snapshot="monday") == files(s1, "data", snapshot="monday")
    world.start(i1, NAME)
    assert "old" in i1.lxc("exec", NAME, "--", "ls", "/mnt/data")
    ran = herder.run("volume", "copy", "s1:default/data", "i1:default/other", "--yes").ended(DONE)
    assert f"it goes as a backup, {WHY}" in said(ran)


def test_a_volume_by_itself_is_copied_refreshed_and_moved_from_lxd_to_incus(
    s1: LabServer, i1: LabServer, herder: Herder
) -> None:
    """A refresh keeps the config of what is there; a move under another name retires the source."""
    lone.make(s1)
    lone.make(i1, tier="silver")
    was, there = lone.seen(s1), lone.seen(i1)
    herder.run("volume", "refresh", lone.DATA, "i1:", "--yes").ended(DONE)
    now = lone.seen(i1)
    assert (now.files, now.snapshots) == (was.files, was.snapshots)
    assert (now.config, now.description) == (there.config, there.description)
    move = ("volume", "move", lone.DATA, "i1:default/data2", "--limit", "4MiB/s", "--yes", "--json")
    (job,) = herder.run(*move).ended(DONE).json["jobs"]
    assert job["way"] == "backup: a worker carries it from s1 to i1"
    assert lone.seen(i1, "data2") == was
    assert lone.retired(s1)
    assert lone.names(i1) == {"data", "data2"}
    assert leftovers(s1, i1) == []


def test_a_volume_goes_without_its_snapshots_and_its_source_goes(s1: LabServer, i1: LabServer, herder: Herder) -> None:
    lone.make(s1)
    was = lone.seen(s1).files
    herder.run("volume", "move", lone.DATA, "i1:", "--retire", "delete", "--volume-only", "--yes").ended(DONE)
    assert lone.names(s1) == set()
    assert (lone.seen(i1).files, lone.seen(i1).snapshots) == (was, {})


@pytest.fixture
def choke(s1: LabServer, i1: LabServer) -> Iterator[Choke]:
    """Holds the first volume in the middle of its way into the target."""
    make_database(s1, mebibytes=16)
    with Choke(i1, inward=True) as choke, NeverTwice(s1, i1):
        yield choke


@pytest.fixture
def choked(incus: Lab, home: Path, choke: Choke) -> Herder:
    return Herder.of(incus, home).having(choke.configuration(incus, home / "conf"))


def _kill_workers(choke: Choke, _s1: LabServer, _i1: LabServer, herder: Herder) -> None:
    """The command starts others."""
    home = str(herder.home)
    found = [p for p in host.processes() if "workers" in p.command and p.environment.get("HOME") == home]
    assert found
    host.end_all(found)
    choke.release()


def _kill_source(choke: Choke, s1: LabServer, _i1: LabServer, _: Herder) -> None:
    s1.kill()
    choke.release()
    s1.start()


def _kill_target(choke: Choke, _s1: LabServer, i1: LabServer, _: Herder) -> None:
    i1.kill()
    choke.release()
    i1.start()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "disaster",
    [_kill_target, _kill_workers, _kill_source],
    ids=["the target dies", "the workers die", "the source dies"],
)
def test_a_move_to_incus_outlives_it_in_the_middle_of_a_volume(
    choke: Choke,
    choked: Herder,
    s1: LabServer,
    i1: LabServer,
    disaster: Callable[[Choke, LabServer, LabServer, Herder], None],
) -> None:
    """What was half there is gone afterwards."""
    running = choked.start("move", f"s1:{NAME}", "i1:", "--yes", "--json")
    choke.wait_held()
    disaster(choke, s1, i1, choked)
    (job,) = running.wait().ended(DONE).json["jobs"]
    assert job["state"] == "done"
    world.assert_moved(s1, i1, NAME)
    assert_same_volumes(s1, i1)
    assert leftovers(s1, i1) == []


def test_a_cancel_in_the_middle_of_a_volume_to_incus_leaves_nothing(
    choke: Choke, choked: Herder, s1: LabServer, i1: LabServer
) -> None:
    """Volumes that others have made on the target stay."""
    world.make_volume(i1, "other")
    running = choked.start("move", f"s1:{NAME}", "i1:", "--yes", "--json")
    choke.wait_held()
    choked.run("cancel", choked.jobs()[0].plan, "--no-wait").ended(DONE)
    choke.release()
    (job,) = running.wait().ended(NOT_ALL).json["jobs"]
    assert job["state"] == "cancelled"
    world.assert_untouched(s1, i1, NAME)
    assert world.volumes(i1).keys() == {"other"}
    assert (traces(s1), leftovers(s1, i1)) == ([], [])


@pytest.mark.exhaustive
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_worker_leaves_volumes_that_another_brings_to_incus(
    s1: LabServer, i1: LabServer, herder: Herder, redis_url: str, when: str
) -> None:
    """SIGKILL right before they are sent, and right after."""
    make_database(s1)
    user = herder.having(HERDER_REDIS_URL=redis_url, HERDER_NAMESPACE=f"volumes-{when}")
    log = herder.home / "worker.log"
    with NeverTwice(s1, i1):
        running = user.start("move", f"s1:{NAME}", "i1:", "--yes")
        dies = worker(user, "--at", when, "final_volumes", "--flag", str(herder.home / "died"), log=log)
        assert dies.wait(60) == -9, log.read_text()
        heir = worker(user, log=log)
        running.wait().ended(DONE)
        heir.terminate()
        heir.wait(30)
    world.assert_moved(s1, i1, NAME)
    assert_same_volumes(s1, i1)
    assert leftovers(s1, i1) == []


def test_twelve_running_containers_with_snapshots_and_volumes_go_from_lxd_to_incus_warm(
    s1: LabServer, i1: LabServer, herder: Herder
) -> None:
    """All arrive with all they have; none ever runs on both sides."""
    names = [f"web{number}" for number in range(1, MANY + 1)]
    for name in names:
        world.make_volume(s1, f"of-{name}", description=f"data of {name}", **{"user.owner": name})
        disk = {**device(f"of-{name}"), "path": "/mnt/data"}
        world.make(s1, Wish(name=name, config={"user.owner": name}, devices={"data": disk}))
        world.write(s1, name, "/root/data", name * 1000)
        world.take_snapshot(s1, name, "s0")
        world.write(s1, name, "/root/later", f"written by {name} after its snapshot")
        world.write(s1, name, "/mnt/data/file", f"of {name}")
        s1.query("POST", f"{world.VOLUMES}/of-{name}/snapshots", {"name": "monday"})
        world.write(s1, name, "/mnt/data/file", f"of {name}, changed")
    with NeverTwice(s1, i1):
        report = herder.run("evacuate", "s1:", "--to", "i1:", "--yes", "--json").ended(DONE).json
    assert [(job["state"], job["method"]) for job in report["jobs"]] == [("done", "warm")] * MANY
    for name in names:
        world.assert_moved(s1, i1, name)
        assert list(world.snapshots(i1, name)) == ["s0"]
        for part in ("", "s0"):
            roots = [world.tree(world.rootfs(each, name, snapshot=part) / "root") for each in (s1, i1)]
            assert roots[0] == roots[1]
        for part in ("", "monday"):
            assert files(i1, f"of-{name}", snapshot=part) == files(s1, f"of-{name}", snapshot=part)
        assert world.volumes(i1)[f"of-{name}"]["config"]["user.owner"] == name
        assert i1.lxc("exec", name, "--", "cat", "/mnt/data/file") == f"of {name}, changed"
    assert (traces(i1), leftovers(s1, i1)) == ([], [])
