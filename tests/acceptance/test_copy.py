"""An owner wants another instance like one that exists, on another server, with the words of ``lxc copy``."""

import pytest

from tests.acceptance import world
from tests.acceptance.story import DONE, INPUT, NOT_ALL, Herder
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer

pytestmark = pytest.mark.lab

COPY_OF = "user.herder-copy-of"


def as_its_owner_left_it(record: world.Record) -> world.Record:
    """What a copy must not change on its source."""
    return {key: record[key] for key in ("status", "config", "devices", "profiles", "last_used_at", "description")}


def without_addresses(record: world.Record) -> dict[str, str]:
    """The config that a copy shares with its source."""
    config = world.owners_config(record)
    return {key: value for key, value in config.items() if not key.endswith(".hwaddr") and key != COPY_OF}


def test_a_copy_is_another_instance_and_its_source_does_not_notice(
    lab: Lab, s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    """Its files, snapshots, config and autostart are those of the source; its uuid and addresses are its own.

    It keeps what `lxc copy` keeps, is stopped, can be started while the source runs, and nothing of herder's guard or
    marks is left. Who asks to cancel or to undo it then is told what to do instead.
    """
    config = {"boot.autostart": "true", "user.owner": "ann"}
    world.make(s1, Wish(name="web", config=config, description="the shop's front", files={"/srv/file": "data"}))
    world.take_snapshot(s1, "web", "monday")
    was, taken = world.get(s1, "web"), world.snapshots(s1, "web")

    (job,) = herder.run("copy", "s1:web", "s2:", "--yes", "--json").ended(DONE).json["jobs"]

    assert (job["state"], job["method"], job["downtime_s"]) == ("done", "copy", None)
    assert as_its_owner_left_it(world.get(s1, "web")) == as_its_owner_left_it(was)
    assert world.snapshots(s1, "web") == taken
    assert world.traces(s1) == world.traces(s2) == []
    copy = world.get(s2, "web")
    assert copy["status"] == "Stopped"
    assert without_addresses(copy) == without_addresses(was)
    assert copy["description"] == was["description"]
    assert copy["config"][COPY_OF] == was["config"]["volatile.uuid"]
    assert world.snapshots(s2, "web") == taken
    assert (world.rootfs(s2, "web") / "srv/file").read_text() == "data"

    lab.lxc("copy", "s1:web", "s2:by-lxc", "--stateless")
    by_lxc = world.get(s2, "by-lxc")
    assert without_addresses(copy) == without_addresses(by_lxc)
    assert (copy["devices"], copy["profiles"]) == (by_lxc["devices"], by_lxc["profiles"])

    for record in (copy, by_lxc):
        world.start(s2, record["name"])
    told = [world.get(s1, "web"), world.get(s2, "web"), world.get(s2, "by-lxc")]
    for key in ("volatile.uuid", "volatile.eth0.hwaddr"):
        assert len({record["config"][key] for record in told}) == len(told), key
    assert world.status(s1, "web") == "Running"

    herder.run("cancel", job["job"]).ended(NOT_ALL)
    told_by_undo = herder.run("undo", job["job"], "--yes", "--json").ended(NOT_ALL).json["answers"][0]["refused"]
    assert "`lxc delete s2:web`" in told_by_undo
    assert world.status(s2, "web") == "Running"


def test_a_copy_takes_the_words_of_lxc_copy(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """Another name, project, pool, profile, config and device, ephemeral, without snapshots; the rest as it was."""
    s2.query("POST", "/1.0/projects", {"name": "there", "config": world.OWN_NOTHING})
    s2.query("POST", "/1.0/profiles", {"name": "small", "config": {"limits.processes": "100"}, "devices": {}})
    s2.query("POST", "/1.0/storage-pools", {"name": "other", "driver": "dir"})
    world.make(s1, Wish(name="old", config={"user.keep": "1", "user.change": "1"}, files={"/srv/file": "data"}))
    world.take_snapshot(s1, "old", "monday")
    was = world.get(s1, "old")

    herder.run(
        *("copy", "s1:old", "s2:new", "--yes", "--config", "user.change=2", "--config", "limits.memory=64MiB"),
        *("--device", "eth0,hwaddr=00:16:3e:aa:bb:02", "--profile", "default", "--profile", "small", "--instance-only"),
        *("--storage", "other", "--target-project", "there", "--stateless", "--mode", "pull", "--ephemeral"),
    ).ended(DONE)

    now = world.get(s2, "new", project="there")
    assert (now["status"], now["ephemeral"], now["profiles"]) == ("Stopped", True, ["default", "small"])
    assert now["expanded_devices"]["root"]["pool"] == "other"
    assert now["expanded_devices"]["eth0"] == was["expanded_devices"]["eth0"] | {"hwaddr": "00:16:3e:aa:bb:02"}
    changed = {"user.change": "2", "limits.memory": "64MiB", "user.keep": "1"}
    assert {key: now["config"].get(key) for key in changed} == changed
    assert world.snapshots(s2, "new", project="there") == {}
    assert (world.rootfs(s2, "new", project="there", pool="other") / "srv/file").read_text() == "data"
    assert as_its_owner_left_it(world.get(s1, "old")) == as_its_owner_left_it(was)
    assert set(world.snapshots(s1, "old")) == {"monday"}
    assert world.traces(s1) == world.traces(s2) == []


def test_a_copy_without_profiles_has_its_root_disk_all_the_same(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """The source is stopped and stays so."""
    world.make(s1, Wish(name="bare", is_started=False))
    herder.run("copy", "s1:bare", "s2:", "--yes", "--no-profiles").ended(DONE)
    now = world.get(s2, "bare")
    assert (now["profiles"], now["devices"]) == ([], {"root": {"type": "disk", "path": "/", "pool": "default"}})
    assert (now["status"], world.status(s1, "bare")) == ("Stopped", "Stopped")


@pytest.mark.parametrize("options", [(), ("--allow-inconsistent",)], ids=["freezes", "allows-inconsistent"])
def test_a_copy_from_a_dir_pool_says_that_it_freezes(
    d1: LabServer, s2: LabServer, herder: Herder, options: tuple[str, ...]
) -> None:
    """Unless it may go on while its files are read; afterwards it runs in any case."""
    world.make(d1, Wish(name="still"))
    told = herder.run("copy", "d1:still", "s2:", "--yes", *options).ended(DONE).out
    assert ("LXD freezes it" in told) is (not options)
    assert world.status(d1, "still") == "Running"
    assert world.status(s2, "still") == "Stopped"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("s1:web", "s1:other"), (INPUT, "s1 is the source and a target at once")),
        (("s1:web", "s2:"), (NOT_ALL, "s2 has an instance web already")),
        (("s1:absent", "s2:"), (INPUT, "no instance absent on s1")),
        (("s1:", "s2:"), (INPUT, "names no instance")),
        (("s1:web", "other"), (INPUT, "names no server")),
    ],
)
def test_a_copy_that_cannot_be_is_refused_before_anything_is_touched(
    s1: LabServer, s2: LabServer, herder: Herder, arguments: tuple[str, ...], told: tuple[int, str]
) -> None:
    """One error that says why."""
    for server in (s1, s2):
        world.make(server, Wish(name="web", is_started=False))
    as_it_is = world.picture(s1), world.picture(s2)
    code, reason = told
    assert reason in " ".join(herder.run("copy", *arguments, "--yes").ended(code).error.split())
    assert (world.picture(s1), world.picture(s2)) == as_it_is
