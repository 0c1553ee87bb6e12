"""What LXD 5.0.2 calls a live move of a virtual machine, and why herder does not move any so.

Each test is one fact, with real QEMU. A test that fails here with a newer server means that the decision may be taken
differently.
"""

from collections.abc import Iterator

import pytest

from common.domain.instance import GUARD_DEVICE, Devices
from tests.lab import Lab, machine
from tests.lab.host import wait_until
from tests.lab.pulls import Pull, Site, cleaned, done, finished, pull, without_last_state
from tests.lab.wire import Wire

pytestmark = [pytest.mark.lab, pytest.mark.exhaustive]

NAME = "vm"
KIB = 1024
GUARD = {"type": "usb", "vendorid": "ffff", "productid": "ffff", "required": "true"}
#: An emulated processor takes its time to write a memory to the disk.
PATIENCE_SECONDS = 120


@pytest.fixture
def v1(machines: Lab) -> Iterator[Site]:
    """A server on which a machine runs that may move live."""
    for there in cleaned(machines, "v1"):
        machine.make(there.server, NAME, config=machine.STATEFUL)
        yield there


@pytest.fixture
def v2(machines: Lab) -> Iterator[Site]:
    """Another one."""
    yield from cleaned(machines, "v2")


def test_a_live_move_stops_the_machine_before_anything_of_it_is_sent(v1: Site, v2: Site) -> None:
    """So it is down for as long as its disk and memory take; and if the move breaks then, it stays down.

    Nobody starts it again, neither here nor there: the source has its memory on its disk, the copy is removed.
    """
    with Wire(v1.server, hold_after=64 * KIB) as wire:
        moving = move_live(v1, v2, address=wire.address)
        wire.wait_held(PATIENCE_SECONDS)
        wait_until("the machine to stop", lambda: not runs(v1), seconds=PATIENCE_SECONDS)
        assert not runs(v2)
        wire.cut()
        assert [ended.succeeded for ended in moving.ended()] == [False, False]
    source = v1.client.instance(NAME)
    assert (source.status, source.stateful) == ("Stopped", True)
    assert v2.client.instances() == ()


def test_a_live_move_leaves_a_source_that_starts_a_second_time(v1: Site, v2: Site) -> None:
    """The server starts the target in the operation that copies it. The source keeps its memory, and no lock.

    Whoever starts it then has one machine twice, the same boot on both servers.
    """
    before = machine.tick(v1.server, NAME)
    move_live(v1, v2).succeed()
    assert (runs(v1), runs(v2)) == (False, True)
    done(v1.client, v1.client.start(NAME, stateful=True))
    twins = machine.tick(v1.server, NAME), machine.tick(v2.server, NAME)
    assert [each.boot for each in twins] == [before.boot] * 2


def test_a_guarded_copy_cannot_be_the_target_of_a_live_move(v1: Site, v2: Site) -> None:
    """The server removes it, because it cannot start it; and the source has been stopped for that."""
    instance = v1.client.instance(NAME)
    received = move_live(v1, v2, devices={**instance.devices, GUARD_DEVICE: GUARD}).received
    assert "USB devices cannot be used when migration.stateful is enabled" in finished(v2.client, received).error
    wait_until("the machine to stop", lambda: not runs(v1), seconds=PATIENCE_SECONDS)
    assert v2.client.instances() == ()


def test_lxd_5_0_has_not_the_extension_of_real_live_moves(machines: Lab) -> None:
    """By which a later one tells that it sends the memory of a machine while that runs."""
    extensions = Site.of(machines, "v1").client.info().extensions
    assert "migration_stateful" in extensions
    assert "migration_vm_live" not in extensions


def runs(there: Site) -> bool:
    return any(each.is_running for each in there.client.instances())


def move_live(source: Site, target: Site, *, address: str | None = None, devices: Devices | None = None) -> Pull:
    """Begin it, as ``lxc move`` does."""
    config = without_last_state(source, NAME)
    return pull(source, target, NAME, address=address, config=config, devices=devices, live={"control", "fs"})
