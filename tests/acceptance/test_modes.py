"""Every way that the data can go, between every two drivers of pools: a running container is moved, and copied."""

import pytest

from tests.acceptance import world
from tests.acceptance.story import DONE, Herder
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import LabServer

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
        asked = ("move", f"{source}:web", f"{target}:shop", "--mode", mode, "--yes", "--json")
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
