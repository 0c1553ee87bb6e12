"""Custom volumes: what arrives with them, what a refresh does, and what is left when one breaks."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.domain.errors import NotFound, PreconditionFailed, ServerRefused
from common.domain.volume import Volume
from tests.contract.sites import Site, begin_volume
from tests.lab.pulls import MIB, done, finished

NAME = "data"
RECEIVING = {"user.herder.state": "receiving"}
DEVICE = {"type": "disk", "pool": "default", "source": NAME, "path": "/mnt"}
PATH = f"/1.0/storage-pools/default/volumes/custom/{NAME}"


def make(site: Site, *, mib: int = 4, config: dict[str, str] | None = None) -> None:
    """A volume with that much in it."""
    site.client.create_volume(Volume(pool="default", name=NAME, config=config or {}, description="all of it"))
    if mib:
        site.fill(NAME, mib=mib)


def snapshot(site: Site, name: str) -> None:
    made = site.client.transport.request("POST", f"{PATH}/snapshots", json={"name": name}).operation
    assert made
    done(site.client, made)


def names(site: Site) -> set[str]:
    return {each.name for each in site.client.volumes()}


@pytest.mark.parametrize("mode", ["pull", "push", "relay"])
@pytest.mark.parametrize(("source", "target"), [("s1", "s2"), ("s1", "d1"), ("d1", "s2")])
def test_it_arrives_with_its_snapshots_and_what_was_asked(
    sites: dict[str, Site], source: str, target: str, mode: str
) -> None:
    """Its record is there when the operation is over; a second one of that name is refused."""
    here, there = sites[source], sites[target]
    make(here, config={"user.a": "1"})
    snapshot(here, "monday")
    here.fill(NAME, mib=5)
    begin_volume(here, there, NAME, mode=mode, config={"user.a": "1", **RECEIVING}).succeed()
    copy = there.client.volume("default", NAME)
    assert (copy.own_config, copy.marks) == ({"user.a": "1"}, {"state": "receiving"})
    assert (copy.description, copy.content_type, copy.used_by) == ("all of it", "filesystem", ())
    assert there.client.volume_snapshots(copy) == {"monday"}
    assert names(there) == {NAME}
    assert there.content_of_volume(NAME) == here.content_of_volume(NAME)
    with pytest.raises(ServerRefused, match="already exists"):
        begin_volume(here, there, NAME, mode=mode)


@pytest.mark.parametrize("target", ["s2", "d1"])
def test_an_empty_one_is_filled_by_a_refresh_also_while_it_is_attached(sites: dict[str, Site], target: str) -> None:
    """With the snapshots that it lacks; its config stays. So is one that holds older data."""
    here, there = sites["s1"], sites[target]
    make(here)
    snapshot(here, "monday")
    make(there, mib=0, config=RECEIVING)
    there.launch("c1", devices={NAME: DEVICE})
    done(there.client, there.client.force_stop("c1"))
    begin_volume(here, there, NAME, refresh=True, config={"user.other": "1"}).succeed()
    copy = there.client.volume("default", NAME)
    assert (copy.own_config, copy.marks) == ({}, {"state": "receiving"})
    assert there.client.volume_snapshots(copy) == {"monday"}
    assert there.content_of_volume(NAME) == here.content_of_volume(NAME)
    here.fill(NAME, mib=6)
    begin_volume(here, there, NAME, refresh=True).succeed()
    assert there.content_of_volume(NAME) == here.content_of_volume(NAME)


def test_who_attaches_it_is_told_and_keeps_it_from_being_deleted(s1: Site) -> None:
    make(s1)
    s1.launch("c1", devices={NAME: DEVICE})
    seen = s1.client.volume("default", NAME)
    assert seen.used_by == ("/1.0/instances/c1",)
    assert [each.used_by for each in s1.client.volumes()] == [seen.used_by]
    with pytest.raises(ServerRefused, match="still in use"):
        s1.client.delete_volume(seen)
    done(s1.client, s1.client.force_stop("c1"))
    done(s1.client, s1.client.delete("c1"))
    s1.client.delete_volume(seen)
    assert names(s1) == set()


def test_its_config_is_changed_only_if_it_is_as_it_was(s1: Site) -> None:
    """A key without a value is deleted; the description stays."""
    make(s1, config={"user.a": "1"})
    seen = s1.client.volume("default", NAME)
    s1.client.patch_volume(seen, {"user.b": "2"})
    with pytest.raises(PreconditionFailed):
        s1.client.patch_volume(seen, {"user.b": "3"})
    s1.client.patch_volume(s1.client.volume("default", NAME), {"user.a": ""})
    changed = s1.client.volume("default", NAME)
    assert (changed.config, changed.description) == ({"user.b": "2"}, "all of it")


def test_a_transfer_names_its_volume_and_cannot_be_cancelled(s1: Site, s2: Site) -> None:
    """On either side. Who attaches it is not frozen."""
    make(s1, mib=16)
    s1.launch("c1", devices={NAME: DEVICE})
    with s1.wire(hold_after=4 * MIB) as wire:
        moving = begin_volume(s1, s2, NAME, wire=wire)
        wire.wait_held()
        assert s1.client.instance("c1").is_running
        source, target = s1.client.operation(moving.offered), s2.client.operation(moving.received)
        for site, operation in ((s1, source), (s2, target)):
            assert operation
            assert not operation.may_cancel
            with pytest.raises(ServerRefused, match="can't be cancelled"):
                site.client.cancel(operation.id)
        assert target
        assert any(
            path.endswith(f"/default/volumes/custom/{NAME}") for paths in target.resources.values() for path in paths
        )
        wire.release()
        moving.succeed()


@pytest.mark.parametrize("target", ["s2", "d1"])
def test_a_cut_transfer_leaves_nothing_of_a_new_one(sites: dict[str, Site], target: str) -> None:
    here, there = sites["s1"], sites[target]
    make(here, mib=16)
    with here.wire(hold_after=4 * MIB) as wire:
        moving = begin_volume(here, there, NAME, wire=wire)
        wire.wait_held()
        wire.cut()
        source, received = moving.ended()
    assert (source.succeeded, received.succeeded) == (False, False)
    there.wait_until(lambda: names(there) == set())
    begin_volume(here, there, NAME).succeed()


@pytest.mark.parametrize("target", ["s2", "d1"])
def test_a_target_that_is_killed_leaves_one_that_another_try_or_a_deletion_mends(
    sites: dict[str, Site], target: str
) -> None:
    """On btrfs the record alone, which cannot be refreshed; on dir what has arrived."""
    here, there = sites["s1"], sites[target]
    make(here, mib=16)
    with here.wire(hold_after=4 * MIB) as wire:
        moving = begin_volume(here, there, NAME, wire=wire, config=RECEIVING)
        wire.wait_held()
        there.kill()
        wire.cut()
    assert not finished(here.client, moving.offered).succeeded
    there.start()
    assert there.client.volume("default", NAME).marks == {"state": "receiving"}
    if there.driver == "btrfs":
        again = begin_volume(here, there, NAME, refresh=True)
        assert "Volume exists in database but not on storage" in finished(there.client, again.received).error
        there.client.delete_volume(there.client.volume("default", NAME))
        begin_volume(here, there, NAME).succeed()
    else:
        begin_volume(here, there, NAME, refresh=True).succeed()
    assert there.content_of_volume(NAME) == here.content_of_volume(NAME)


@pytest.mark.parametrize("target", ["s2", "d1"])
def test_a_broken_refresh_is_mended_by_another(sites: dict[str, Site], target: str) -> None:
    """By that of a killed source too."""
    here, there = sites["s1"], sites[target]
    make(here, mib=4)
    begin_volume(here, there, NAME, config=RECEIVING).succeed()
    here.fill(NAME, mib=16)
    with here.wire(hold_after=4 * MIB) as wire:
        moving = begin_volume(here, there, NAME, wire=wire, refresh=True)
        wire.wait_held()
        here.kill()
        wire.cut()
        assert not finished(there.client, moving.received).succeeded
    here.start()
    assert there.client.volume("default", NAME).marks == {"state": "receiving"}
    begin_volume(here, there, NAME, refresh=True).succeed()
    assert there.content_of_volume(NAME) == here.content_of_volume(NAME)


@pytest.mark.parametrize("server", ["s1", "d1"])
def test_it_is_renamed_with_its_snapshots_and_config(sites: dict[str, Site], server: str) -> None:
    """To no name that is taken; and once renamed nothing has the old one."""
    site = sites[server]
    make(site, config={"user.a": "1"})
    snapshot(site, "monday")
    before, content = site.client.volume("default", NAME), site.content_of_volume(NAME)
    site.client.create_volume(Volume(pool="default", name="other"))
    with pytest.raises(ServerRefused, match="already exists"):
        site.client.rename_volume(before, "other")
    site.client.rename_volume(before, "data2")
    after = site.client.volume("default", "data2")
    assert names(site) == {"data2", "other"}
    assert (after.config, after.description) == (before.config, before.description)
    assert site.client.volume_snapshots(after) == {"monday"}
    assert site.content_of_volume("data2") == content
    with pytest.raises(NotFound):
        site.client.rename_volume(before, "data3")


def test_one_that_a_running_instance_attaches_is_not_renamed_and_a_stopped_one_follows_it(s1: Site) -> None:
    make(s1)
    s1.launch("c1", devices={NAME: DEVICE})
    seen = s1.client.volume("default", NAME)
    with pytest.raises(ServerRefused, match="in use by running instances"):
        s1.client.rename_volume(seen, "data2")
    done(s1.client, s1.client.force_stop("c1"))
    s1.client.rename_volume(seen, "data2")
    assert s1.client.instance("c1").devices[NAME]["source"] == "data2"
    assert s1.client.volume("default", "data2").used_by == ("/1.0/instances/c1",)


@pytest.mark.parametrize("target", ["s2", "d1"])
def test_it_arrives_under_another_name(sites: dict[str, Site], target: str) -> None:
    here, there = sites["s1"], sites[target]
    make(here)
    snapshot(here, "monday")
    begin_volume(here, there, NAME, name="data2").succeed()
    copy = there.client.volume("default", "data2")
    assert there.client.volume_snapshots(copy) == {"monday"}
    assert there.content_of_volume("data2") == here.content_of_volume(NAME)


@pytest.mark.parametrize("server", ["s1", "d1"])
def test_a_clone_of_a_snapshot_has_what_the_volume_had_then_and_only_the_config_that_is_asked_for(
    sites: dict[str, Site], server: str
) -> None:
    """And no snapshots; also while somebody writes into the volume, and after the snapshot is gone."""
    site = sites[server]
    make(site, config={"user.a": "1"})
    site.launch("c1", devices={NAME: DEVICE})
    volume, content = site.client.volume("default", NAME), site.content_of_volume(NAME)
    making = site.client.snapshot_volume(volume, "monday")
    assert _volumes_of(site, making) == {NAME}
    done(site.client, making)
    with pytest.raises(ServerRefused, match="already in use"):
        site.client.snapshot_volume(volume, "monday")
    site.fill(NAME, mib=5)
    was = site.client.snapshotted_volume(volume, "monday")
    assert (was.name, was.own_config, was.content_type, was.used_by) == (NAME, {"user.a": "1"}, "filesystem", ())
    clone = Volume(pool="default", name="data2", config={"user.b": "2"}, description="a clone")
    done(site.client, site.client.clone_volume(clone, of=volume, snapshot="monday"))
    dropping = site.client.drop_volume_snapshot(volume, "monday")
    assert _volumes_of(site, dropping) == {NAME}
    done(site.client, dropping)
    made = site.client.volume("default", "data2")
    assert (made.config, made.description, made.used_by) == ({"user.b": "2"}, "a clone", ())
    assert site.client.volume_snapshots(made) == site.client.volume_snapshots(volume) == set()
    assert site.content_of_volume("data2") == content != site.content_of_volume(NAME)
    with pytest.raises(ServerRefused, match="already exists"):
        site.client.clone_volume(clone, of=volume)


@pytest.mark.parametrize("server", ["s1", "d1"])
def test_of_two_snapshots_of_one_name_at_the_same_instant_one_is_made(sites: dict[str, Site], server: str) -> None:
    """The other one is refused, or accepted and fails; that takes nothing away from the one that is there."""
    site = sites[server]
    make(site)
    volume = site.client.volume("default", NAME)
    with ThreadPoolExecutor() as both:
        asked = [both.submit(_snapshot_if_it_may, site, volume) for _ in range(2)]
        outcomes = sorted(each.result() for each in asked)
    assert outcomes[0] == ""
    assert re.search(r"already exists|already in use|UNIQUE constraint", outcomes[1])
    assert site.client.volume_snapshots(volume) == {"monday"}
    site.client.snapshotted_volume(volume, "monday")


def _snapshot_if_it_may(site: Site, volume: Volume) -> str:
    """Why it could not, or nothing."""
    try:
        return finished(site.client, site.client.snapshot_volume(volume, "monday")).error
    except ServerRefused as refused:
        return refused.message


def _volumes_of(site: Site, operation: str) -> set[str]:
    """What an operation about a snapshot of a volume names, which is not the pool."""
    found = site.client.operation(operation)
    assert found
    assert "snapshot" in found.description
    return {path.rpartition("/")[2] for paths in found.resources.values() for path in paths}


def test_what_is_not_there_is_neither_cloned_nor_dropped(s1: Site) -> None:
    make(s1)
    volume = s1.client.volume("default", NAME)
    with pytest.raises(NotFound):
        s1.client.drop_volume_snapshot(volume, "monday")
    with pytest.raises(NotFound):
        s1.client.snapshotted_volume(volume, "monday")
    clone = Volume(pool="default", name="data2")
    ended = finished(s1.client, s1.client.clone_volume(clone, of=volume, snapshot="monday"))
    assert "not found" in ended.error
    assert names(s1) == {NAME}
