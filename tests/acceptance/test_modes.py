"""Every way that the data can go, between every two drivers of pools: a running container is moved, and copied."""

from pathlib import Path

import pytest

from tests.acceptance import world
from tests.acceptance.choke import changed_configuration
from tests.acceptance.story import DONE, Herder
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer

pytestmark = pytest.mark.lab

PAIRS = [
    pytest.param("s1", "s2", id="btrfs to btrfs"),
    pytest.param("s1", "d1", id="btrfs to dir"),
    pytest.param("d1", "s1", id="dir to btrfs"),
]


@pytest.fixture
def ends(request: pytest.FixtureRequest, source: str, target: str) -> tuple[LabServer, LabServer]:
    """A source with the running container ``web``, which has a snapshot and a file that is younger; and a target."""
    server, other = request.getfixturevalue(source), request.getfixturevalue(target)
    world.make(server, Wish(name="web", config={"user.owner": "ann"}, files={"/srv/file": "at first"}))
    world.take_snapshot(server, "web", "monday")
    world.write(server, "web", "/srv/file", "at last")
    return server, other


@pytest.mark.parametrize("mode", ["pull", "push"])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_move_carries_all_of_it_under_a_new_name(
    ends: tuple[LabServer, LabServer], herder: Herder, source: str, target: str, mode: str
) -> None:
    """It runs there with its newest data and its snapshot; the source is kept."""
    old, new = ends
    with NeverTwice(old, new):
        asked = ("move", f"{source}:web", f"{target}:shop", "--mode", mode, "--method", "warm", "--yes", "--json")
        (job,) = herder.run(*asked).ended(DONE).json["jobs"]
    assert (job["state"], job["way"].partition(":")[0]) == ("done", mode)
    assert (world.status(old, "web"), world.status(new, "shop")) == ("Stopped", "Running")
    assert (world.rootfs(new, "shop") / "srv/file").read_text() == "at last"
    assert world.get(new, "shop")["config"]["user.owner"] == "ann"
    assert list(world.snapshots(new, "shop")) == ["monday"]
    assert world.traces_on(new, "shop") == []


@pytest.mark.parametrize("mode", ["pull", "push"])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_copy_carries_all_of_it_and_its_source_runs_on(
    ends: tuple[LabServer, LabServer], herder: Herder, source: str, target: str, mode: str
) -> None:
    """The copy is stopped and can be started."""
    old, new = ends
    asked = ("copy", f"{source}:web", f"{target}:", "--mode", mode, "--yes", "--json")
    (job,) = herder.run(*asked).ended(DONE).json["jobs"]
    assert (job["state"], job["way"].partition(":")[0]) == ("done", mode)
    assert (world.status(old, "web"), world.status(new, "web")) == ("Running", "Stopped")
    assert (world.rootfs(new, "web") / "srv/file").read_text() == "at last"
    assert world.snapshots(new, "web") == world.snapshots(old, "web")
    assert world.traces(old) == world.traces(new) == []
    world.start(new, "web")


def test_the_source_is_on_the_default_remote_and_the_name_is_kept_unless_others_are_named(
    s1: LabServer, s2: LabServer, herder: Herder, lab: Lab, home: Path
) -> None:
    """As with `lxc copy` and `lxc move`."""
    world.make(s1, Wish(name="web", is_started=False))
    at_s1 = herder.having(changed_configuration(lab, home / "conf", {}, default="s1"))
    at_s1.run("copy", "web", "s2:other", "--yes").ended(DONE)
    at_s1.run("move", "web", "s2:", "--yes").ended(DONE)
    assert {name: world.status(s2, name) for name in ("web", "other")} == {"web": "Stopped", "other": "Stopped"}
    assert world.get(s1, "web")["config"][f"{world.MARK}state"] == "retired"
