"""What Incus 6.0 does, as far as herder is built on it and LXD 5.0.2 does the same or differs.

Each test is one fact, and its docstring says it. What holds for both products is asked of both.
"""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import pytest

from common.domain.errors import PreconditionFailed, ServerBusy, ServerRefused, ServerUnreachable
from common.domain.instance import GUARD_DEVICE
from common.domain.volume import Volume
from common.lxd.connect import connect
from common.lxd.events import events
from common.lxd.remotes import Remotes
from tests.lab import Lab
from tests.lab.host import wait_until
from tests.lab.pulls import MIB, Site, booted, cleaned, done, finished, pull
from tests.lab.wire import Wire

pytestmark = pytest.mark.lab

NAME, PROFILE = "c1", "herder-test"
GUARD = {"type": "unix-char", "source": "/dev/herder-guard", "path": "/dev/herder-guard", "required": "true"}


@pytest.fixture
def i1(incus: Lab) -> Iterator[Site]:
    """A server of Incus."""
    yield from cleaned(incus, "i1")


@pytest.fixture
def i2(incus: Lab) -> Iterator[Site]:
    """Another server of Incus."""
    yield from cleaned(incus, "i2")


@pytest.fixture
def s1(incus: Lab) -> Iterator[Site]:
    """A server of LXD."""
    yield from cleaned(incus, "s1")


@pytest.fixture(params=["s1", "i1"])
def source(incus: Lab, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A source of either product."""
    yield from cleaned(incus, request.param)


def guard_running(there: Site) -> None:
    """Put the guard's profile on a running instance."""
    there.client.create_profile(PROFILE)
    there.client.patch(NAME, profiles=("default", PROFILE))
    there.client.replace_profile(
        there.client.profile(PROFILE), description="", config={}, devices={GUARD_DEVICE: GUARD}
    )


class TestGuard:
    """One side of a move cannot start."""

    def test_a_guard_in_a_profile_lets_a_running_container_run_and_refuses_its_next_start(self, i1: Site) -> None:
        """As with LXD: the profile is saved although the device cannot be plugged in, and the start names it."""
        i1.server.launch(NAME)
        guard_running(i1)
        assert i1.client.instance(NAME).is_running
        assert i1.client.instance(NAME).is_guarded
        done(i1.client, i1.client.stop(NAME, grace_seconds=5))
        assert GUARD_DEVICE in finished(i1.client, i1.client.start(NAME)).error
        assert i1.client.instance(NAME).is_stopped

    def test_a_guard_outlives_the_daemon(self, i1: Site) -> None:
        """A daemon that is killed and comes back does not start a guarded container, not even for its autostart."""
        i1.server.launch(NAME, config={"boot.autostart": "true"})
        guard_running(i1)
        done(i1.client, i1.client.stop(NAME, grace_seconds=5))
        i1.restart()
        assert GUARD_DEVICE in finished(i1.client, i1.client.start(NAME)).error

    def test_a_write_that_has_seen_an_older_state_is_refused(self, i1: Site) -> None:
        """If-Match holds for profiles, for a change of an instance, and for its replacement."""
        i1.server.launch(NAME)
        i1.client.create_profile(PROFILE)
        profile, instance = i1.client.profile(PROFILE), i1.client.instance(NAME)
        i1.client.replace_profile(profile, description="", config={"user.a": "1"}, devices={})
        i1.client.patch(NAME, config={"user.a": "1"}, seen=instance)
        with pytest.raises(PreconditionFailed):
            i1.client.replace_profile(profile, description="", config={"user.a": "2"}, devices={})
        with pytest.raises(PreconditionFailed):
            i1.client.patch(NAME, config={"user.a": "2"}, seen=instance)
        with pytest.raises(PreconditionFailed):
            i1.client.replace(instance, config=instance.config, devices=instance.devices)


class TestStops:
    """A guest that does not shut down."""

    def test_an_instance_whose_guest_did_not_shut_down_takes_no_change_before_a_restart(self, i1: Site) -> None:
        """It runs on, but for Incus it is being stopped until it has stopped, or until the daemon starts again."""
        i1.server.launch(NAME, image="stubborn")
        booted(i1.client, NAME)
        assert "context deadline exceeded" in finished(i1.client, i1.client.stop(NAME, grace_seconds=1)).error
        assert i1.client.instance(NAME).is_running
        with pytest.raises(ServerBusy, match='busy running a "stop" operation'):
            i1.client.patch(NAME, config={"user.a": "1"})
        i1.restart()
        i1.client.patch(NAME, config={"user.a": "1"})
        assert i1.client.instance(NAME).is_running


class TestWaiting:
    """Incus answers a wait in another way than LXD."""

    def test_a_wait_for_what_fails_tells_the_operation(self, i1: Site) -> None:
        """Incus answers the wait by the operation's error alone, with the HTTP status 200; the client asks again."""
        i1.server.launch(NAME)
        failed = finished(i1.client, i1.client.start(NAME))
        assert "already running" in failed.error
        assert failed.is_finished
        with pytest.raises(ServerRefused, match="already running") as refused:
            i1.client.transport.request("GET", f"/1.0/operations/{failed.id}/wait")
        assert refused.value.status == HTTPStatus.INTERNAL_SERVER_ERROR

    def test_a_wait_whose_time_is_up_tells_an_operation_that_runs(self, i1: Site) -> None:
        """Incus calls the end of the time an error; the client asks once, not three times."""
        i1.server.launch(NAME)
        began = time.monotonic()
        seen = i1.client.wait(i1.client.execute(NAME, ["sleep", "20"]), timeout_seconds=1)
        assert seen is not None
        assert not seen.is_finished
        assert time.monotonic() - began < 2

    def test_a_wait_for_an_unknown_operation_is_none(self, i1: Site) -> None:
        """As with LXD."""
        assert i1.client.wait("11111111-2222-3333-4444-555555555555", timeout_seconds=1) is None

    def test_the_events_of_an_operation_are_heard(self, i1: Site) -> None:
        """The stream tells of an operation's end, with the operation, as LXD's does."""
        i1.server.launch(NAME)
        heard = events(i1.client.transport)
        begun = i1.client.stop(NAME, grace_seconds=5)
        ended = next(e for e in heard if e.operation and e.operation.id == begun and e.operation.is_finished)
        assert ended.operation is not None
        assert ended.operation.succeeded


class TestPulls:
    """Instances come to Incus by pull, from either product."""

    def test_a_pull_and_its_refresh_bring_data_snapshots_and_identity(self, source: Site, i2: Site) -> None:
        """MAC address, uuid, cloud-init's id and base image are accepted from the source and kept."""
        source.server.launch(NAME)
        source.write(NAME, mib=4)
        source.snapshot(NAME, "s0")
        instance = source.client.instance(NAME)
        assert "volatile.eth0.hwaddr" in instance.identity
        pull(source, i2, NAME, config={**instance.own_config, **instance.identity}).succeed()
        source.write(NAME, "more", mib=1)
        source.snapshot(NAME, "s1")
        pull(source, i2, NAME, refresh=True).succeed()
        copy = i2.client.instance(NAME)
        assert copy.identity == instance.identity
        assert copy.own_config == instance.own_config
        assert [snapshot.name for snapshot in i2.client.snapshots(NAME)] == ["s0", "s1"]
        for file in ("data", "more"):
            assert (i2.root_of(NAME) / "root" / file).read_bytes() == (
                source.root_of(NAME) / "root" / file
            ).read_bytes()

    def test_a_complete_copy_says_so(self, source: Site, i2: Site) -> None:
        """Only a copy whose data is complete has LXD's own sign, also on Incus."""
        source.server.launch(NAME)
        source.write(NAME)
        with Wire(source.server, hold_after=4 * MIB) as wire:
            begun = pull(source, i2, NAME, address=wire.address)
            wire.wait_held()
            assert "volatile.apply_template" not in i2.client.instance(NAME).config
            wire.release()
            begun.succeed()
        assert i2.client.instance(NAME).config["volatile.apply_template"] == "copy"

    def test_a_look_into_a_copy_is_not_answered_before_its_transfer_has_ended(
        self, incus: Lab, i1: Site, i2: Site
    ) -> None:
        """LXD answers at once; what is not about the copy's files Incus answers too."""
        remotes = Remotes.load({"LXD_CONF": str(incus.lxc_conf)}, Path("/nowhere"))
        hasty = connect(remotes.get("i2"), read_timeout=3)
        i1.server.launch(NAME)
        i1.write(NAME)
        with Wire(i1.server, hold_after=4 * MIB) as wire:
            begun = pull(i1, i2, NAME, address=wire.address)
            wire.wait_held()
            assert hasty.snapshots(NAME) == ()
            hasty.used_space(NAME)
            with pytest.raises(ServerUnreachable, match="no answer in time"):
                hasty.has_files(NAME)
            wire.release()
            begun.succeed()
        assert hasty.has_files(NAME)

    def test_a_target_that_dies_in_a_pull_leaves_a_copy_without_the_sign(self, i1: Site, i2: Site) -> None:
        """The half-made copy is listed, its operation is forgotten, and it can be deleted."""
        i1.server.launch(NAME)
        i1.write(NAME)
        with Wire(i1.server, hold_after=4 * MIB) as wire:
            begun = pull(i1, i2, NAME, address=wire.address)
            wire.wait_held()
            i2.restart()
        assert i2.client.operation(begun.received) is None
        assert "volatile.apply_template" not in i2.client.instance(NAME).config
        wait_until("the offer to end", lambda: finished(i1.client, begun.offered).error != "")
        done(i2.client, i2.client.delete(NAME))

    def test_an_unknown_config_key_is_refused_at_once_by_name(self, s1: Site, i2: Site) -> None:
        """Incus refuses what it does not know before any data is sent; a key of LXD's that it renamed is one."""
        s1.server.launch(NAME, config={"security.devlxd": "false"})
        instance = s1.client.instance(NAME)
        with pytest.raises(ServerRefused, match=r"security\.devlxd"):
            pull(s1, i2, NAME, config=instance.own_config)

    def test_lxd_takes_an_instance_from_incus_but_not_its_snapshots(self, i1: Site, s1: Site) -> None:
        """Incus sends each snapshot with `volatile.uuid.generation`, which LXD 5.0.2 does not know."""
        i1.server.launch(NAME)
        i1.snapshot(NAME, "s0")
        instance = i1.client.instance(NAME)
        pull(i1, s1, NAME, config=instance.identity, instance_only=True).succeed()
        assert s1.client.instance(NAME).identity == instance.identity
        done(s1.client, s1.client.delete(NAME))
        _, received = pull(i1, s1, NAME, config=instance.identity).ended()
        assert "Unknown configuration key: volatile.uuid.generation" in received.error


class TestVolumes:
    """Custom volumes come to Incus as backups: LXD must not send it one."""

    def test_a_target_that_dies_while_it_makes_a_volume_of_a_backup_leaves_one_that_looks_whole(
        self, s1: Site, i2: Site
    ) -> None:
        """It has the source's config, marks and all; it can be deleted, and its operation is forgotten."""
        volume = Volume(pool="default", name="data", config={"user.herder.job": "p1-1"}, description="of s1")
        s1.client.create_volume(volume)
        (s1.server.lxd_dir / "storage-pools/default/custom/default_data/old").write_bytes(os.urandom(64 * MIB))
        try:
            tomorrow = datetime.now(UTC) + timedelta(days=1)
            making = s1.client.back_volume_up(volume, "b", expires_at=tomorrow, volume_only=False, optimized=True)
            done(s1.client, making)
            with s1.client.read_volume_backup(volume, "b") as (size, pieces):
                assert size > 64 * MIB
                begun = i2.client.restore_volume("half", pieces, pool="default")
            wait_until("the record of the volume", lambda: bool(i2.client.volumes()), seconds=30)
            i2.restart()
            assert i2.client.operation(begun) is None
            half = i2.client.volume("default", "half")
            assert (half.config["user.herder.job"], half.description) == ("p1-1", "of s1")
            i2.client.delete_volume(half)
        finally:
            s1.client.delete_volume(volume)


@pytest.mark.parametrize(("name", "unknown"), [("s1", "security.guestapi"), ("i1", "security.devlxd")])
def test_a_server_tells_which_config_it_would_refuse_and_changes_nothing(incus: Lab, name: str, unknown: str) -> None:
    """Both check the config of a new profile before they find that there is one of that name."""
    there = Site.of(incus, name).client
    before = there.profile("default")
    asked = [("limits.kernel.nofile", "64"), ("security.nesting", "perhaps"), (unknown, "false")]
    assert there.refused_config(asked) == {
        (unknown, "false"): f"Unknown configuration key: {unknown}",
        ("security.nesting", "perhaps"): 'Invalid value for a boolean "perhaps"',
    }
    assert there.profile("default") == before
