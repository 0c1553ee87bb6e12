"""Virtual machines move from LXD to Incus and between servers of Incus, with real QEMU.

As in `test_machines` there is no agent in them, and the processor is emulated.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.domain.itinerary import COLD
from tests.acceptance import world
from tests.acceptance.choke import Choke
from tests.acceptance.killed import Killed, around
from tests.acceptance.story import DONE, Herder
from tests.acceptance.watcher import NeverTwice
from tests.lab import Lab, LabServer, machine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture
def v1(machines_of_incus: Lab) -> Iterator[LabServer]:
    """A server of LXD that runs virtual machines."""
    yield from world.cleaned(machines_of_incus.servers["v1"])


@pytest.fixture
def w1(machines_of_incus: Lab) -> Iterator[LabServer]:
    """One of Incus."""
    yield from world.cleaned(machines_of_incus.servers["w1"])


@pytest.fixture
def w2(machines_of_incus: Lab) -> Iterator[LabServer]:
    """Another one of Incus."""
    yield from world.cleaned(machines_of_incus.servers["w2"])


@pytest.fixture
def herder(machines_of_incus: Lab, home: Path) -> Herder:
    """A user of all three."""
    return Herder.of(machines_of_incus, home)


def identity(server: LabServer, name: str) -> tuple[str, str]:
    """Its uuid and its address."""
    config = world.get(server, name)["config"]
    return config["volatile.uuid"], config["volatile.eth0.hwaddr"]


def test_a_stopped_machine_moves_from_lxd_to_incus_and_is_copied(v1: LabServer, w1: LabServer, herder: Herder) -> None:
    """With its disk; a moved one is the same machine and boots, what stays behind cannot start, a copy is another."""
    machine.make(v1, "vm", starts=False)
    machine.write(v1, "vm", "it was here")
    world.take_snapshot(v1, "vm", "s0")
    before, snapshots = identity(v1, "vm"), world.snapshots(v1, "vm")

    herder.run("copy", "v1:vm", "w1:twin", "--yes").ended(DONE)
    (job,) = herder.run("move", "v1:vm", "w1:", "--yes", "--json").ended(DONE).json["jobs"]

    assert job["method"] == "cold"
    assert [machine.read(w1, name) for name in ("vm", "twin")] == ["it was here"] * 2
    assert [world.status(w1, name) for name in ("vm", "twin")] == ["Stopped"] * 2
    assert world.traces(w1) == []
    world.assert_cannot_start(v1, "vm")
    assert identity(w1, "vm") == before
    assert identity(w1, "twin")[0] != before[0]
    assert world.snapshots(w1, "vm") == snapshots
    world.start(w1, "vm")
    assert machine.tick(w1, "vm").count


def test_a_running_machine_moves_cold_from_lxd_to_incus(v1: LabServer, w1: LabServer, herder: Herder) -> None:
    """Its plan says that no product goes on with a memory of the other; if the memory is asked for, it stays."""
    machine.make(v1, "vm", config=machine.STATEFUL)
    before = machine.tick(v1, "vm")
    refused = herder.run("move", "v1:vm", "w1:", "--yes", "--method", "stateful")
    assert "v1 is lxd and w1 incus, and neither goes on with a memory of the other" in " ".join(refused.err.split())
    with NeverTwice(v1, w1):
        (job,) = herder.run("move", "v1:vm", "w1:", "--yes", "--json").ended(DONE).json["jobs"]
    assert job["method"] == "cold"
    world.assert_moved(v1, w1, "vm")
    assert machine.tick(w1, "vm").boot != before.boot


def test_a_machine_moves_from_incus_to_lxd_without_its_snapshots(v1: LabServer, w1: LabServer, herder: Herder) -> None:
    """LXD does not know what Incus writes on them: with them it is refused, by name."""
    machine.make(w1, "vm", starts=False)
    machine.write(w1, "vm", "it was here")
    world.take_snapshot(w1, "vm", "s0")
    before = identity(w1, "vm")
    refused = herder.run("move", "w1:vm", "v1:", "--yes")
    assert "it does not know volatile.uuid.generation" in " ".join(refused.err.split())
    herder.run("move", "w1:vm", "v1:", "--yes", "--method", "cold", "--instance-only").ended(DONE)
    assert (machine.read(v1, "vm"), identity(v1, "vm"), world.traces(v1)) == ("it was here", before, [])
    world.assert_cannot_start(w1, "vm")


def test_a_machine_moves_between_servers_of_incus_with_its_disk(w1: LabServer, w2: LabServer, herder: Herder) -> None:
    """Cold, by copy and by move, and it boots there."""
    machine.make(w1, "vm", starts=False)
    machine.write(w1, "vm", "it was here")
    before = identity(w1, "vm")
    world.start(w1, "vm")
    boot = machine.tick(w1, "vm").boot
    herder.run("copy", "w1:vm", "w2:twin", "--yes").ended(DONE)
    with NeverTwice(w1, w2):
        (job,) = herder.run("move", "w1:vm", "w2:", "--yes", "--json").ended(DONE).json["jobs"]
    assert job["method"] == "cold"
    assert [machine.read(w2, name) for name in ("vm", "twin")] == ["it was here"] * 2
    assert identity(w2, "vm") == before
    world.assert_moved(w1, w2, "vm")
    assert machine.tick(w2, "vm").boot != boot


def test_a_machine_of_incus_keeps_its_memory_there_and_back(w1: LabServer, w2: LabServer, herder: Herder) -> None:
    """It goes on counting on the target; and on the source, from where it was, if it is taken back."""
    machine.make(w1, "vm", config=machine.STATEFUL)
    before = machine.tick(w1, "vm")
    with NeverTwice(w1, w2):
        (job,) = herder.run("move", "w1:vm", "w2:", "--yes", "--json").ended(DONE).json["jobs"]
    assert job["method"] == "stateful"
    world.assert_moved(w1, w2, "vm")
    there = machine.tick(w2, "vm")
    assert there.boot == before.boot
    assert there.count > before.count

    with NeverTwice(w1, w2):
        herder.run("undo", job["job"], "--yes").ended(DONE)
    world.assert_cannot_start(w2, "vm")
    back = machine.tick(w1, "vm")
    assert (back.boot, world.traces_on(w1, "vm")) == (before.boot, [])


@pytest.mark.exhaustive
@pytest.mark.parametrize("victim", ["w2", "w1"], ids=["the target", "the source"])
def test_a_machine_of_incus_keeps_its_memory_when_a_daemon_dies_while_that_is_sent(
    w1: LabServer, w2: LabServer, machines_of_incus: Lab, home: Path, victim: str
) -> None:
    """Nobody lends a hand: the same boot goes on, on one server only."""
    machine.make(w1, "vm", config=machine.STATEFUL)
    before = machine.tick(w1, "vm")
    with Choke(w1) as choke, NeverTwice(w1, w2):
        herder = Herder.of(machines_of_incus, home).having(choke.configuration(machines_of_incus, home / "conf"))
        moving = herder.start("move", "w1:vm", "w2:", "--yes", "--json")
        choke.wait_held()
        machines_of_incus.servers[victim].kill()
        choke.release()
        machines_of_incus.servers[victim].start()
        (job,) = moving.wait().ended(DONE).json["jobs"]
    assert job["method"] == "stateful"
    world.assert_moved(w1, w2, "vm")
    after = machine.tick(w2, "vm")
    assert after.boot == before.boot
    assert after.count > before.count


@pytest.mark.exhaustive
def test_a_machine_keeps_its_memory_when_workers_die_around_every_step(
    w1: LabServer, w2: LabServer, killed: Killed
) -> None:
    """Before and after each, and while disk and memory are sent: the same boot goes on, on one server only."""
    machine.make(w1, "vm", config=machine.STATEFUL)
    before = machine.tick(w1, "vm")
    blows = around(COLD)
    blows.insert(blows.index(("after", "full_pass")), ("middle", "full_pass"))
    with NeverTwice(w1, w2):
        moving = killed.begins("move", "w1:vm", "w2:", "--yes", "--json")
        killed.strike(*blows)
        (job,) = killed.ends(moving, DONE)["jobs"]
    assert job["method"] == "stateful"
    world.assert_moved(w1, w2, "vm")
    after = machine.tick(w2, "vm")
    assert after.boot == before.boot
    assert after.count > before.count


def test_a_live_move_is_refused_with_all_that_stands_in_its_way(w1: LabServer, w2: LabServer, herder: Herder) -> None:
    """Before anything happens; left to choose, herder takes the next method and says why."""
    machine.make(w1, "vm")
    picture = world.picture(w1), world.picture(w2)
    refused = herder.run("move", "w1:vm", "w2:", "--yes", "--method", "live")
    assert refused.code != DONE
    for told in (
        "one machine twice",
        "`incus config set w1:vm migration.stateful=true`",
        "device eth0 is on a network that is only on its server",
    ):
        assert told in " ".join((refused.out + refused.err).split())
    plan = herder.run("plan", "evacuate", "w1:", "--to", "w2:", "--json").ended(DONE).json
    assert "not live: servers that stand alone let the source go on" in plan["moves"][0]["reason"]
    assert (world.picture(w1), world.picture(w2)) == picture
