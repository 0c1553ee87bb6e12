"""A real container with two custom volumes moves, with what it writes into them until it is stopped."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.domain.itinerary import UNDO
from tests.acceptance import world
from tests.acceptance.choke import Choke
from tests.acceptance.story import DONE, NOT_ALL, Herder
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, RefusedError, host

pytestmark = pytest.mark.lab

NAME = "db"
VOLUMES = ("data", "logs")
#: It writes into both as long as it lives.
WRITER = "while :; do date +%s%N >> /mnt/data/log; dd if=/dev/urandom of=/mnt/logs/new bs=64k count=1; sleep 0.05; done"


def _path(volume: str = "", *rest: str) -> str:
    return "/".join(["/1.0/storage-pools/default/volumes/custom", *([volume, *rest] if volume else [])])


def device(volume: str) -> dict[str, str]:
    """What attaches a volume."""
    return {"type": "disk", "pool": "default", "source": volume, "path": f"/mnt/{volume}"}


def make_database(server: LabServer, *, mebibytes: int = 4) -> None:
    """A running container with two volumes, the first with a snapshot, and somebody at work in both."""
    for volume in VOLUMES:
        server.query("POST", _path(), {"name": volume, "config": {"user.tier": volume}, "description": f"its {volume}"})
    world.make(server, Wish(name=NAME, devices={volume: device(volume) for volume in VOLUMES}))
    world.fill(server, NAME, mebibytes, path="/mnt/data/old")
    server.query("POST", _path("data", "snapshots"), {"name": "monday"})
    world.fill(server, NAME, 1, path="/mnt/data/old")
    server.lxc("exec", NAME, "--", "sh", "-c", f"({WRITER}) > /dev/null 2>&1 &")


def files(server: LabServer, volume: str, *, snapshot: str = "") -> world.Tree:
    """What is in it, with owners and times."""
    return world.tree(world.volume_folder(server, volume, snapshot=snapshot))


def traces(server: LabServer) -> list[str]:
    """The marks of herder on its volumes."""
    found = [(name, key) for name, record in world.volumes(server).items() for key in record["config"]]
    return [f"{key} of {name}" for name, key in found if key.startswith(world.MARK)]


def assert_same_volumes(source: LabServer, target: LabServer) -> None:
    """The target's are the source's as it left them when it was stopped."""
    there, here = world.volumes(target), world.volumes(source)
    for volume in VOLUMES:
        assert files(target, volume) == files(source, volume)
        assert there[volume]["config"]["user.tier"] == volume
        assert there[volume]["description"] == here[volume]["description"]
        assert here[volume]["config"][f"{world.MARK}state"] == "retired"
    assert files(target, "data", snapshot="monday") == files(source, "data", snapshot="monday")
    owners = target.lxc("exec", NAME, "--", "ls", "-ln", "/mnt/data").split()
    assert owners.count("0") >= 2, f"files of the guest's root belong to others: {owners}"
    assert traces(target) == []


@pytest.mark.parametrize(("places", "mode"), [("s1 s2", "pull"), ("s1 d1", "push"), ("d1 s2", "relay")])
def test_volumes_move_with_their_instance(
    request: pytest.FixtureRequest, herder: Herder, places: str, mode: str
) -> None:
    """With all that was written until the stop, their snapshots, config and owners; the source keeps its own."""
    source, target = (request.getfixturevalue(name) for name in places.split())
    make_database(source)
    with NeverTwice(source, target):
        move = ("move", f"{source.name}:{NAME}", f"{target.name}:", "--mode", mode, "--yes", "--json")
        (job,) = herder.run(*move).ended(DONE).json["jobs"]
    assert job["state"] == "done"
    world.assert_moved(source, target, NAME)
    assert_same_volumes(source, target)


def test_who_deletes_the_source_deletes_its_volumes(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    make_database(s1)
    herder.run("move", f"s1:{NAME}", "s2:", "--retire", "delete", "--yes").ended(DONE)
    assert world.status(s1, NAME) == "absent"
    assert world.volumes(s1) == {}
    assert world.volumes(s2).keys() == set(VOLUMES)
    assert world.status(s2, NAME) == "Running"


def test_a_stopped_instance_takes_its_volumes_along(s1: LabServer, d1: LabServer, herder: Herder) -> None:
    make_database(s1)
    world.stop(s1, NAME)
    herder.run("move", f"s1:{NAME}", "d1:", "--yes").ended(DONE)
    assert world.status(d1, NAME) == "Stopped"
    for volume in VOLUMES:
        assert files(d1, volume) == files(s1, volume)


def test_a_copy_has_volumes_of_its_own(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """The source goes on, unmarked, with its own."""
    make_database(s1)
    snapshot = files(s1, "data", snapshot="monday")
    herder.run("copy", f"s1:{NAME}", "s2:", "--yes").ended(DONE)
    assert world.status(s1, NAME) == "Running"
    assert (traces(s1), traces(s2)) == ([], [])
    assert files(s2, "data", snapshot="monday") == snapshot
    world.start(s2, NAME)
    assert "old" in s2.lxc("exec", NAME, "--", "ls", "/mnt/data")


def test_a_finished_move_is_taken_back_with_its_volumes(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """Those of the target stay, as what they are."""
    make_database(s1)
    (job,) = herder.run("move", f"s1:{NAME}", "s2:", "--yes", "--json").ended(DONE).json["jobs"]
    s2.lxc("exec", NAME, "--", "rm", "/mnt/data/old")
    herder.run("undo", job["job"], "--yes").ended(DONE)
    assert world.status(s1, NAME) == "Running"
    assert "old" in s1.lxc("exec", NAME, "--", "ls", "/mnt/data")
    assert traces(s1) == []
    assert {world.volumes(s2)[volume]["config"][f"{world.MARK}state"] for volume in VOLUMES} == {"retired"}


def test_a_volume_that_others_attach_stays_and_so_does_its_instance(
    s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    """The error names them, before anything has moved."""
    make_database(s1)
    world.make(s1, Wish(name="reader", devices={"data": device("data")}))
    ran = herder.run("move", f"s1:{NAME}", "s2:", "--yes").ended(NOT_ALL)
    assert "default/data is also attached by reader" in " ".join(f"{ran.out} {ran.err}".split())
    assert world.volumes(s2) == {}
    assert world.status(s1, NAME) == "Running"


def test_a_volume_of_that_name_on_the_target_is_never_overwritten(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """Whoever wants that one instead says so."""
    make_database(s1)
    s2.query("POST", _path(), {"name": "logs", "config": {"user.mine": "yes"}})
    ran = herder.run("move", f"s1:{NAME}", "s2:", "--yes").ended(NOT_ALL)
    assert "s2 has a custom volume default/logs already" in " ".join(f"{ran.out} {ran.err}".split())
    assert world.status(s1, NAME) == "Running"
    herder.run("move", f"s1:{NAME}", "s2:", "--device", "logs,source=logs", "--yes").ended(DONE)
    assert world.volumes(s2)["logs"]["config"]["user.mine"] == "yes"
    assert files(s2, "data") == files(s1, "data")


@pytest.fixture
def choke(s1: LabServer, s2: LabServer) -> Iterator[Choke]:
    """Holds the first volume in its middle."""
    make_database(s1, mebibytes=16)
    with Choke(s1) as choke, NeverTwice(s1, s2):
        yield choke


@pytest.fixture
def choked(lab: Lab, home: Path, choke: Choke) -> Herder:
    return Herder.of(lab, home).having(choke.configuration(lab, home / "conf"))


def _kill_workers(choke: Choke, _s1: LabServer, _s2: LabServer, herder: Herder) -> None:
    """The command starts others."""
    home = str(herder.home)
    found = [p for p in host.processes() if "workers" in p.command and p.environment.get("HOME") == home]
    assert found
    host.end_all(found)
    choke.release()


def _kill_source(choke: Choke, s1: LabServer, _s2: LabServer, _: Herder) -> None:
    s1.kill()
    choke.release()
    s1.start()


def _kill_target(choke: Choke, _s1: LabServer, s2: LabServer, _: Herder) -> None:
    s2.kill()
    choke.release()
    s2.start()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "disaster",
    [_kill_workers, _kill_source, _kill_target],
    ids=["the workers die", "the source dies", "the target dies"],
)
def test_a_move_outlives_it_in_the_middle_of_a_volume(
    choke: Choke,
    choked: Herder,
    s1: LabServer,
    s2: LabServer,
    disaster: Callable[[Choke, LabServer, LabServer, Herder], None],
) -> None:
    running = choked.start("move", f"s1:{NAME}", "s2:", "--yes", "--json")
    choke.wait_held()
    blocked_on = "volume default/data from s1 to s2, which cannot be cancelled"
    choked.wait_for("the wait to be told", running, blocked_on=blocked_on)
    disaster(choke, s1, s2, choked)
    (job,) = running.wait().ended(DONE).json["jobs"]
    assert job["state"] == "done"
    world.assert_moved(s1, s2, NAME)
    assert_same_volumes(s1, s2)


def test_a_cancel_waits_for_the_volume_and_leaves_nothing(
    choke: Choke, choked: Herder, s1: LabServer, s2: LabServer
) -> None:
    """Volumes that others have made on the target stay."""
    s2.query("POST", _path(), {"name": "other"})
    running = choked.start("move", f"s1:{NAME}", "s2:", "--yes", "--json")
    choke.wait_held()
    cancel = choked.start("cancel", choked.jobs()[0].plan)
    choked.wait_for("the way back", running, itinerary=UNDO.name)
    choke.release()
    cancel.wait().ended(DONE)
    (job,) = running.wait().ended(NOT_ALL).json["jobs"]
    assert job["state"] == "cancelled"
    world.assert_untouched(s1, s2, NAME)
    assert world.volumes(s2).keys() == {"other"}
    assert traces(s1) == []
    with pytest.raises(RefusedError, match="still in use"):
        s1.query("DELETE", _path("data"))
