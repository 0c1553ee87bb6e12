"""Moves and copies by relay of a real container: to each kind of pool, and with its worker killed in the middle."""

from datetime import datetime
from pathlib import Path

import pytest

from tests.acceptance import world
from tests.acceptance.choke import Choke
from tests.acceptance.story import DONE, NOT_ALL, Herder
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, host

pytestmark = pytest.mark.lab

NAME = "relayed"
OPTIONS = ("--mode", "relay", "--yes", "--json")


def test_a_move_by_relay_brings_all_and_tells_the_way(
    lab: Lab, home: Path, s1: LabServer, s2: LabServer, d1: LabServer
) -> None:
    """To a btrfs pool, and from there to a dir pool."""
    world.make(s1, Wish(name=NAME, config={"boot.autostart": "true"}))
    world.fill(s1, NAME, 16)
    herder = Herder.of(lab, home)
    for source, target in ((s1, s2), (s2, d1)):
        files = world.tree(world.rootfs(source, NAME))
        command = ("move", f"{source.name}:{NAME}", f"{target.name}:", *OPTIONS, "--downtime", "1h", "--retire", "stop")
        (job,) = herder.start(*command).wait().ended(DONE).json["jobs"]
        assert (job["state"], job["way"]) == ("done", f"relay: a worker dials {source.name} and {target.name}")
        assert job["method"] == ("cold" if target is d1 else "warm")
        world.assert_moved(source, target, NAME)
        assert world.tree(world.rootfs(target, NAME)) == files


def test_a_copy_by_relay_is_whole(lab: Lab, home: Path, s1: LabServer, s2: LabServer) -> None:
    world.make(s1, Wish(name=NAME))
    world.fill(s1, NAME, 16)
    command = ("copy", f"s1:{NAME}", f"s2:{NAME}2", *OPTIONS)
    (job,) = Herder.of(lab, home).start(*command).wait().ended(DONE).json["jobs"]
    assert job["state"] == "done"
    assert world.tree(world.rootfs(s2, f"{NAME}2")) == world.tree(world.rootfs(s1, NAME))


def test_a_limit_caps_what_is_sent_and_the_progress_is_told(lab: Lab, home: Path, s1: LabServer, s2: LabServer) -> None:
    """Nobody asked for a relay; no more bytes are recorded than the limit allows for the time that it took."""
    world.make(s1, Wish(name=NAME))
    world.fill(s1, NAME, 32)
    limit = 8 * 1024**2
    herder = Herder.of(lab, home)
    running = herder.start("copy", f"s1:{NAME}", "s2:", "--limit", "8MiB/s", "--yes", "--json")
    plan = herder.wait_for("the pass", running, step="full_pass").plan

    def is_told() -> bool:
        assert not running.is_over, running.wait()
        (under_way,) = herder.run("report", plan, "--json").json["jobs"]
        return bool(under_way["step"] == "full_pass" and under_way["bytes"] and under_way["rate"])

    host.wait_until("bytes and rate", is_told, seconds=60)
    (job,) = running.wait().ended(DONE).json["jobs"]
    assert (job["state"], job["way"]) == ("done", "relay: a worker dials s1 and s2")
    assert job["bytes"] >= 16 * 1024**2  # LXD tells its progress once a second, so that the last bytes are not counted
    began, ended = (datetime.fromisoformat(job[key]) for key in ("started_at", "finished_at"))
    assert (ended - began).total_seconds() >= 0.8 * job["bytes"] / limit
    assert world.tree(world.rootfs(s2, NAME)) == world.tree(world.rootfs(s1, NAME))


def _held_in_a_relay(lab: Lab, home: Path, choke: Choke) -> Herder:
    return Herder.of(lab, home).having(choke.configuration(lab, home / "conf"))


def test_a_relay_whose_worker_is_killed_begins_again(lab: Lab, home: Path, s1: LabServer, s2: LabServer) -> None:
    """The command starts another worker; the broken pass leaves nothing that harms the next one."""
    world.make(s1, Wish(name=NAME, config={"boot.autostart": "true"}))
    world.fill(s1, NAME, 16)
    with Choke(s2, inward=True) as choke, NeverTwice(s1, s2):
        herder = _held_in_a_relay(lab, home, choke)
        files = world.tree(world.rootfs(s1, NAME))
        running = herder.start("move", f"s1:{NAME}", "s2:", *OPTIONS, "--downtime", "1h")
        choke.wait_held()
        herder.wait_for("the wait", running, blocked_on="full pass 0 from s1 to s2 by relay")
        found = [
            p for p in host.processes() if "workers" in p.command and p.environment.get("HOME") == str(herder.home)
        ]
        assert found
        host.end_all(found)
        choke.release()
        (job,) = running.wait().ended(DONE).json["jobs"]
        assert (job["state"], job["way"]) == ("done", "relay: a worker dials s1 and s2")
        world.assert_moved(s1, s2, NAME)
        assert world.tree(world.rootfs(s2, NAME)) == files


def test_a_cancelled_relay_ends_and_leaves_nothing(lab: Lab, home: Path, s1: LabServer, s2: LabServer) -> None:
    world.make(s1, Wish(name=NAME, config={"boot.autostart": "true"}))
    world.fill(s1, NAME, 16)
    with Choke(s2, inward=True) as choke, NeverTwice(s1, s2):
        herder = _held_in_a_relay(lab, home, choke)
        running = herder.start("move", f"s1:{NAME}", "s2:", *OPTIONS, "--downtime", "1h")
        choke.wait_held()
        cancel = herder.start("cancel", herder.jobs()[0].plan)
        herder.wait_for("the way back", running, itinerary="undo")
        choke.release()
        cancel.wait().ended(DONE)
        (job,) = running.wait().ended(NOT_ALL).json["jobs"]
        assert job["state"] == "cancelled"
        world.assert_untouched(s1, s2, NAME)
