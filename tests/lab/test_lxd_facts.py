"""What LXD 5.0.2 does, as far as herder is built on it. Each test is one fact, and its docstring says it.

A test that fails here with a newer server means that a decision may be taken differently, not that our client is wrong.
"""

import json
import multiprocessing
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from common.domain.errors import (
    HerderError,
    NotFound,
    PreconditionFailed,
    ServerBusy,
    ServerRefused,
    ServerUnreachable,
)
from common.domain.instance import GUARD_DEVICE, Devices, Instance
from common.domain.operation import Operation
from common.lxd.client import LxdClient
from common.lxd.events import progress
from common.lxd.migration import reserve_body
from tests.lab import Lab, host
from tests.lab.host import wait_until
from tests.lab.members import healed
from tests.lab.pulls import MIB, Pull, Site, cleaned, done, finished, pull
from tests.lab.wire import Wire

pytestmark = pytest.mark.lab

NAME = "c1"
PROFILE = "herder-test"
ROOT = {"type": "disk", "path": "/", "pool": "default"}
GUARD = {"type": "unix-char", "source": "/dev/herder-guard", "path": "/dev/herder-guard"}
NO_NIC = {"eth0": {"type": "none"}}
RECEIVING = {"user.herder.state": "receiving"}


@pytest.fixture
def s1(lab: Lab) -> Iterator[Site]:
    """A server with a btrfs pool."""
    yield from cleaned(lab, "s1")


@pytest.fixture
def s2(lab: Lab) -> Iterator[Site]:
    """Another one with a btrfs pool."""
    yield from cleaned(lab, "s2")


@pytest.fixture
def d1(lab: Lab) -> Iterator[Site]:
    """A server with a dir pool."""
    yield from cleaned(lab, "d1")


@pytest.fixture
def cluster(lab: Lab) -> Iterator[dict[str, Site]]:
    """The members of the cluster by name, all online before and after."""
    yield from healed(lab)


def status(there: Site, name: str = NAME) -> str:
    return there.client.instance(name).status


def names(there: Site) -> set[str]:
    return {each.name for each in there.client.instances()}


def running(client: LxdClient, operation: str) -> bool:
    """Whether the operation is known and has not ended."""
    seen = client.operation(operation)
    assert seen is not None
    return not seen.is_finished


class TestShapeOfTheDesign:
    """The facts that shape the design."""

    def test_a_transfer_belongs_to_the_two_servers(self, lab: Lab, s1: Site, s2: Site) -> None:
        """Whoever asked for a pull may be killed: it goes on, and its operations are found again by the instance."""
        s1.server.launch(NAME)
        s1.write(NAME)
        with Wire(s1.server, hold_after=4 * MIB) as wire:
            asker = multiprocessing.get_context("spawn").Process(target=_pull_and_idle, args=(lab, wire.address))
            asker.start()
            wire.wait_held()
            asker.kill()
            asker.join()
            (offered,) = _operations_on(s1.client, "Migrating instance")
            (received,) = _operations_on(s2.client, "Creating instance")
            wire.release()
            Pull(s1.client, s2.client, offered.id, received.id).succeed()

    def test_a_finished_operation_is_forgotten_and_so_is_all_by_a_restart(self, s1: Site) -> None:
        """5 s after its end an operation is unknown; after a restart of the daemon every operation is."""
        s1.server.launch(NAME)
        ended = s1.client.create_snapshot(NAME, "s0")
        done(s1.client, ended)
        assert s1.client.operation(ended) is not None
        wait_until("it to be forgotten", lambda: s1.client.operation(ended) is None)
        offer = s1.client.offer(NAME)
        assert running(s1.client, offer.operation)
        s1.restart()
        assert s1.client.operation(offer.operation) is None

    def test_a_half_made_copy_looks_like_a_finished_one_but_for_our_mark(self, s1: Site, s2: Site) -> None:
        """It is Stopped from the first moment; a mark in the request is on it then, and after a kill of the daemon."""
        s1.server.launch(NAME)
        s1.write(NAME)
        with Wire(s1.server, hold_after=4 * MIB) as wire:
            pull(s1, s2, NAME, address=wire.address, config=RECEIVING)
            at_once = s2.client.instance(NAME)
            wire.wait_held()
            s2.restart()
        after = s2.client.instance(NAME)
        for half_made in (at_once, after):
            assert (half_made.is_stopped, half_made.marks) == (True, {"state": "receiving"})

    def test_an_offer_that_nobody_takes_fails_after_10_s(self, s1: Site) -> None:
        """An offer without all its websockets within 10 s fails by itself, and nothing is left of it."""
        s1.server.launch(NAME)
        ended = finished(s1.client, s1.client.offer(NAME).operation)
        assert not ended.succeeded
        assert "Timed out waiting for migration connections" in ended.error
        assert status(s1) == "Running"

    def test_a_pull_can_be_cancelled_on_the_source_only(self, s1: Site, s2: Site) -> None:
        """The target's operation refuses; cancelling the source's ends both and leaves nothing on the target."""
        s1.server.launch(NAME)
        s1.write(NAME)
        with Wire(s1.server, hold_after=4 * MIB) as wire:
            moving = pull(s1, s2, NAME, address=wire.address)
            wire.wait_held()
            with pytest.raises(ServerRefused, match="This operation can't be cancelled"):
                s2.client.cancel(moving.received)
            s1.client.cancel(moving.offered)
            wire.release()
            source, target = moving.ended()
        assert (source.succeeded, target.succeeded) == (False, False)
        assert "Error transferring instance data" in target.error
        assert names(s2) == set()
        assert status(s1) == "Running"

    def test_a_push_cannot_be_cancelled_at_all(self, s2: Site) -> None:
        """The target's operation of a push refuses to be cancelled, even while nobody has come yet."""
        source = {"type": "migration", "mode": "push", "live": False}
        waiting = s2.client.receive({"name": NAME, "architecture": "x86_64", "source": source})
        with pytest.raises(ServerRefused, match="This operation can't be cancelled"):
            s2.client.cancel(waiting)
        operation = s2.client.operation(waiting)
        assert operation
        for secret in operation.metadata.values():
            websocket = s2.client.transport.websocket(f"/1.0/operations/{waiting}/websocket", {"secret": secret})
            websocket.close(timeout=0)
        assert not finished(s2.client, waiting).succeeded

    def test_a_frozen_target_is_waited_for(self, s1: Site, s2: Site) -> None:
        """A source does not notice soon that its target hangs, and goes on when that comes back."""
        s1.server.launch(NAME)
        s1.write(NAME)
        with Wire(s1.server, hold_after=4 * MIB) as wire:
            moving = pull(s1, s2, NAME, address=wire.address)
            wire.wait_held()
            s2.server.freeze()
            wire.release()
            seen = s1.client.wait(moving.offered, timeout_seconds=5)
            s2.server.thaw()
            moving.succeed()
        assert seen is not None
        assert not seen.is_finished

    def test_a_frozen_source_is_never_noticed(self, s1: Site, s2: Site) -> None:
        """The target has no time-out at all: it waits for a source that hangs, and goes on if that comes back."""
        s1.server.launch(NAME)
        s1.write(NAME)
        with Wire(s1.server, hold_after=4 * MIB) as wire:
            moving = pull(s1, s2, NAME, address=wire.address)
            wire.wait_held()
            s1.server.freeze()
            wire.release()
            seen = s2.client.wait(moving.received, timeout_seconds=8)
            s1.server.thaw()
            moving.succeed()
        assert seen is not None
        assert not seen.is_finished

    def test_a_killed_target_leaves_a_wreck_that_can_only_be_renamed(self, s1: Site, s2: Site) -> None:
        """On btrfs, with snapshots, LXD neither starts nor deletes the wreck; renamed, it makes way for a new pull.

        It can be deleted after somebody has removed its directory on the host.
        """
        make_wreck(s1, s2)
        assert not finished(s2.client, s2.client.start(NAME)).succeeded
        refused = finished(s2.client, s2.client.delete(NAME))
        assert "Could not get subvolume flags" in refused.error
        with pytest.raises(ServerRefused, match='This "instances" entry already exists'):
            pull(s1, s2, NAME)
        wreck = f"{NAME}-wreck"
        done(s2.client, s2.client.rename(NAME, wreck))
        pull(s1, s2, NAME).succeed()
        assert names(s2) == {NAME, wreck}
        done(s2.client, s2.client.start(NAME))
        assert not finished(s2.client, s2.client.delete(wreck)).succeeded
        shutil.rmtree(s2.root_of(wreck).parent)
        done(s2.client, s2.client.delete(wreck))

    def test_a_copy_without_the_record_of_a_snapshot_can_only_be_renamed(self, s1: Site, s2: Site) -> None:
        """A refresh whose source dies can leave it so. It keeps changes that it refuses, and the rename as well."""
        s1.server.launch(NAME)
        for snapshot in ("s0", "s1"):
            s1.snapshot(NAME, snapshot)
        pull(s1, s2, NAME).succeed()
        s2.server.daemon.sql("DELETE FROM instances_snapshots WHERE name = 's1'")
        with pytest.raises(ServerRefused, match="record count doesn't match"):
            s2.client.patch(NAME, config={"user.x": "1"})
        assert s2.client.instance(NAME).config["user.x"] == "1"
        _, refreshed_to = pull(s1, s2, NAME, refresh=True).ended()
        assert "UNIQUE constraint failed: storage_volumes_snapshots" in refreshed_to.error
        assert not finished(s2.client, s2.client.delete(NAME)).succeeded
        assert not finished(s2.client, s2.client.rename(NAME, f"{NAME}-wreck")).succeeded
        assert names(s2) == {f"{NAME}-wreck"}

    def test_a_volume_without_its_instance_is_renamed_with_a_record_that_lasts_10_s(self, s1: Site, s2: Site) -> None:
        """Nothing else reaches it over the API, and no copy of that name can be made meanwhile."""
        s1.server.launch(NAME)
        s1.snapshot(NAME, "s0")
        pull(s1, s2, NAME).succeed()
        s2.server.daemon.sql("DELETE FROM instances WHERE name = 'c1'")
        _, received = pull(s1, s2, NAME).ended()
        assert "already exists on migration target" in received.error
        body = reserve_body(s1.client.instance(NAME), name=NAME, config={}, devices={"root": ROOT})
        waits = s2.client.receive(body)
        wreck = f"{NAME}-wreck"
        finished(s2.client, s2.client.rename(NAME, wreck))
        assert "Timed out waiting for migration connections" in finished(s2.client, waits).error
        assert names(s2) == {wreck}
        pull(s1, s2, NAME).succeed()

    def test_a_copy_that_has_lost_its_volume_in_a_refresh_can_only_be_renamed(self, s1: Site, s2: Site) -> None:
        """A refresh exchanges the volume at its end; a daemon that dies meanwhile leaves a directory in its place."""
        s1.server.launch(NAME)
        s1.snapshot(NAME, "s0")
        pull(s1, s2, NAME).succeed()
        volume = s2.root_of(NAME).parent
        host.run("btrfs", "subvolume", "delete", str(volume))
        volume.mkdir()
        s1.snapshot(NAME, "s1")
        _, refreshed_to = pull(s1, s2, NAME, refresh=True).ended()
        assert "Could not get subvolume flags" in refreshed_to.error
        s2.client.patch(NAME, config=RECEIVING)
        wreck = f"{NAME}-wreck"
        finished(s2.client, s2.client.rename(NAME, wreck))
        assert names(s2) == {wreck}
        pull(s1, s2, NAME).succeed()

    def test_a_snapshot_without_its_volume_stops_all_others_until_it_is_deleted(self, s1: Site) -> None:
        """A daemon that dies while it makes one can leave it so."""
        s1.server.launch(NAME)
        s1.snapshot(NAME, "s0")
        s1.server.daemon.sql("DELETE FROM storage_volumes_snapshots WHERE name = 's0'")
        refused = finished(s1.client, s1.client.create_snapshot(NAME, "s1"))
        assert "record count doesn't match" in refused.error
        done(s1.client, s1.client.delete_snapshot(NAME, "s0"))
        done(s1.client, s1.client.create_snapshot(NAME, "s1"))

    def test_a_refresh_over_a_wreck_succeeds_and_loses_the_snapshots(self, s1: Site, d1: Site) -> None:
        """On dir it ends in Success, but the snapshots of the interrupted transfer are rows without data."""
        make_wreck(s1, d1)
        pull(s1, d1, NAME, refresh=True).succeed()
        assert [each.name for each in d1.client.snapshots(NAME)] == ["s0"]
        assert (d1.root_of(NAME) / "root/data").stat().st_size == 24 * MIB
        assert not (d1.root_of(NAME, snapshot="s0") / "root/data").exists()

    def test_a_running_container_on_dir_is_frozen_for_the_whole_transfer(self, d1: Site, s2: Site) -> None:
        """And stays Frozen when its daemon is killed meanwhile; it can be unfrozen."""
        d1.server.launch(NAME)
        d1.write(NAME)
        with Wire(d1.server, hold_after=4 * MIB) as wire:
            pull(d1, s2, NAME, address=wire.address)
            wire.wait_held()
            assert status(d1) == "Frozen"
            d1.restart()
        assert status(d1) == "Frozen"
        done(d1.client, d1.client.unfreeze(NAME))
        assert status(d1) == "Running"

    def test_an_inconsistent_copy_lets_it_run(self, d1: Site, s2: Site) -> None:
        """With allow_inconsistent the container on dir runs on."""
        d1.server.launch(NAME)
        d1.write(NAME)
        with Wire(d1.server, hold_after=4 * MIB) as wire:
            moving = pull(d1, s2, NAME, address=wire.address, allow_inconsistent=True)
            wire.wait_held()
            assert status(d1) == "Running"
            wire.release()
            moving.succeed()

    def test_a_refresh_on_btrfs_is_a_full_copy_without_a_new_snapshot(self, s1: Site, s2: Site) -> None:
        """With one it sends what changed; without, all; and without snapshots it deletes those of the target."""
        s1.server.launch(NAME)
        s1.write(NAME, mib=8)
        s1.snapshot(NAME, "s0")
        pull(s1, s2, NAME).succeed()
        assert refreshed(s1, s2) > 8 * MIB
        s1.snapshot(NAME, "s1")
        assert refreshed(s1, s2) < MIB
        assert [each.name for each in s2.client.snapshots(NAME)] == ["s0", "s1"]
        assert refreshed(s1, s2, instance_only=True) > 8 * MIB
        assert s2.client.snapshots(NAME) == ()

    def test_a_mere_restart_of_the_target_starts_a_copy_that_was_to_wait(self, s1: Site, s2: Site) -> None:
        """So does boot.autostart on the copy, and so does the source's volatile.last_state.power."""
        traps = {
            "autostart": {"boot.autostart": "true"},
            "last-state": {"volatile.last_state.power": "RUNNING"},
            "plain": {},
        }
        for name, config in traps.items():
            s1.server.launch(name)
            pull(s1, s2, name, config=config).succeed()
        s2.restart()
        wait_until("both to run", lambda: {status(s2, name) for name in ("autostart", "last-state")} == {"Running"})
        assert status(s2, "plain") == "Stopped"

    def test_a_missing_pool_is_silently_replaced(self, s1: Site, s2: Site) -> None:
        """By that of the profile; the copy says so."""
        s1.server.launch(NAME)
        pull(s1, s2, NAME, devices={"root": {**ROOT, "pool": "nope"}}).succeed()
        assert s2.client.instance(NAME).root_pool == "default"

    def test_an_offer_that_does_not_say_otherwise_is_live(self, s1: Site) -> None:
        """Without the key LXD offers the memory too; ours never does."""
        s1.server.launch(NAME)
        assert offers_memory(s1.client, {"name": NAME, "migration": True})
        assert s1.client.offer(NAME).secrets.keys() == {"control", "fs"}

    def test_if_match_is_not_atomic(self, s1: Site) -> None:
        """Two writers with the same ETag are both told that they succeeded: LXD compares before it reads the change."""
        s1.server.launch(NAME)
        etag = s1.client.instance(NAME).etag
        writers = [LateWriter(s1, etag, value) for value in ("a", "b")]
        for writer in writers:
            writer.wait_until_compared()
        assert [writer.write() for writer in writers] == [200, 200]
        assert s1.client.instance(NAME).config["user.winner"] == "b"


class LateWriter:
    """A PATCH whose body waits until the server asks for it, which it does after it has looked at the headers."""

    def __init__(self, site: Site, etag: str, value: str) -> None:
        self._body = json.dumps({"config": {"user.winner": value}}).encode()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(site.server.lxd_dir / "unix.socket"))
        self._stream = connection.makefile("rwb")
        head = (
            f"PATCH /1.0/instances/{NAME} HTTP/1.1\r\nHost: lxd\r\nIf-Match: {etag}\r\n"
            f"Expect: 100-continue\r\nContent-Length: {len(self._body)}\r\nConnection: close\r\n\r\n"
        )
        self._stream.write(head.encode())
        self._stream.flush()

    def wait_until_compared(self) -> None:
        """The server asks for the body."""
        assert self._stream.readline().split()[1] == b"100"
        assert self._stream.readline().strip() == b""

    def write(self) -> int:
        """Send the body; the status of the answer."""
        self._stream.write(self._body)
        self._stream.flush()
        return int(self._stream.read().split()[1])


class TestEvacuation:
    """Why herder empties a member of a cluster itself."""

    def test_it_stops_at_the_first_failure_and_moves_nothing_back(self, cluster: dict[str, Site]) -> None:
        """A protected instance cannot be moved: it stays stopped, and those after it are not touched."""
        c1 = cluster["c1"]
        c1.server.launch("a", devices=NO_NIC)
        c1.server.launch("b", devices=NO_NIC, config={"security.protection.delete": "true"})
        c1.server.launch("c", devices=NO_NIC)
        evacuation = evacuate(c1)
        with pytest.raises(ServerRefused, match="This operation can't be cancelled"):
            c1.client.cancel(evacuation)
        assert "Container is protected" in finished(c1.client, evacuation).error
        found = {each.name: (each.status, each.location == "c1") for each in c1.client.instances()}
        assert found["a"] == ("Running", False)
        assert found["b"] == ("Stopped", True)
        assert found["c"] == ("Running", True)
        assert [name for name in found if name.startswith("lxd-move-of-")]

    def test_it_only_stops_what_has_a_nic_on_a_bridge_of_the_host(self, cluster: dict[str, Site]) -> None:
        """The operation succeeds, but the instance is still there, stopped until the restore."""
        c1 = cluster["c1"]
        c1.server.launch(NAME)
        assert c1.client.instance(NAME).expanded_devices["eth0"]["nictype"] == "bridged"
        done(c1.client, evacuate(c1))
        found = c1.client.instance(NAME)
        assert (found.status, found.location) == ("Stopped", "c1")

    def test_a_disk_from_the_host_crashes_the_daemon(self, cluster: dict[str, Site]) -> None:
        """An instance with such a device makes the evacuation end the daemon of the member; its containers run on."""
        c1 = cluster["c1"]
        before = c1.server.pid
        c1.server.launch(NAME, devices={**NO_NIC, "host": {"type": "disk", "source": "/etc", "path": "/mnt"}})
        evacuate(c1)
        wait_until("the daemon to crash and to be started again", lambda: c1.server.pid not in {None, before})
        c1.server.daemon.wait_ready()
        assert status(c1) == "Running"


class TestMemberDown:
    """What a cluster says of a member that does not answer."""

    def test_its_instances_are_listed_without_facts_and_not_reached(self, cluster: dict[str, Site]) -> None:
        """Their status is Error and their config null; to ask for one of them fails after a while as HTTP 500."""
        c1, c3 = cluster["c1"], cluster["c3"]
        c3.server.launch(NAME)
        c3.server.kill()
        (listed,) = c1.client.instances()
        assert (listed.status, listed.location, listed.config) == ("Error", "c3", {})
        with pytest.raises(ServerUnreachable, match="Missing event connection with target cluster member"):
            c1.client.instance(NAME)


class TestRules:
    """The facts behind the rules that herder's steps follow."""

    def test_what_is_missing_on_the_target_is_told_at_once(self, s1: Site, s2: Site) -> None:
        """Before anything is sent, and without leaving anything behind; only a missing pool is not (see there)."""
        s1.server.launch(NAME)
        volume = {"type": "disk", "source": "nope", "pool": "default", "path": "/data"}
        for changes, said in (
            ({"profiles": ["nope"]}, 'Requested profile "nope" doesn\'t exist'),
            ({"config": {"nope": "1"}}, "Unknown configuration key: nope"),
            ({"devices": {"eth0": {"type": "nic", "network": "nope"}}}, "Network not found"),
            ({"devices": {"data": volume}}, "Storage volume not found"),
            ({"devices": {"data": {"type": "disk", "source": "/nope", "path": "/data"}}}, "Missing source path"),
            ({"architecture": "aarch64"}, "architecture isn't supported"),
        ):
            body = {"name": NAME, "architecture": "x86_64", "source": {"type": "migration", "mode": "pull"}, **changes}
            with pytest.raises(ServerRefused, match=said):
                s2.client.receive(body)
        assert names(s2) == set()

    def test_a_name_that_is_taken_is_told_at_once(self, s1: Site, s2: Site) -> None:
        """As HTTP 500, and what bears the name is not touched."""
        s1.server.launch(NAME)
        s2.server.launch(NAME, config={"user.mine": "yes"})
        with pytest.raises(ServerRefused, match='This "instances" entry already exists') as refused:
            pull(s1, s2, NAME)
        assert refused.value.status == 500
        assert s2.client.instance(NAME).config["user.mine"] == "yes"
        with pytest.raises(ServerRefused, match="Instance is running"):
            pull(s1, s2, NAME, refresh=True)

    def test_a_protected_copy_cannot_be_deleted(self, s1: Site, s2: Site) -> None:
        """The key goes with the config, so a copy that may have to be deleted must not have it."""
        s1.server.launch(NAME)
        pull(s1, s2, NAME, config={"security.protection.delete": "true"}).succeed()
        assert finished(s2.client, s2.client.delete(NAME)).error == "Container is protected"

    def test_a_restart_shows_in_the_servers_pid(self, s1: Site) -> None:
        """So an operation that is unknown can be told from one that was lost."""
        before = s1.client.info().pid
        assert s1.client.info().pid == before
        s1.restart()
        assert s1.client.info().pid != before

    def test_progress_shows_on_the_source_and_a_stall_is_seen_there(self, s1: Site, s2: Site) -> None:
        """The source counts bytes once a second while they flow; the target tells nothing."""
        s1.server.launch(NAME)
        s1.write(NAME, mib=32)
        with Wire(s1.server, hold_after=4 * MIB) as wire:
            moving = pull(s1, s2, NAME, address=wire.address)
            wire.wait_held()
            # A transfer tells nothing of its first second.
            s1.client.wait(moving.offered, timeout_seconds=1)
            wire.release(hold_after=16 * MIB)
            wire.wait_held()
            stalled = s1.client.wait(moving.offered, timeout_seconds=2)
            later = s1.client.wait(moving.offered, timeout_seconds=2)
            target = s2.client.operation(moving.received)
            wire.release()
            moving.succeed()
        assert stalled
        assert later
        assert target
        told = progress(stalled)
        assert told
        assert (told.volume, told.bytes > 4 * MIB) == (NAME, True)
        assert progress(later) == told
        assert target.metadata == {}

    def test_only_a_complete_copy_can_be_marked(self, s1: Site, s2: Site) -> None:
        """A PATCH of a copy that is still being received, or of a wreck, fails: a mark of completeness is a proof."""
        s1.server.launch(NAME)
        s1.write(NAME)
        with Wire(s1.server, hold_after=4 * MIB) as wire:
            moving = pull(s1, s2, NAME, address=wire.address)
            wire.wait_held()
            with pytest.raises(NotFound, match=r"backup\.yaml"):
                s2.client.patch(NAME, config={"user.herder.state": "complete"})
            wire.release()
            moving.succeed()
        s2.client.patch(NAME, config={"user.herder.state": "complete"})
        assert s2.client.instance(NAME).marks == {"state": "complete"}

    def test_a_failed_transfer_leaves_nothing_on_the_target(self, s1: Site, s2: Site) -> None:
        """A copy that is there although its operation is unknown and the daemon was not restarted is complete."""
        s1.server.launch(NAME)
        s1.write(NAME)
        with Wire(s1.server, hold_after=4 * MIB) as wire:
            moving = pull(s1, s2, NAME, address=wire.address)
            wire.wait_held()
            wire.cut()
            source, target = moving.ended()
        assert (source.succeeded, target.succeeded) == (False, False)
        assert names(s2) == set()

    def test_an_interrupted_refresh_on_dir_leaves_a_mixture_that_starts(self, s1: Site, d1: Site) -> None:
        """New and old data side by side, and the copy starts without complaint; another refresh mends it."""
        s1.server.launch(NAME)
        s1.write(NAME, "a", mib=8)
        s1.write(NAME, "b", mib=24)
        pull(s1, d1, NAME).succeed()
        old = {file: (d1.root_of(NAME) / "root" / file).read_bytes() for file in "ab"}
        s1.write(NAME, "a", mib=8)
        s1.write(NAME, "b", mib=24)
        with Wire(s1.server, hold_after=12 * MIB) as wire:
            moving = pull(s1, d1, NAME, address=wire.address, refresh=True)
            wire.wait_held()
            wire.cut()
            moving.ended()
        assert (d1.root_of(NAME) / "root/a").read_bytes() != old["a"]
        done(d1.client, d1.client.start(NAME))
        done(d1.client, d1.client.force_stop(NAME))
        pull(s1, d1, NAME, refresh=True).succeed()
        for file in "ab":
            assert (d1.root_of(NAME) / "root" / file).read_bytes() == (s1.root_of(NAME) / "root" / file).read_bytes()

    def test_an_interrupted_refresh_on_btrfs_leaves_the_old_copy(self, s1: Site, s2: Site) -> None:
        """The volume is swapped at the end, so that the copy is what it was before."""
        s1.server.launch(NAME)
        s1.write(NAME)
        pull(s1, s2, NAME).succeed()
        done(s2.client, s2.client.start(NAME))
        old = checksum(s2)
        done(s2.client, s2.client.force_stop(NAME))
        s1.write(NAME)
        with Wire(s1.server, hold_after=4 * MIB) as wire:
            moving = pull(s1, s2, NAME, address=wire.address, refresh=True)
            wire.wait_held()
            wire.cut()
            moving.ended()
        done(s2.client, s2.client.start(NAME))
        assert checksum(s2) == old

    def test_a_refresh_needs_the_chain_of_snapshots(self, s1: Site, s2: Site) -> None:
        """Without the target's last common snapshot even a refresh with a new one sends all again."""
        s1.server.launch(NAME)
        s1.write(NAME, mib=8)
        s1.snapshot(NAME, "s0")
        pull(s1, s2, NAME).succeed()
        done(s2.client, s2.client.delete_snapshot(NAME, "s0"))
        s1.snapshot(NAME, "s1")
        assert refreshed(s1, s2) > 8 * MIB

    def test_an_inconsistent_copy_fails_when_a_file_vanishes(self, d1: Site, s2: Site) -> None:
        """Then rsync ends with status 24, and LXD takes that for a failure."""
        d1.server.launch(NAME)
        d1.write(NAME, "a")
        d1.write(NAME, "b", mib=1)
        with Wire(d1.server, hold_after=4 * MIB) as wire:
            moving = pull(d1, s2, NAME, address=wire.address, allow_inconsistent=True)
            wire.wait_held()
            d1.do(NAME, "rm", "/root/b")
            wire.release()
            source, target = moving.ended()
        assert not target.succeeded
        assert "exit status 24" in source.error

    def test_a_stopped_source_comes_back_with_its_daemon_unless_autostart_is_off(self, s1: Site) -> None:
        """A restart of the source's daemon after the cutover would make two of one."""
        for name in ("on", "off"):
            s1.server.launch(name, config={"boot.autostart": "true"})
            done(s1.client, s1.client.force_stop(name))
        s1.client.patch("off", config={"boot.autostart": "false"})
        s1.restart()
        wait_until("the first to run", lambda: status(s1, "on") == "Running")
        assert status(s1, "off") == "Stopped"

    def test_a_patch_empties_a_description_that_it_leaves_out(self, s1: Site) -> None:
        """All else that is left out stays; our client sends the description along."""
        s1.server.launch(NAME)
        patch = {"description": "web"}
        s1.client.transport.request("PATCH", f"/1.0/instances/{NAME}", json=patch)
        s1.client.patch(NAME, config={"user.a": "1"})
        assert s1.client.instance(NAME).description == "web"
        before = s1.client.instance(NAME)
        s1.client.transport.request("PATCH", f"/1.0/instances/{NAME}", json={"config": {"user.a": "2"}})
        after = s1.client.instance(NAME)
        assert after == replace(
            before,
            description="",
            config={**before.config, "user.a": "2"},
            expanded_config={**before.expanded_config, "user.a": "2"},
            etag=after.etag,
        )

    def test_writes_to_one_instance_collide(self, s1: Site) -> None:
        """The losers are told that an operation has succeeded, as HTTP 500: to us, that the server is busy."""
        s1.server.launch(NAME)

        def write(number: int) -> HerderError | None:
            try:
                s1.client.patch(NAME, config={f"user.{number}": "x"})
            except HerderError as error:
                return error
            return None

        with ThreadPoolExecutor(20) as pool:
            rounds = ([each for each in pool.map(write, range(20)) if each] for _ in range(20))
            lost = next(filter(None, rounds))
        assert {type(each) for each in lost} == {ServerBusy}
        assert len(lost) < 20

    def test_an_orderly_stop_waits_for_what_is_received_and_refuses_the_rest(self, s1: Site, s2: Site) -> None:
        """Changes are answered by 503; the transfer succeeds, and the copy is there after the start."""
        s1.server.launch(NAME)
        s1.write(NAME)
        s2.server.launch("other")
        with Wire(s1.server, hold_after=4 * MIB) as wire:
            moving = pull(s1, s2, NAME, address=wire.address)
            wire.wait_held()
            ending = s2.server.daemon.process
            assert ending
            ending.send(signal.SIGTERM)
            wait_until("the refusal", lambda: _is_shutting_down(s2.client))
            wire.release()
            assert finished(s1.client, moving.offered).succeeded
            wait_until("the end of the daemon", lambda: not ending.alive)
        s2.server.start()
        done(s2.client, s2.client.start(NAME))

    def test_a_failed_move_between_members_leaves_it_stopped_and_a_record_behind(
        self, cluster: dict[str, Site]
    ) -> None:
        """The source has to be started again and the record to be deleted, which has the protection too."""
        c1 = cluster["c1"]
        c1.server.launch(NAME, config={"security.protection.delete": "true"})
        uuid = c1.client.instance(NAME).config["volatile.uuid"]
        body = {"name": NAME, "migration": True, "live": False}
        moving = c1.client.transport.request("POST", f"/1.0/instances/{NAME}?target=c2", json=body).operation
        assert moving
        assert "Container is protected" in finished(c1.client, moving).error
        assert (status(c1), c1.client.instance(NAME).location) == ("Stopped", "c1")
        record = f"lxd-move-of-{uuid}"
        c1.client.patch(record, config={"security.protection.delete": ""})
        done(c1.client, c1.client.delete(record))
        done(c1.client, c1.client.start(NAME))


class TestGuard:
    """A device whose file does not exist on the host keeps a container from being started, by anybody."""

    def test_a_guarded_container_starts_neither_by_request_nor_with_the_daemon(self, s1: Site) -> None:
        """The start fails at the device; it stays Stopped, also over a restart with autostart."""
        for name in ("guarded", "free"):
            s1.server.launch(name, config={"boot.autostart": "true"})
            done(s1.client, s1.client.force_stop(name))
        s1.client.patch("guarded", devices={GUARD_DEVICE: GUARD})
        assert s1.client.instance("guarded").is_guarded
        assert "The required device path doesn't exist" in finished(s1.client, s1.client.start("guarded")).error
        s1.restart()
        wait_until("the other to run", lambda: status(s1, "free") == "Running")
        assert status(s1, "guarded") == "Stopped"

    def test_a_running_container_cannot_be_guarded(self, s1: Site) -> None:
        """The request fails, nothing is changed, and the guest runs on."""
        s1.server.launch(NAME)
        before = s1.client.instance(NAME)
        with pytest.raises(ServerRefused, match="The required device path doesn't exist"):
            s1.client.patch(NAME, devices={GUARD_DEVICE: GUARD})
        assert s1.client.instance(NAME) == before

    def test_a_copy_is_guarded_from_the_first_moment_until_it_is_freed(self, s1: Site, s2: Site) -> None:
        """The guard may be in the request; a refresh keeps it; a PUT without it takes it away."""
        s1.server.launch(NAME)
        s1.snapshot(NAME, "s0")
        devices = {"root": ROOT, GUARD_DEVICE: GUARD}
        moving = pull(s1, s2, NAME, devices=devices)
        assert s2.client.instance(NAME).is_guarded
        moving.succeed()
        s1.snapshot(NAME, "s1")
        pull(s1, s2, NAME, refresh=True).succeed()
        guarded = s2.client.instance(NAME)
        assert guarded.is_guarded
        assert not finished(s2.client, s2.client.start(NAME)).succeeded
        # The start that failed has changed volatile keys, and with them the ETag.
        with pytest.raises(PreconditionFailed):
            free(s2.client, guarded)
        done(s2.client, free(s2.client, s2.client.instance(NAME)))
        done(s2.client, s2.client.start(NAME))

    def test_a_profile_guards_a_container_that_runs(self, s1: Site) -> None:
        """LXD refuses to plug the device in, saves the profile all the same, and then refuses the next start."""
        s1.server.launch(NAME)
        guard_by_profile(s1, NAME)
        guarded = s1.client.instance(NAME)
        assert (guarded.is_running, guarded.is_guarded, guarded.own_devices) == (True, True, guarded.devices)
        s1.do(NAME, "true")
        done(s1.client, s1.client.force_stop(NAME))
        assert "The required device path doesn't exist" in finished(s1.client, s1.client.start(NAME)).error
        set_guard(s1, {})
        done(s1.client, s1.client.start(NAME))

    def test_the_guard_is_taken_off_a_container_that_runs(self, s1: Site) -> None:
        """And it goes on running."""
        s1.server.launch(NAME)
        guard_by_profile(s1, NAME)
        set_guard(s1, {})
        free_again = s1.client.instance(NAME)
        assert (free_again.is_running, free_again.is_guarded) == (True, False)

    def test_a_profile_is_saved_while_its_container_is_being_stopped(self, s1: Site) -> None:
        """The container itself can be changed by nobody then."""
        s1.server.launch(NAME, image="stubborn")
        guard_by_profile(s1, NAME, {})
        stopping = s1.client.stop(NAME, grace_seconds=3)
        with pytest.raises(ServerBusy, match="busy"):
            s1.client.patch(NAME, config={"user.x": "1"})
        set_guard(s1, {GUARD_DEVICE: GUARD})
        assert s1.client.instance(NAME).is_guarded
        assert not finished(s1.client, stopping).succeeded

    def test_a_profile_is_changed_only_as_it_was_seen(self, s1: Site) -> None:
        """So of a hand-over and a way back one is refused."""
        s1.client.create_profile(PROFILE)
        seen = s1.client.profile(PROFILE)
        s1.client.replace_profile(seen, description="handed over", config={}, devices={})
        with pytest.raises(PreconditionFailed):
            s1.client.replace_profile(seen, description="open", config={}, devices={})

    def test_a_refresh_needs_the_profiles_of_the_source_on_the_target(self, s1: Site, s2: Site) -> None:
        """Although the copy does not use them: LXD looks them up for each new snapshot."""
        s1.server.launch(NAME)
        s1.snapshot(NAME, "s0")
        pull(s1, s2, NAME).succeed()
        guard_by_profile(s1, NAME, {})
        s1.snapshot(NAME, "s1")
        _, received = pull(s1, s2, NAME, profiles=("default",), refresh=True).ended()
        assert "Profile not found" in received.error
        s2.client.create_profile(PROFILE)
        pull(s1, s2, NAME, profiles=("default",), refresh=True).succeed()
        assert s2.client.instance(NAME).profiles == ("default",)


def guard_by_profile(site: Site, name: str, devices: Devices = MappingProxyType({GUARD_DEVICE: GUARD})) -> None:
    """Attach an empty profile, then write these devices into it."""
    site.client.create_profile(PROFILE)
    site.client.patch(name, profiles=("default", PROFILE))
    set_guard(site, devices)


def set_guard(site: Site, devices: Devices) -> None:
    """Write these devices into the profile."""
    site.client.replace_profile(site.client.profile(PROFILE), description="", config={}, devices=devices)


def make_wreck(source: Site, target: Site) -> None:
    """Kill the target in the middle of the transfer of a snapshot."""
    source.server.launch(NAME)
    source.write(NAME)
    source.snapshot(NAME, "s0")
    with Wire(source.server, hold_after=4 * MIB) as wire:
        moving = pull(source, target, NAME, address=wire.address, config=RECEIVING)
        wire.wait_held()
        target.server.kill()
        wire.cut()
        assert not finished(source.client, moving.offered).succeeded
    target.server.start()
    assert names(target) == {NAME}


def refreshed(source: Site, target: Site, *, instance_only: bool = False) -> int:
    """Refresh, and tell how many bytes that took."""
    with Wire(source.server) as wire:
        pull(source, target, NAME, address=wire.address, refresh=True, instance_only=instance_only).succeed()
        return wire.carried


def evacuate(member: Site) -> str:
    """Begin to evacuate."""
    path = f"/1.0/cluster/members/{member.server.name}/state"
    operation = member.client.transport.request("POST", path, json={"action": "evacuate"}).operation
    assert operation
    return operation


def offers_memory(client: LxdClient, body: Mapping[str, Any]) -> bool:
    """Whether this offer is a live one; where CRIU is not installed the server refuses those."""
    try:
        reply = client.transport.request("POST", f"/1.0/instances/{NAME}", json=body)
    except ServerRefused as refused:
        return "live migration" in refused.message
    return "criu" in reply.metadata["metadata"]


def checksum(there: Site) -> str:
    return there.server.lxc("exec", NAME, "--", "md5sum", "/root/data")


def free(client: LxdClient, instance: Instance) -> str:
    """Begin to take the guard away."""
    return client.replace(instance, config=instance.config, devices=instance.own_devices)


def _pull_and_idle(lab: Lab, address: str) -> None:
    """Begin a pull from s1 to s2 over the wire at this address, and wait to be killed."""
    source, target = Site.of(lab, "s1"), Site.of(lab, "s2")
    pull(source, target, NAME, address=address)
    signal.pause()


def _operations_on(client: LxdClient, description: str) -> list[Operation]:
    """The operations about our instance that run."""
    path = f"/1.0/instances/{NAME}"
    return [
        each
        for each in client.operations()
        if each.description == description and path in each.resources["instances"] and not each.is_finished
    ]


def _is_shutting_down(client: LxdClient) -> bool:
    try:
        client.patch("other", config={"user.a": "1"})
    except ServerBusy as busy:
        return "shutting down" in busy.message
    return False
