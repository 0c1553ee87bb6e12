"""Pulls from server to server: what arrives, what breaks, and what is left."""

import pytest

from common.domain.errors import NotFound, ServerRefused
from common.lxd.events import progress
from common.lxd.migration import Transfer, receive_body
from tests.contract.sites import Site, begin_pull
from tests.lab.pulls import MIB, done, finished

NAME = "c1"
RECEIVING = {"user.herder.state": "receiving"}
ROOT = {"type": "disk", "path": "/", "pool": "default"}


def names(site: Site) -> set[str]:
    return {each.name for each in site.client.instances()}


def snapshot(site: Site, name: str) -> None:
    done(site.client, site.client.create_snapshot(NAME, name))


def stop(site: Site) -> None:
    done(site.client, site.client.force_stop(NAME))


def refreshed(source: Site, target: Site) -> int:
    """Refresh, and tell how many bytes that took."""
    with source.wire() as wire:
        begin_pull(source, target, NAME, wire=wire, refresh=True).succeed()
        return wire.carried


def test_a_copy_is_the_same_but_for_what_was_asked(s1: Site, s2: Site) -> None:
    s1.launch(NAME, config={"user.a": "1"})
    s1.write(NAME, mib=4)
    snapshot(s1, "s0")
    stop(s1)
    source = s1.client.instance(NAME)
    begin_pull(s1, s2, NAME, config={**source.own_config, **source.identity, **RECEIVING}).succeed()
    copy = s2.client.instance(NAME)
    assert (copy.is_stopped, copy.marks, copy.config["user.a"]) == (True, {"state": "receiving"}, "1")
    assert (copy.identity, copy.addresses, copy.profiles) == (source.identity, source.addresses, source.profiles)
    assert copy.config["volatile.apply_template"] == "copy"
    assert "volatile.last_state.power" not in copy.config
    assert [each.name for each in s2.client.snapshots(NAME)] == ["s0"]
    assert s2.client.snapshots(NAME)[0].created_at == s1.client.snapshots(NAME)[0].created_at.replace(microsecond=0)
    assert s2.content(NAME) == s1.content(NAME)
    done(s2.client, s2.client.start(NAME))


def test_a_half_made_copy_looks_finished_and_refuses_changes_which_stay(s1: Site, s2: Site) -> None:
    """It is Stopped from the first moment. A PATCH is answered by 404, and yet it is in the database afterwards."""
    s1.launch(NAME)
    s1.write(NAME)
    with s1.wire(hold_after=4 * MIB) as wire:
        moving = begin_pull(s1, s2, NAME, wire=wire, config=RECEIVING)
        at_once = s2.client.instance(NAME)
        assert (at_once.is_stopped, at_once.marks) == (True, {"state": "receiving"})
        wire.wait_held()
        with pytest.raises(NotFound, match=r"backup\.yaml"):
            s2.client.patch(NAME, config={"user.herder.state": "complete"})
        assert s2.client.instance(NAME).marks == {"state": "complete"}
        assert "volatile.apply_template" not in s2.client.instance(NAME).config
        assert "Failed expanding symlinks" in finished(s2.client, s2.client.start(NAME)).error
        wire.release()
        moving.succeed()
    s2.client.patch(NAME, config={"user.herder.state": "done"})
    assert s2.client.instance(NAME).config["volatile.apply_template"] == "copy"


def test_what_is_missing_on_the_target_is_told_at_once(s2: Site) -> None:
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


def test_a_missing_pool_is_silently_replaced(s1: Site, s2: Site) -> None:
    s1.launch(NAME)
    begin_pull(s1, s2, NAME, devices={"root": {**ROOT, "pool": "nope"}}).succeed()
    assert s2.client.instance(NAME).root_pool == "default"


def test_a_name_that_is_taken_is_told_at_once(s1: Site, s2: Site) -> None:
    s1.launch(NAME)
    s2.launch(NAME, config={"user.mine": "yes"})
    with pytest.raises(ServerRefused, match='This "instances" entry already exists') as refused:
        begin_pull(s1, s2, NAME)
    assert refused.value.status == 500
    with pytest.raises(ServerRefused, match="Instance is running"):
        begin_pull(s1, s2, NAME, refresh=True)
    assert s2.client.instance(NAME).config["user.mine"] == "yes"


def test_a_pull_can_be_cancelled_on_the_source_only(s1: Site, s2: Site) -> None:
    s1.launch(NAME)
    s1.write(NAME)
    with s1.wire(hold_after=4 * MIB) as wire:
        moving = begin_pull(s1, s2, NAME, wire=wire)
        wire.wait_held()
        with pytest.raises(ServerRefused, match="This operation can't be cancelled"):
            s2.client.cancel(moving.received)
        s1.client.cancel(moving.offered)
        wire.release()
        source, target = moving.ended()
    assert (source.succeeded, target.succeeded) == (False, False)
    assert "Error transferring instance data" in target.error
    assert names(s2) == set()
    assert s1.client.instance(NAME).is_running


def test_a_cut_transfer_leaves_nothing_on_the_target(s1: Site, s2: Site) -> None:
    s1.launch(NAME)
    s1.write(NAME)
    with s1.wire(hold_after=4 * MIB) as wire:
        moving = begin_pull(s1, s2, NAME, wire=wire)
        wire.wait_held()
        wire.cut()
        source, target = moving.ended()
    assert (source.succeeded, target.succeeded) == (False, False)
    assert names(s2) == set()


def test_a_source_that_cannot_be_reached_fails_the_operation_and_leaves_nothing(s1: Site, s2: Site) -> None:
    s1.launch(NAME)
    offer = s1.client.offer(NAME)
    source = {
        "type": "migration",
        "mode": "pull",
        "operation": f"https://127.0.0.1:9/1.0/operations/{offer.operation}",
        "certificate": s1.certificate,
        "secrets": dict(offer.secrets),
        "live": False,
    }
    ended = finished(s2.client, s2.client.receive({"name": NAME, "architecture": "x86_64", "source": source}))
    assert "Unable to connect to" in ended.error
    assert names(s2) == set()
    s1.client.cancel(offer.operation)


def test_a_source_with_another_certificate_fails_the_operation_and_says_so(s1: Site, s2: Site) -> None:
    s1.launch(NAME)
    offer = s1.client.offer(NAME)
    instance = s1.client.instance(NAME)
    body = receive_body(
        instance,
        name=NAME,
        config={},
        devices=instance.devices,
        profiles=instance.profiles,
        source=Transfer(offer=offer, address=s1.address, certificate=s2.certificate),
    )
    assert "x509: certificate signed by unknown authority" in finished(s2.client, s2.client.receive(body)).error
    assert names(s2) == set()
    s1.client.cancel(offer.operation)


def test_a_killed_target_leaves_a_wreck_that_can_only_be_renamed(s1: Site, s2: Site) -> None:
    """On btrfs, with snapshots. Its mark is there; it lacks LXD's sign of completeness; a new pull takes its name."""
    s1.launch(NAME)
    s1.write(NAME)
    snapshot(s1, "s0")
    with s1.wire(hold_after=4 * MIB) as wire:
        moving = begin_pull(s1, s2, NAME, wire=wire, config=RECEIVING)
        wire.wait_held()
        s2.kill()
        wire.cut()
        assert not finished(s1.client, moving.offered).succeeded
    s2.start()
    wreck = s2.client.instance(NAME)
    assert (wreck.is_stopped, wreck.marks) == (True, {"state": "receiving"})
    assert "volatile.apply_template" not in wreck.config
    assert s2.client.operation(moving.received) is None
    assert not finished(s2.client, s2.client.start(NAME)).succeeded
    with pytest.raises(NotFound):
        s2.client.patch(NAME, config={"user.a": "1"})
    assert "Could not get subvolume flags" in finished(s2.client, s2.client.delete(NAME)).error
    done(s2.client, s2.client.rename(NAME, "wreck"))
    begin_pull(s1, s2, NAME).succeed()
    assert names(s2) == {NAME, "wreck"}


def test_a_refresh_over_a_wreck_on_dir_succeeds_and_loses_the_snapshots(s1: Site, d1: Site) -> None:
    """Afterwards the copy has the record of the snapshot that the source has; the main data are whole."""
    s1.launch(NAME)
    s1.write(NAME)
    snapshot(s1, "s0")
    stop(s1)
    with s1.wire(hold_after=4 * MIB) as wire:
        begin_pull(s1, d1, NAME, wire=wire)
        wire.wait_held()
        d1.kill()
        wire.cut()
    d1.start()
    begin_pull(s1, d1, NAME, refresh=True).succeed()
    assert [each.name for each in d1.client.snapshots(NAME)] == ["s0"]


def test_a_running_container_on_dir_is_frozen_for_the_whole_transfer(d1: Site, s2: Site) -> None:
    """And stays Frozen when its daemon is killed meanwhile; with allow_inconsistent it runs on."""
    d1.launch(NAME)
    d1.write(NAME)
    with d1.wire(hold_after=4 * MIB) as wire:
        moving = begin_pull(d1, s2, NAME, wire=wire, allow_inconsistent=True)
        wire.wait_held()
        assert d1.client.instance(NAME).status == "Running"
        wire.release()
        moving.succeed()
    done(s2.client, s2.client.delete(NAME))
    with d1.wire(hold_after=4 * MIB) as wire:
        begin_pull(d1, s2, NAME, wire=wire)
        wire.wait_held()
        assert d1.client.instance(NAME).status == "Frozen"
        d1.kill()
        d1.start()
    assert d1.client.instance(NAME).status == "Frozen"
    done(d1.client, d1.client.unfreeze(NAME))
    assert d1.client.instance(NAME).is_running


def test_a_refresh_on_btrfs_is_a_full_copy_without_a_new_snapshot(s1: Site, s2: Site) -> None:
    """With one it sends what changed; it needs the chain; snapshots that the source does not have are deleted."""
    s1.launch(NAME)
    s1.write(NAME, mib=8)
    snapshot(s1, "s0")
    begin_pull(s1, s2, NAME).succeed()
    assert refreshed(s1, s2) > 8 * MIB
    snapshot(s1, "s1")
    assert refreshed(s1, s2) < MIB
    done(s2.client, s2.client.create_snapshot(NAME, "mine"))
    done(s2.client, s2.client.delete_snapshot(NAME, "s1"))
    done(s2.client, s2.client.delete_snapshot(NAME, "s0"))
    snapshot(s1, "s2")
    assert refreshed(s1, s2) > 8 * MIB
    assert [each.name for each in s2.client.snapshots(NAME)] == ["s0", "s1", "s2"]


def test_a_refresh_keeps_the_copys_config_and_brings_the_last_data(s1: Site, s2: Site) -> None:
    s1.launch(NAME)
    s1.write(NAME, mib=4)
    snapshot(s1, "s0")
    begin_pull(s1, s2, NAME, config=RECEIVING).succeed()
    s1.write(NAME, mib=4)
    stop(s1)
    snapshot(s1, "s1")
    begin_pull(s1, s2, NAME, config={"user.other": "1"}, refresh=True).succeed()
    assert s2.client.instance(NAME).own_config.get("user.other") is None
    assert s2.client.instance(NAME).marks == {"state": "receiving"}
    assert s2.content(NAME) == s1.content(NAME)


def test_an_interrupted_refresh_on_btrfs_leaves_the_old_copy(s1: Site, s2: Site) -> None:
    """It starts without complaint, and another refresh brings the new data."""
    s1.launch(NAME)
    s1.write(NAME)
    stop(s1)
    begin_pull(s1, s2, NAME).succeed()
    old = s2.content(NAME)
    done(s1.client, s1.client.start(NAME))
    s1.write(NAME)
    stop(s1)
    with s1.wire(hold_after=4 * MIB) as wire:
        moving = begin_pull(s1, s2, NAME, wire=wire, refresh=True)
        wire.wait_held()
        wire.cut()
        moving.ended()
    assert s2.content(NAME) == old
    done(s2.client, s2.client.start(NAME))
    done(s2.client, s2.client.force_stop(NAME))
    begin_pull(s1, s2, NAME, refresh=True).succeed()
    assert s2.content(NAME) == s1.content(NAME) != old


def test_nothing_keeps_a_copy_from_being_started_while_it_is_refreshed(s1: Site, s2: Site) -> None:
    """Changes are taken too, and the refresh succeeds."""
    s1.launch(NAME)
    s1.write(NAME)
    snapshot(s1, "s0")
    begin_pull(s1, s2, NAME).succeed()
    s1.write(NAME)
    snapshot(s1, "s1")
    with s1.wire(hold_after=4 * MIB) as wire:
        moving = begin_pull(s1, s2, NAME, wire=wire, refresh=True)
        wire.wait_held()
        s2.client.patch(NAME, config={"user.a": "1"})
        done(s2.client, s2.client.start(NAME))
        wire.release()
        moving.succeed()
    assert s2.client.instance(NAME).is_running


def test_a_restart_of_the_target_starts_a_copy_that_was_to_wait(s1: Site, s2: Site) -> None:
    traps = {
        "autostart": {"boot.autostart": "true"},
        "last-state": {"volatile.last_state.power": "RUNNING"},
        "plain": {},
    }
    for name, config in traps.items():
        s1.launch(name)
        begin_pull(s1, s2, name, config=config).succeed()
    s2.kill()
    s2.start()
    s2.wait_until(lambda: all(s2.client.instance(name).is_running for name in ("autostart", "last-state")))
    assert s2.client.instance("plain").is_stopped


def test_progress_shows_on_the_source_once_a_second(s1: Site, s2: Site) -> None:
    """Not in the first second; what stands still shows as the same number; the target tells nothing."""
    s1.launch(NAME)
    s1.write(NAME, mib=32)
    with s1.wire(hold_after=4 * MIB) as wire:
        moving = begin_pull(s1, s2, NAME, wire=wire)
        wire.wait_held()
        s1.client.wait(moving.offered, timeout_seconds=1)
        wire.release(hold_after=16 * MIB)
        wire.wait_held()
        stalled = s1.client.wait(moving.offered, timeout_seconds=2)
        later = s1.client.wait(moving.offered, timeout_seconds=1)
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
