"""Instances, their states, snapshots and operations, one server at a time."""

import pytest

from common.domain.errors import NotFound, NotTrusted, PreconditionFailed, ServerBusy, ServerRefused
from common.lxd.events import Event, events
from common.lxd.migration import clone_body, generation_body
from tests.contract.sites import Site
from tests.lab.pulls import done, finished

NAME = "c1"
NOBODY = "00000000-0000-4000-8000-000000000000"


def test_a_server_tells_who_it_is_and_what_it_has(s1: Site) -> None:
    info = s1.client.info()
    assert (info.product, info.version, info.trusted, info.clustered) == ("lxd", "5.0.2", True, False)
    assert info.certificate.strip() == s1.certificate.strip()
    assert {"container_incremental_copy", "instances", "projects"} <= info.extensions
    assert s1.client.addresses() == (s1.address,)
    assert s1.client.projects() == ("default",)
    (pool,) = s1.client.pools()
    assert (pool.name, pool.driver) == ("default", "btrfs")
    assert 0 < pool.free < pool.total
    (profile,) = s1.client.profiles()
    assert profile.devices["root"]["pool"] == "default"
    assert profile.devices["eth0"]["parent"] in s1.client.networks()


def test_a_stranger_sees_that_it_is_one_and_nothing_else(s1: Site) -> None:
    stranger = s1.stranger()
    assert not stranger.info().trusted
    with pytest.raises(NotTrusted, match="not authorized"):
        stranger.instances()
    with pytest.raises(NotTrusted):
        events(stranger.transport)


def test_what_is_not_there_is_not_found(s1: Site) -> None:
    with pytest.raises(NotFound, match="Instance not found"):
        s1.client.instance("nope")
    with pytest.raises(NotFound, match="Profile not found"):
        s1.client.profile("nope")
    assert s1.client.instances(project="nope") == ()
    assert s1.client.operation(NOBODY) is None
    assert s1.client.wait(NOBODY, timeout_seconds=1) is None
    s1.client.cancel(NOBODY)


def test_an_instance_is_changed_step_by_step(s1: Site) -> None:
    s1.launch(NAME, config={"user.a": "1"})
    running = s1.client.instance(NAME)
    assert (running.is_running, running.location, running.config["user.a"]) == (True, "", "1")
    assert (running.root_pool, set(running.addresses)) == ("default", {"eth0"})
    assert running.config["volatile.last_state.power"] == "RUNNING"
    done(s1.client, s1.client.freeze(NAME))
    assert s1.client.instance(NAME).status == "Frozen"
    done(s1.client, s1.client.unfreeze(NAME))
    done(s1.client, s1.client.force_stop(NAME))
    stopped = s1.client.instance(NAME)
    assert (stopped.is_stopped, stopped.last_used_at) == (True, running.last_used_at)
    assert stopped.config["volatile.last_state.power"] == "STOPPED"
    done(s1.client, s1.client.rename(NAME, "c2"))
    done(s1.client, s1.client.delete("c2"))
    with pytest.raises(NotFound):
        s1.client.instance("c2")


def test_a_change_needs_the_state_that_was_seen(s1: Site) -> None:
    """A PATCH adds and removes, a PUT replaces; both are refused with the ETag of another state."""
    s1.launch(NAME, config={"user.a": "1"})
    before = s1.client.instance(NAME)
    s1.client.patch(NAME, config={"user.a": "", "user.b": "2"}, devices={"bin": {"type": "none"}}, seen=before)
    patched = s1.client.instance(NAME)
    assert ("user.a" in patched.config, patched.config["user.b"], set(patched.devices)) == (False, "2", {"bin"})
    for stale in (before,):
        with pytest.raises(PreconditionFailed, match="ETag doesn't match"):
            s1.client.patch(NAME, config={"user.c": "3"}, seen=stale)
        with pytest.raises(PreconditionFailed):
            s1.client.replace(stale, config={}, devices={})
    done(s1.client, s1.client.replace(patched, config={**patched.config, "user.c": "3"}, devices={}))
    replaced = s1.client.instance(NAME)
    assert (replaced.config["user.b"], replaced.config["user.c"], replaced.devices) == ("2", "3", {})


def test_a_patch_empties_a_description_that_it_leaves_out(s1: Site) -> None:
    s1.launch(NAME)
    s1.client.transport.request("PATCH", f"/1.0/instances/{NAME}", json={"description": "web"})
    s1.client.patch(NAME, config={"user.a": "1"})
    assert s1.client.instance(NAME).description == "web"
    s1.client.transport.request("PATCH", f"/1.0/instances/{NAME}", json={"config": {"user.a": "2"}})
    assert s1.client.instance(NAME).description == ""


def test_what_makes_no_sense_fails_in_its_own_words(s1: Site) -> None:
    s1.launch(NAME)
    assert finished(s1.client, s1.client.start(NAME)).error == "The instance is already running"
    with pytest.raises(ServerRefused, match="Instance is running"):
        s1.client.delete(NAME)
    assert not finished(s1.client, s1.client.rename(NAME, "c2")).succeeded
    with pytest.raises(ServerRefused, match="Unknown configuration key"):
        s1.client.patch(NAME, config={"nope": "1"})
    done(s1.client, s1.client.force_stop(NAME))
    assert finished(s1.client, s1.client.force_stop(NAME)).error == "The instance is already stopped"
    s1.client.patch(NAME, config={"security.protection.delete": "true"})
    assert finished(s1.client, s1.client.delete(NAME)).error == "Container is protected"


def test_a_guest_that_does_not_obey_runs_on(s1: Site) -> None:
    s1.launch(NAME, image="stubborn")
    stopping = s1.client.stop(NAME, grace_seconds=1)
    with pytest.raises(ServerRefused, match="can't be cancelled"):
        s1.client.cancel(stopping)
    assert "Failed shutting down instance" in finished(s1.client, stopping).error
    assert s1.client.instance(NAME).is_running


def test_lxd_cleans_up_after_a_stop_and_is_busy_meanwhile(s1: Site) -> None:
    """It is Stopped about half a second before the operation ends; until then nothing else may be done to it."""
    s1.launch(NAME)
    stopping = s1.client.force_stop(NAME)
    s1.wait_until(lambda: s1.client.instance(NAME).is_stopped)
    still = s1.client.operation(stopping)
    assert still
    assert not still.is_finished
    with pytest.raises(ServerBusy, match='Instance is busy running a "stop" operation'):
        s1.client.patch(NAME, config={"user.a": "1"})
    assert 'busy running a "stop" operation' in finished(s1.client, s1.client.start(NAME)).error
    assert s1.client.instance(NAME).config["volatile.last_state.power"] == "RUNNING"
    done(s1.client, stopping)
    assert s1.client.instance(NAME).config["volatile.last_state.power"] == "STOPPED"


def test_a_daemon_killed_while_it_cleans_up_starts_the_instance_again(s1: Site) -> None:
    """That it was stopped on purpose is written down last."""
    s1.launch(NAME)
    for _ in range(5):
        s1.client.force_stop(NAME)
        s1.wait_until(lambda: s1.client.instance(NAME).is_stopped)
        s1.kill()
        s1.start()
        if s1.client.instance(NAME).config["volatile.last_state.power"] == "RUNNING":
            break
        done(s1.client, s1.client.start(NAME))  # the kill came when it was cleaned up already
    s1.wait_until(lambda: s1.client.instance(NAME).is_running)


def test_snapshots_come_and_go(s1: Site) -> None:
    s1.launch(NAME)
    done(s1.client, s1.client.create_snapshot(NAME, "b"))
    done(s1.client, s1.client.create_snapshot(NAME, "a"))
    assert [each.name for each in s1.client.snapshots(NAME)] == ["b", "a"]
    again = finished(s1.client, s1.client.create_snapshot(NAME, "a"))
    assert 'This "instances_snapshots" entry already exists' in again.error
    deleting = s1.client.delete_snapshot(NAME, "b")
    seen = finished(s1.client, deleting)
    assert (seen.error, seen.resources["instances"]) == ("", (f"/1.0/instances/{NAME}/b",))
    assert [each.name for each in s1.client.snapshots(NAME)] == ["a"]
    with pytest.raises(NotFound):
        s1.client.delete_snapshot(NAME, "b")


def test_a_command_tells_its_exit_code(s1: Site) -> None:
    s1.launch(NAME)
    command = s1.client.execute(NAME, ["sh", "-c", 'exit "$CODE"'], environment={"CODE": "7"})
    assert finished(s1.client, command).metadata["return"] == 7
    assert finished(s1.client, s1.client.execute(NAME, ["nope-nope"])).metadata["return"] == 127


def test_an_operation_is_found_until_5_s_after_its_end(s1: Site) -> None:
    """An offer that nobody takes ends after 10 s; until then it can be waited for, listed and cancelled."""
    s1.launch(NAME)
    offers = [s1.client.offer(NAME) for _ in range(2)]
    assert offers[0].secrets.keys() == {"control", "fs"}
    seen = s1.client.wait(offers[0].operation, timeout_seconds=0)
    assert seen
    assert (seen.is_finished, seen.may_cancel, seen.description) == (False, True, "Migrating instance")
    assert seen.resources["instances"] == (f"/1.0/instances/{NAME}",)
    assert {each.operation for each in offers} <= {each.id for each in s1.client.operations()}
    s1.client.cancel(offers[1].operation)
    assert not finished(s1.client, offers[1].operation).succeeded
    assert "Timed out waiting for migration connections" in finished(s1.client, offers[0].operation).error
    s1.wait_until(lambda: s1.client.operation(offers[0].operation) is None, seconds=8)


def test_a_restart_forgets_all_operations_and_shows_in_the_pid(s1: Site) -> None:
    s1.launch(NAME)
    before, offer = s1.client.info().pid, s1.client.offer(NAME)
    assert s1.client.info().pid == before
    s1.kill()
    s1.start()
    assert s1.client.info().pid != before
    assert s1.client.operation(offer.operation) is None
    assert s1.client.instance(NAME).is_running


def test_what_was_stopped_comes_back_with_its_daemon_unless_autostart_is_off(s1: Site) -> None:
    for name in ("on", "off"):
        s1.launch(name, config={"boot.autostart": "true"})
        done(s1.client, s1.client.force_stop(name))
    s1.client.patch("off", config={"boot.autostart": "false"})
    s1.kill()
    s1.start()
    s1.wait_until(lambda: s1.client.instance("on").is_running)
    assert s1.client.instance("off").is_stopped


def test_events_tell_of_operations_and_of_what_they_did(s1: Site) -> None:
    stream = events(s1.client.transport)
    s1.launch(NAME)
    seen: list[Event] = []
    while not (seen and seen[-1].metadata.get("action") == "instance-started"):
        seen.append(next(stream))
    actions = [event.metadata["action"] for event in seen if event.kind == "lifecycle"]
    assert actions == ["instance-created", "instance-started"]
    ended = {event.operation.description for event in seen if event.operation and event.operation.succeeded}
    assert "Creating instance" in ended


def test_a_stopped_instance_is_cloned_on_its_server_and_the_clone_can_take_its_place(s1: Site) -> None:
    """With its files, its snapshots of the same moment, and what is said of its config, volatile keys too."""
    s1.launch(NAME, config={"user.a": "1", "user.b": "1"})
    s1.write(NAME)
    done(s1.client, s1.client.force_stop(NAME))
    done(s1.client, s1.client.create_snapshot(NAME, "monday"))
    original = s1.client.instance(NAME)
    told = {"user.b": "2", "volatile.uuid": NOBODY}
    ended = finished(s1.client, s1.client.receive(clone_body(original, name="kept", config=told)))
    assert (ended.description, ended.succeeded) == ("Creating instance", True)
    assert "kept" in ended.instances
    clone = s1.client.instance("kept")
    assert {key: clone.config[key] for key in ("user.a", "user.b", "volatile.uuid")} == {"user.a": "1", **told}
    assert (clone.status, clone.root_pool, clone.addresses != original.addresses) == ("Stopped", "default", True)
    assert s1.content("kept") == s1.content(NAME)
    assert s1.client.snapshots("kept") == s1.client.snapshots(NAME)
    again = finished(s1.client, s1.client.receive(clone_body(original, name="kept", config={})))
    assert 'This "instances" entry already exists' in again.error
    assert s1.client.instance("kept").config["volatile.uuid"] == NOBODY
    done(s1.client, s1.client.delete(NAME))
    done(s1.client, s1.client.rename("kept", NAME))
    assert s1.client.instance(NAME).config["volatile.uuid"] == NOBODY
    assert [each.name for each in s1.client.snapshots(NAME)] == ["monday"]
    done(s1.client, s1.client.start(NAME))


def test_an_instance_is_made_of_a_snapshot_on_its_server_with_whatever_is_not_masked(s1: Site) -> None:
    """It has the snapshot's files, config and devices; a mask keeps a device away, and no snapshot comes along."""
    s1.launch(NAME, config={"user.a": "1", "user.b": "1"})
    s1.write(NAME)
    wanted = s1.content(NAME)
    done(s1.client, s1.client.create_snapshot(NAME, "monday"))
    s1.write(NAME)
    was = s1.client.snapshotted(NAME, "monday")
    assert (was.config["user.a"], was.config["volatile.uuid"]) == (
        "1",
        s1.client.instance(NAME).config["volatile.uuid"],
    )
    root = {"type": "disk", "path": "/", "pool": "default"}
    body = generation_body(
        "made",
        of=s1.client.instance(NAME),
        snapshot="monday",
        config={"user.b": "2"},
        devices={"root": root, "eth0": {"type": "none"}},
    )
    done(s1.client, s1.client.receive(body))
    made = s1.client.instance("made")
    assert (made.status, made.profiles, made.addresses) == ("Stopped", (), {})
    assert (made.config["user.a"], made.config["user.b"], made.config["volatile.apply_template"]) == ("1", "2", "copy")
    assert made.own_devices == {"root": root, "eth0": {"type": "none"}}
    assert (s1.client.snapshots("made"), s1.client.has_files("made")) == ((), True)
    assert s1.content("made") == wanted != s1.content(NAME)
