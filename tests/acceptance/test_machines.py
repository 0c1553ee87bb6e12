"""Virtual machines move between two servers of LXD, with real QEMU: cold, or stopped with their memory.

There is no agent in them, and the processor is emulated. What they count in their memory, and the id of their boot,
are heard on their consoles.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import world
from tests.acceptance.choke import Choke
from tests.acceptance.story import DONE, Herder
from tests.acceptance.watcher import NeverTwice
from tests.lab import Lab, LabServer, machine

pytestmark = pytest.mark.lab


@pytest.fixture
def v1(machines: Lab) -> Iterator[LabServer]:
    """A server that runs virtual machines."""
    yield from world.cleaned(machines.servers["v1"])


@pytest.fixture
def v2(machines: Lab) -> Iterator[LabServer]:
    """Another one."""
    yield from world.cleaned(machines.servers["v2"])


@pytest.fixture
def herder(machines: Lab, home: Path) -> Herder:
    """A user of both."""
    return Herder.of(machines, home)


def test_a_stopped_machine_moves_and_is_copied_with_its_disk(v1: LabServer, v2: LabServer, herder: Herder) -> None:
    """It stays stopped, and what stays behind cannot start; a copy is another machine."""
    machine.make(v1, "vm", starts=False)
    machine.write(v1, "vm", "it was here")

    herder.run("copy", "v1:vm", "v2:twin", "--yes").ended(DONE)
    (job,) = herder.run("move", "v1:vm", "v2:", "--yes", "--json").ended(DONE).json["jobs"]

    assert job["method"] == "cold"
    assert [machine.read(v2, name) for name in ("vm", "twin")] == ["it was here"] * 2
    assert [world.status(v2, name) for name in ("vm", "twin")] == ["Stopped"] * 2
    assert world.traces(v2) == []
    world.assert_cannot_start(v1, "vm")
    uuids = [world.get(server, name)["config"]["volatile.uuid"] for server, name in ((v1, "vm"), (v2, "vm"))]
    assert uuids[0] == uuids[1] != world.get(v2, "twin")["config"]["volatile.uuid"]


def test_a_running_machine_moves_cold(v1: LabServer, v2: LabServer, herder: Herder) -> None:
    """Its guest shuts down when it is asked to, and boots on the target; its plan says why its memory stays behind."""
    machine.make(v1, "vm")
    before = machine.tick(v1, "vm")
    plan = herder.run("plan", "evacuate", "v1:", "--to", "v2:", "--json").ended(DONE).json
    with NeverTwice(v1, v2):
        (job,) = herder.run("move", "v1:vm", "v2:", "--yes", "--json").ended(DONE).json["jobs"]
    assert job["method"] == "cold"
    assert "not stateful: migration.stateful is not set" in plan["moves"][0]["reason"]
    world.assert_moved(v1, v2, "vm")
    assert machine.tick(v2, "vm").boot != before.boot


def test_a_machine_that_can_keeps_its_memory_there_and_back(v1: LabServer, v2: LabServer, herder: Herder) -> None:
    """It goes on counting on the target; and on the source, from where it was, if it is taken back."""
    machine.make(v1, "vm", config=machine.STATEFUL)
    before = machine.tick(v1, "vm")
    with NeverTwice(v1, v2):
        (job,) = herder.run("move", "v1:vm", "v2:", "--yes", "--json").ended(DONE).json["jobs"]
    assert job["method"] == "stateful"
    world.assert_moved(v1, v2, "vm")
    there = machine.tick(v2, "vm")
    assert there.boot == before.boot
    assert there.count > before.count

    with NeverTwice(v1, v2):
        herder.run("undo", job["job"], "--yes").ended(DONE)
    world.assert_cannot_start(v2, "vm")
    back = machine.tick(v1, "vm")
    assert (back.boot, world.traces_on(v1, "vm")) == (before.boot, [])


@pytest.mark.exhaustive
@pytest.mark.parametrize("victim", ["v2", "v1"], ids=["the target", "the source"])
def test_a_machine_keeps_its_memory_when_a_daemon_dies_while_that_is_sent(
    v1: LabServer, v2: LabServer, machines: Lab, home: Path, victim: str
) -> None:
    """Nobody lends a hand: the same boot goes on, on one server only."""
    machine.make(v1, "vm", config=machine.STATEFUL)
    before = machine.tick(v1, "vm")
    with Choke(v1) as choke, NeverTwice(v1, v2):
        herder = Herder.of(machines, home).having(choke.configuration(machines, home / "conf"))
        moving = herder.start("move", "v1:vm", "v2:", "--yes", "--json")
        choke.wait_held()
        machines.servers[victim].kill()
        choke.release()
        machines.servers[victim].start()
        (job,) = moving.wait().ended(DONE).json["jobs"]
    assert job["method"] == "stateful"
    world.assert_moved(v1, v2, "vm")
    after = machine.tick(v2, "vm")
    assert after.boot == before.boot
    assert after.count > before.count


def test_what_is_asked_for_and_cannot_be_is_refused_with_what_mends_it(
    v1: LabServer, v2: LabServer, herder: Herder
) -> None:
    """Before anything happens, and once it is mended it works."""
    machine.make(v1, "vm", starts=False)
    v1.query("PUT", "/1.0/instances/vm/state", {"action": "start"})
    picture = world.picture(v1), world.picture(v2)
    for method, told in (
        ("stateful", "`lxc config set v1:vm migration.stateful=true`"),
        ("warm", "does not move warm"),
        ("live", "v1 and v2 lack the API extension migration_vm_live"),
    ):
        ran = herder.run("move", "v1:vm", "v2:", "--yes", "--method", method)
        assert ran.code != DONE
        assert told in " ".join((ran.out + ran.err).split())
    assert (world.picture(v1), world.picture(v2)) == picture
