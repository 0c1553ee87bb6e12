"""A move by push of a real container: its source or its worker dies in the middle, or somebody cancels it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.domain.itinerary import UNDO
from tests.acceptance import world
from tests.acceptance.choke import Choke
from tests.acceptance.story import DONE, NOT_ALL, Herder
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, host

pytestmark = pytest.mark.lab

NAME = "pushed"
MOVE = ("move", f"s1:{NAME}", "s2:", "--mode", "push", "--yes", "--json", "--downtime", "1h")


@pytest.fixture
def choke(s1: LabServer, s2: LabServer) -> Iterator[Choke]:
    """The way to the target, which holds what is pushed in its middle; on the source is what will be moved."""
    world.make(s1, Wish(name=NAME, config={"boot.autostart": "true"}))
    world.fill(s1, NAME, 16)
    with Choke(s2, inward=True) as choke, NeverTwice(s1, s2):
        yield choke


@pytest.fixture
def herder(lab: Lab, home: Path, choke: Choke) -> Herder:
    return Herder.of(lab, home).having(choke.configuration(lab, home / "conf"))


def _kill_source(choke: Choke, s1: LabServer, _: Herder) -> None:
    s1.kill()
    choke.release()
    s1.start()


def _kill_workers(choke: Choke, _: LabServer, herder: Herder) -> None:
    """The command starts others."""
    home = str(herder.home)
    found = [p for p in host.processes() if "workers" in p.command and p.environment.get("HOME") == home]
    assert found
    host.end_all(found)
    choke.release()


@pytest.mark.parametrize("disaster", [_kill_source, _kill_workers], ids=["the source dies", "the workers die"])
def test_a_push_outlives_it(
    choke: Choke, herder: Herder, s1: LabServer, s2: LabServer, disaster: Callable[[Choke, LabServer, Herder], None]
) -> None:
    """The move ends by itself, with the data that there were, and the report tells the way."""
    files = world.tree(world.rootfs(s1, NAME))
    running = herder.start(*MOVE)
    choke.wait_held()
    (held,) = herder.jobs()
    assert held.blocked_on == "full pass 0 from s1 to s2 by push, which cannot be cancelled"
    disaster(choke, s1, herder)
    (job,) = running.wait().ended(DONE).json["jobs"]
    assert (job["state"], job["way"]) == ("done", f"push: s1 dials s2 at {choke.address}")
    world.assert_moved(s1, s2, NAME)
    assert world.tree(world.rootfs(s2, NAME)) == files


@pytest.mark.incus_too
def test_a_cancelled_push_is_waited_for_and_leaves_nothing(
    choke: Choke, herder: Herder, s1: LabServer, s2: LabServer
) -> None:
    running = herder.start(*MOVE)
    choke.wait_held()
    cancel = herder.start("cancel", herder.jobs()[0].plan)
    herder.wait_for("the way back", running, itinerary=UNDO.name)
    choke.release()
    cancel.wait().ended(DONE)
    (job,) = running.wait().ended(NOT_ALL).json["jobs"]
    assert job["state"] == "cancelled"
    world.assert_untouched(s1, s2, NAME)
