"""Virtual machines move from one member of a cluster of LXD to another, with real QEMU."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import world
from tests.acceptance.story import DONE, Herder
from tests.lab import Lab, LabServer, machine
from tests.lab.lab import MACHINE_CLUSTER, default_root

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

NAME = "vm"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    """The lab with a cluster whose members run virtual machines; it goes away with this module if it made the lab."""
    was_there = default_root().exists()
    yield Lab.up(MACHINE_CLUSTER)
    if not was_there:
        Lab.load().down()


@pytest.fixture
def x1(cluster: Lab) -> Iterator[LabServer]:
    """A member; with it the whole cluster is cleaned."""
    yield from world.cleaned(cluster.servers["x1"])


@pytest.fixture
def herder(cluster: Lab, home: Path) -> Herder:
    """A user of the cluster."""
    return Herder.of(cluster, home)


def test_a_running_machine_moves_cold_to_another_member(cluster: Lab, x1: LabServer, herder: Herder) -> None:
    """With its disk; it is the same machine under its name, and what stays behind cannot start."""
    x2 = cluster.servers["x2"]
    machine.make(x1, NAME, starts=False)
    machine.write(x1, NAME, "it was here")
    was = world.get(x1, NAME)["config"]
    world.start(x1, NAME)
    boot = machine.tick(x1, NAME).boot

    move = ("move", f"machines:{NAME}", "--target", "x2", "--yes")
    refused = herder.run(*move, "--method", "stateful")
    assert "which moves cold within a cluster" in " ".join(refused.err.split())
    (job,) = herder.run(*move, "--json").ended(DONE).json["jobs"]

    assert job["method"] == "cold"
    there = world.get(x1, NAME)
    assert (there["location"], there["status"]) == ("x2", "Running")
    assert [there["config"][key] for key in ("volatile.uuid", "volatile.eth0.hwaddr")] == [
        was[key] for key in ("volatile.uuid", "volatile.eth0.hwaddr")
    ]
    assert machine.read(x2, NAME) == "it was here"
    assert machine.tick(x2, NAME).boot != boot
    (retired,) = {record["name"] for record in world.listing(x1)} - {NAME}
    world.assert_cannot_start(x1, retired)
