"""An owner keeps copies of instances up to date, with the words of ``lxc copy --refresh``."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance import world
from tests.acceptance.choke import Choke
from tests.acceptance.story import DONE, NOT_ALL, Herder, Running
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, host

pytestmark = pytest.mark.lab

COPY_OF = "user.herder-copy-of"
REFRESHED_BY, PUT_BACK = "user.herder-refreshed-by", "user.herder-put-back"
OPTIONS = ("--refresh", "--yes", "--json")
PAIRS = [
    pytest.param("s1", "s2", id="btrfs to btrfs"),
    pytest.param("s1", "d1", id="btrfs to dir"),
    pytest.param("d1", "s1", id="dir to btrfs"),
]


@pytest.fixture
def ends(request: pytest.FixtureRequest, source: str, target: str) -> tuple[LabServer, LabServer]:
    """A source with the running container ``web``, and a target."""
    server, other = request.getfixturevalue(source), request.getfixturevalue(target)
    world.make(server, Wish(name="web", config={"user.owner": "ann"}, files={"/srv/file": "first"}))
    world.take_snapshot(server, "web", "monday")
    return server, other


def own_config(server: LabServer) -> dict[str, str]:
    """The copy's config without what tells which job was there last."""
    config = world.get(server, "web")["config"]
    return {key: value for key, value in config.items() if key != REFRESHED_BY}


@pytest.mark.parametrize("mode", ["pull", "push", "relay"])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_copy_follows_its_source_refresh_after_refresh(
    ends: tuple[LabServer, LabServer], herder: Herder, source: str, target: str, mode: str
) -> None:
    """Files and snapshots, added and removed, are those of the source; its own config, uuid and addresses stay.

    The first one finds no copy, and makes it. The source runs on.
    """
    old, new = ends
    command = ("copy", f"{source}:web", f"{target}:", "--mode", mode, *OPTIONS)
    (job,) = herder.run(*command).ended(DONE).json["jobs"]
    assert job["method"] == "copy"
    new.lxc("config", "set", "web", "user.mine=1", "boot.autostart=true")
    was = own_config(new)

    for number, change in enumerate((_adds, _removes, _nothing)):
        change(old)
        world.write(old, "web", "/srv/file", f"text {number}")
        (job,) = herder.run(*command).ended(DONE).json["jobs"]
        assert (job["state"], job["method"], job["way"].partition(":")[0]) == ("done", "refresh", mode)
        assert world.tree(world.rootfs(new, "web")) == world.tree(world.rootfs(old, "web"))
        assert world.snapshots(new, "web") == world.snapshots(old, "web")
        for name in world.snapshots(old, "web"):
            there = world.tree(world.rootfs(new, "web", snapshot=name))
            assert there == world.tree(world.rootfs(old, "web", snapshot=name))
        assert own_config(new) == was
        assert world.traces(old) == world.traces(new) == []
        assert [each["name"] for each in world.listing(new)] == ["web"]
    assert (world.status(old, "web"), world.status(new, "web")) == ("Running", "Stopped")
    world.start(new, "web")


def _adds(source: LabServer) -> None:
    world.take_snapshot(source, "web", "tuesday")


def _removes(source: LabServer) -> None:
    source.query("DELETE", "/1.0/instances/web/snapshots/monday")


def _nothing(source: LabServer) -> None:
    """The snapshots stay as they are."""


def test_a_refresh_in_bulk_makes_what_is_not_there_and_leaves_snapshots_out_if_asked(
    s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    """As `lxc copy --refresh --instance-only` does, which deletes the copy's snapshots."""
    for name in ("one", "two"):
        world.make(s1, Wish(name=name, files={"/srv/file": "first"}, is_started=False))
        world.take_snapshot(s1, name, "monday")
    herder.run("copy", "s1:one", "s2:", "--yes").ended(DONE)
    assert set(world.snapshots(s2, "one")) == {"monday"}
    world.write(s1, "one", "/srv/file", "second")
    jobs = herder.run("copy", "--all", "s1:", "s2:", "--instance-only", *OPTIONS).ended(DONE).json["jobs"]
    assert {job["instance"]: job["method"] for job in jobs} == {"one": "refresh", "two": "copy"}
    for name in ("one", "two"):
        assert world.tree(world.rootfs(s2, name)) == world.tree(world.rootfs(s1, name))
        assert world.snapshots(s2, name) == {}
    assert world.traces(s1) == world.traces(s2) == []


def test_what_is_no_stopped_copy_of_the_source_is_refused_before_anything_is_touched(
    lab: Lab, s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    """A copy by lxc does not tell; its owner can, with the command that the refusal names."""
    for name in ("runs", "other", "unknown"):
        world.make(s1, Wish(name=name, is_started=False))
    herder.run("copy", "s1:runs", "s2:", "--yes").ended(DONE)
    world.start(s2, "runs")
    herder.run("copy", "s1:runs", "s2:other", "--yes").ended(DONE)
    lab.lxc("copy", "s1:unknown", "s2:")
    as_it_is = world.picture(s1), world.picture(s2)
    told = herder.run("copy", "--all", "s1:", "s2:", "--refresh", "--yes").ended(NOT_ALL).error
    words = " ".join(told.split())
    assert "s2:runs is Running, and a refresh overwrites its files" in words
    assert "s2:other is the copy of another instance" in words
    identity = world.get(s1, "unknown")["config"]["volatile.uuid"]
    assert f"`lxc config set s2:unknown {COPY_OF}={identity}`" in words
    assert (world.picture(s1), world.picture(s2)) == as_it_is

    lab.lxc("config", "set", "s2:unknown", f"{COPY_OF}={identity}")
    world.write(s1, "unknown", "/root/new", "new")
    herder.run("copy", "s1:unknown", "s2:", *OPTIONS).ended(DONE)
    assert world.tree(world.rootfs(s2, "unknown")) == world.tree(world.rootfs(s1, "unknown"))


@dataclass
class Held:
    """A refresh of the copy of ``s1:web`` whose pass stands still in its middle, and what the copy was before."""

    source: LabServer
    target: LabServer
    herder: Herder
    choke: Choke
    running: Running
    was: dict[str, object]

    def refresh_again(self) -> None:
        command = ("copy", "s1:web", f"{self.target.name}:", *OPTIONS)
        self.herder.run(*command).ended(DONE)
        self.assert_refreshed()

    def assert_refreshed(self) -> None:
        """The copy has what the source has, can start, and nothing else is left but wrecks that were told."""
        old, new = self.source, self.target
        assert world.tree(world.rootfs(new, "web")) == world.tree(world.rootfs(old, "web"))
        assert world.snapshots(new, "web") == world.snapshots(old, "web")
        assert world.traces_on(new, "web") == world.traces(old) == []
        assert {each["name"] for each in world.listing(new)} - world.wrecks(new) == {"web"}
        world.start(new, "web")
        world.stop(new, "web")


@pytest.fixture(params=["s2", "d1"])
def held(request: pytest.FixtureRequest, lab: Lab, s1: LabServer, home: Path) -> Iterator[Held]:
    new: LabServer = request.getfixturevalue(request.param)
    world.make(s1, Wish(name="web", config={"user.owner": "ann"}, files={"/srv/file": "first"}))
    for snapshot in ("monday", "tuesday"):
        world.take_snapshot(s1, "web", snapshot)
    with Choke(s1) as choke:
        herder = Herder.of(lab, home).having(choke.configuration(lab, home / "conf"))
        herder.run("copy", "s1:web", f"{new.name}:", "--yes").ended(DONE)
        new.lxc("config", "set", "web", "user.mine=1", "boot.autostart=true")
        was = picture_of_copy(new)
        world.fill(s1, "web", 16)
        world.take_snapshot(s1, "web", "wednesday")
        s1.query("DELETE", "/1.0/instances/web/snapshots/monday")
        running = herder.start("copy", "s1:web", f"{new.name}:", *OPTIONS)
        choke.wait_held()
        yield Held(s1, new, herder, choke, running, was)


def picture_of_copy(server: LabServer) -> dict[str, object]:
    """All that a refresh that was put back must have left as it was."""
    record = world.get(server, "web")
    config = {key: value for key, value in record["config"].items() if key != PUT_BACK}
    return {
        **{key: record[key] for key in ("status", "devices", "profiles", "description", "ephemeral")},
        "config": {key: config[key] for key in config if not key.startswith(("volatile.last_state", "volatile.idmap"))},
        "files": world.tree(world.rootfs(server, "web")),
        "snapshots": world.snapshots(server, "web"),
    }


@pytest.mark.exhaustive
def test_a_cancelled_refresh_puts_the_copy_back_and_the_next_one_succeeds(held: Held) -> None:
    """In the middle of its pass: files, snapshots, config, addresses and uuid are what they were."""
    cancel = held.herder.start("cancel", held.herder.jobs()[0].plan)
    held.herder.wait_for("the way back", held.running, itinerary="undo")
    held.choke.release()
    cancel.wait().ended(DONE)
    (job,) = held.running.wait().ended(NOT_ALL).json["jobs"]
    assert job["state"] == "cancelled"
    assert picture_of_copy(held.target) == held.was
    assert world.traces(held.source) == world.traces(held.target) == []
    assert [each["name"] for each in world.listing(held.target)] == ["web"]
    held.refresh_again()
    assert PUT_BACK not in world.get(held.target, "web")["config"]
    held.refresh_again()


@pytest.mark.exhaustive
def test_a_refresh_goes_on_when_its_workers_are_killed_in_the_middle(held: Held) -> None:
    """The command starts another one; until then the copy cannot be started."""
    workers = [p for p in host.processes() if "workers" in p.command]
    mine = [p for p in workers if p.environment.get("HOME") == str(held.herder.home)]
    assert mine
    host.end_all(mine)
    world.assert_cannot_start(held.target, "web")
    held.choke.release()
    held.running.wait().ended(DONE)
    held.assert_refreshed()


@pytest.mark.exhaustive
def test_a_refresh_goes_on_when_the_daemon_of_its_target_is_killed_in_the_middle(held: Held) -> None:
    """Whatever it has left of the copy."""
    held.target.kill()
    held.choke.release()
    held.target.start()
    held.running.wait().ended(DONE)
    held.assert_refreshed()
