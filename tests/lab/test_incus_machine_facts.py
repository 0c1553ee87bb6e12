"""What Incus 6.0.4 does with virtual machines that shall move, and why herder moves none of them live.

Each test is one fact, with real QEMU. A test that fails here with a newer server means that the decision may be taken
differently.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Self

import pytest

from common.domain.instance import GUARD_DEVICE
from tests.lab import Lab, RefusedError, host, machine
from tests.lab.host import Process, wait_until
from tests.lab.pulls import Pull, Site, cleaned, done, pull, without_last_state
from tests.lab.wire import Wire

pytestmark = [pytest.mark.lab, pytest.mark.exhaustive, pytest.mark.timeout(600)]

NAME = "vm"
MIB = 1024**2
GUARD = {"type": "usb", "vendorid": "ffff", "productid": "ffff", "required": "true"}
#: An emulated processor takes its time to send a memory.
PATIENCE_SECONDS = 120


@pytest.fixture
def w1(machines_of_incus: Lab) -> Iterator[Site]:
    """A server on which a machine runs that may move live."""
    for there in cleaned(machines_of_incus, "w1"):
        machine.make(there.server, NAME, config=machine.STATEFUL)
        yield there


@pytest.fixture
def w2(machines_of_incus: Lab) -> Iterator[Site]:
    """Another one."""
    yield from cleaned(machines_of_incus, "w2")


def test_a_guarded_machine_does_not_start_and_keeps_the_memory_that_it_was_stopped_with(w1: Site) -> None:
    """A running one refuses the guard of a profile, which is saved all the same, as on LXD."""
    before = machine.tick(w1.server, NAME)
    w1.client.create_profile("herder-fact")
    w1.client.patch(NAME, profiles=("default", "herder-fact"))
    seen = w1.client.profile("herder-fact")
    w1.client.replace_profile(seen, description="", config={}, devices={GUARD_DEVICE: GUARD})
    done(w1.client, w1.client.stop_with_memory(NAME))
    for stateful in (True, False):
        with pytest.raises(RefusedError, match=GUARD_DEVICE):
            w1.server.query("PUT", f"/1.0/instances/{NAME}/state", {"action": "start", "stateful": stateful})
    w1.client.patch(NAME, profiles=("default",))
    done(w1.client, w1.client.start(NAME, stateful=True))
    assert machine.tick(w1.server, NAME).boot == before.boot


@dataclass
class Watch:
    """Sees whether the machine runs on both servers, as they tell themselves."""

    source: Site
    target: Site
    twice: int = 0
    _over: Event = field(default_factory=Event)

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.twice += runs(self.source) and runs(self.target)


def test_a_live_move_between_servers_that_stand_alone_ends_with_one_machine_twice(w1: Site, w2: Site) -> None:
    """The source goes on when its memory has gone over: for Incus this is a copy, and `incus move` deletes it then.

    The same boot counts on both. What the source tells the world after that moment, the target does not know.
    """
    before = machine.tick(w1.server, NAME)
    with Watch(w1, w2) as watch:
        move_live(w1, w2).succeed()
    assert watch.twice
    assert (runs(w1), runs(w2)) == (True, True)
    twins = machine.tick(w1.server, NAME), machine.tick(w2.server, NAME)
    assert [each.boot for each in twins] == [before.boot] * 2
    assert min(each.count for each in twins) > before.count


def test_a_live_move_that_breaks_leaves_the_source_running_and_nothing_on_the_target(w1: Site, w2: Site) -> None:
    """Here with the connection cut while the disk is sent."""
    before = machine.tick(w1.server, NAME)
    with Wire(w1.server, hold_after=MIB) as wire:
        moving = move_live(w1, w2, address=wire.address)
        wire.wait_held(PATIENCE_SECONDS)
        wire.cut()
        assert [ended.succeeded for ended in moving.ended()] == [False, False]
    wait_until("the target to remove it", lambda: w2.client.instances() == (), seconds=PATIENCE_SECONDS)
    assert machine.tick(w1.server, NAME).boot == before.boot


def test_a_source_that_dies_in_a_live_move_leaves_its_machine_writing_into_a_file_without_a_name(
    w1: Site, w2: Site
) -> None:
    """Until the daemon merges that file, it holds all that was written since the move began. A new daemon does not.

    So all of it is gone when the machine stops.
    """
    with Wire(w1.server, hold_after=MIB) as wire:
        move_live(w1, w2, address=wire.address)
        wire.wait_held(PATIENCE_SECONDS)
        w1.restart()
    assert runs(w1)
    assert any("migration_snapshot.qcow2 (deleted)" in each for each in open_files(qemu(w1)))


def runs(there: Site) -> bool:
    return any(each.is_running for each in there.client.instances())


def qemu(there: Site) -> Process:
    configuration = str(there.server.lxd_dir / "run" / NAME / "qemu.conf")
    (found,) = [each for each in host.processes() if configuration in each.command.split()]
    return found


def open_files(process: Process) -> list[str]:
    return [str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir()]


def move_live(source: Site, target: Site, *, address: str | None = None) -> Pull:
    """Begin it, as `incus move` does."""
    return pull(
        source, target, NAME, address=address, config=without_last_state(source, NAME), live={"control", "fs", "criu"}
    )
