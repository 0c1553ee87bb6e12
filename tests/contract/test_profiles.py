"""Profiles and the guard device: what keeps an instance from being started, and who is told no."""

import pytest

from common.domain.errors import NotFound, PreconditionFailed, ServerBusy, ServerRefused
from common.domain.instance import GUARD_DEVICE, guard_profile
from common.lxd.client import LxdClient
from tests.contract.sites import Site, begin_pull
from tests.lab.pulls import done, finished

NAME = "c1"
PROFILE = guard_profile("j1")
GUARD = {"type": "unix-char", "source": "/dev/herder-guard", "path": "/dev/herder-guard", "required": "true"}
ROOT = {"type": "disk", "path": "/", "pool": "default"}
NO_PATH = "The required device path doesn't exist"


def put(client: LxdClient, *, guarded: bool) -> None:
    """Write the guard into the profile, or take it out."""
    devices = {GUARD_DEVICE: GUARD} if guarded else {}
    client.replace_profile(client.profile(PROFILE), description="guard", config={"user.a": "1"}, devices=devices)


def attach(site: Site) -> None:
    """Launch an instance that has the default profile and an empty one."""
    site.launch(NAME)
    site.client.create_profile(PROFILE, description="empty")
    site.client.patch(NAME, profiles=("default", PROFILE))


def raw_put(client: LxdClient) -> str:
    """What LXD says when the guard is put into the profile."""
    body = {"description": "", "config": {}, "devices": {GUARD_DEVICE: GUARD}}
    with pytest.raises((ServerRefused, ServerBusy)) as refused:
        client.transport.request("PUT", f"/1.0/profiles/{PROFILE}", json=body)
    return refused.value.message


def test_a_profile_is_made_once_and_deleted_when_nobody_uses_it(s1: Site) -> None:
    attach(s1)
    used_by = s1.client.transport.request("GET", f"/1.0/profiles/{PROFILE}").metadata["used_by"]
    assert used_by == [f"/1.0/instances/{NAME}"]
    with pytest.raises(ServerRefused, match="The profile already exists"):
        s1.client.create_profile(PROFILE)
    with pytest.raises(ServerRefused, match="Profile is currently in use"):
        s1.client.delete_profile(PROFILE)
    s1.client.patch(NAME, profiles=("default",))
    s1.client.delete_profile(PROFILE)
    with pytest.raises(NotFound):
        s1.client.delete_profile(PROFILE)


def test_a_running_instance_refuses_the_guard_of_its_profile_which_is_saved_all_the_same(s1: Site) -> None:
    """It runs on; its expanded devices have the guard; and once it has stopped it does not start any more."""
    attach(s1)
    assert "The following instances failed to update (profile change still saved)" in raw_put(s1.client)
    guarded = s1.client.instance(NAME)
    assert (guarded.is_running, guarded.is_guarded, guarded.devices) == (True, True, {})
    s1.client.patch(NAME, config={"user.b": "1"})
    done(s1.client, s1.client.force_stop(NAME))
    assert NO_PATH in finished(s1.client, s1.client.start(NAME)).error
    put(s1.client, guarded=False)
    done(s1.client, s1.client.start(NAME))


def test_the_guard_of_a_profile_can_be_taken_off_a_running_instance(s1: Site) -> None:
    attach(s1)
    put(s1.client, guarded=True)
    put(s1.client, guarded=False)
    assert not s1.client.instance(NAME).is_guarded
    s1.client.patch(NAME, profiles=("default",))


def test_a_busy_instance_refuses_a_profile_which_is_saved_all_the_same(s1: Site) -> None:
    attach(s1)
    stopping = s1.client.force_stop(NAME)
    s1.wait_until(lambda: s1.client.instance(NAME).is_stopped)
    assert 'busy running a "stop" operation' in raw_put(s1.client)
    assert s1.client.instance(NAME).is_guarded
    done(s1.client, stopping)
    assert NO_PATH in finished(s1.client, s1.client.start(NAME)).error


def test_a_stopped_instance_takes_the_guard_of_its_profile_without_a_word(s1: Site) -> None:
    attach(s1)
    done(s1.client, s1.client.force_stop(NAME))
    put(s1.client, guarded=True)
    assert s1.client.instance(NAME).is_guarded


def test_a_profile_changes_only_from_the_state_that_was_seen(s1: Site) -> None:
    s1.client.create_profile(PROFILE)
    seen = s1.client.profile(PROFILE)
    s1.client.replace_profile(seen, description="a", config={}, devices={})
    with pytest.raises(PreconditionFailed, match="ETag doesn't match"):
        s1.client.replace_profile(seen, description="b", config={}, devices={})
    assert s1.client.profile(PROFILE).description == "a"


def test_a_start_with_the_guard_fails_and_leaves_it_as_it_was(s1: Site) -> None:
    s1.launch(NAME)
    done(s1.client, s1.client.force_stop(NAME))
    s1.client.patch(NAME, devices={GUARD_DEVICE: GUARD})
    before = s1.client.instance(NAME)
    assert NO_PATH in finished(s1.client, s1.client.start(NAME)).error
    after = s1.client.instance(NAME)
    assert (after.is_stopped, after.last_used_at) == (True, before.last_used_at)


def test_a_running_instance_cannot_be_given_the_guard_itself(s1: Site) -> None:
    s1.launch(NAME)
    before = s1.client.instance(NAME)
    with pytest.raises(ServerRefused, match=NO_PATH):
        s1.client.patch(NAME, config={"user.a": "1"}, devices={GUARD_DEVICE: GUARD})
    assert s1.client.instance(NAME) == before


def test_a_copy_is_guarded_from_the_first_moment_until_it_is_freed(s1: Site, s2: Site) -> None:
    """A refresh keeps the guard; a start that fails changes the ETag; a PUT without the guard takes it away."""
    s1.launch(NAME)
    done(s1.client, s1.client.create_snapshot(NAME, "s0"))
    moving = begin_pull(s1, s2, NAME, devices={"root": ROOT, GUARD_DEVICE: GUARD})
    assert s2.client.instance(NAME).is_guarded
    moving.succeed()
    done(s1.client, s1.client.create_snapshot(NAME, "s1"))
    begin_pull(s1, s2, NAME, refresh=True).succeed()
    guarded = s2.client.instance(NAME)
    assert guarded.is_guarded
    assert not finished(s2.client, s2.client.start(NAME)).succeeded
    with pytest.raises(PreconditionFailed):
        s2.client.replace(guarded, config=guarded.config, devices=guarded.own_devices)
    guarded = s2.client.instance(NAME)
    done(s2.client, s2.client.replace(guarded, config=guarded.config, devices=guarded.own_devices))
    done(s2.client, s2.client.start(NAME))


def test_snapshots_come_only_to_a_server_that_knows_their_instances_profiles(s1: Site, s2: Site) -> None:
    """Also if the copy itself is to have others: LXD sends a snapshot with the profiles of its instance."""
    attach(s1)
    with pytest.raises(ServerRefused, match=f'Requested profile "{PROFILE}" doesn\'t exist'):
        begin_pull(s1, s2, NAME)
    begin_pull(s1, s2, NAME, profiles=("default",)).succeed()
    done(s2.client, s2.client.delete(NAME))
    done(s1.client, s1.client.create_snapshot(NAME, "s0"))
    source, target = begin_pull(s1, s2, NAME, profiles=("default",)).ended()
    assert (source.succeeded, target.error) == (False, "Error transferring instance data: Profile not found")
    assert s2.client.instances() == ()
    s2.client.create_profile(PROFILE)
    begin_pull(s1, s2, NAME, profiles=("default",)).succeed()
