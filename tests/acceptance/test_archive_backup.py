"""A policy backs instances up into archives; what is in them is found, counted, pruned and restored as elsewhere."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.domain.itinerary import ARCHIVE, ARCHIVE_OF_SNAPSHOT
from tests.acceptance import world
from tests.acceptance.killed import Killed, around
from tests.acceptance.shelf import backups, manifests
from tests.acceptance.story import DONE, INPUT, Herder
from tests.acceptance.world import Wish
from tests.lab import LabServer

pytestmark = pytest.mark.lab

NIGHTS = ("2026-11-02T02:00", "2026-11-03T02:00")


#: What a run of the last night leaves on the source of a policy with a hook.
LAST = "herder-nightly-20261103-020000"
#: Each hook leaves its word in a journal; what is quiet has a file.
HOOK = {
    "before": ["echo before >> /root/journal", "echo shh > /root/quiet", "date > /root/begun"],
    "after": ["rm -f /root/quiet", "echo after >> /root/journal"],
}


def a_policy_file(home: Path, *targets: dict[str, Any], **more: Any) -> Path:
    """A policy for all instances of s1; each target keeps one generation."""
    policy = {
        "name": "nightly",
        "select": {"source": "s1"},
        "schedule": {"when": "02:00"},
        "targets": [{"keep": {"last": 1}, **target} for target in targets],
    }
    file = home / "policies.yaml"
    file.write_text(yaml.safe_dump({"policies": [{**policy, **more}]}, sort_keys=False))
    return file


@pytest.fixture
def user(herder: Herder, s3: str) -> Herder:
    """One who has credentials for buckets."""
    return herder.having(
        AWS_ENDPOINT_URL=s3, AWS_ACCESS_KEY_ID="lab", AWS_SECRET_ACCESS_KEY="lab", AWS_DEFAULT_REGION="us-east-1"
    )


def test_a_generation_in_an_archive_is_as_good_as_one_on_a_server(
    s1: LabServer, s2: LabServer, user: Herder, shelf: Path, bucket: Any
) -> None:
    """Two nights into a directory and a bucket, which keep one. It comes back beside the original, and in its place.

    The source keeps no backup, and its snapshots are its owner's.
    """
    where = "s3://shelf/night/ly"
    file = a_policy_file(user.home, {"archive": str(shelf)}, {"archive": where, "compression": "gzip"})
    world.make(s1, Wish(name="web", config={"user.owner": "ann"}))
    world.take_snapshot(s1, "web", "monday")
    was = world.get(s1, "web")

    for number, night in enumerate(NIGHTS):
        world.write(s1, "web", "/srv/night", str(number))
        first, second = user.run("backup", "run", str(file), "--at", night, "--json").ended(DONE).json
        assert {job["state"] for report in (first, second) for job in report["jobs"]} == {"done"}

    assert (backups(s1, "web"), set(world.snapshots(s1, "web"))) == ([], {"monday"})
    (manifest,) = manifests(shelf)
    assert (manifest["policy"], manifest["at"], manifest["snapshots"]) == ("nightly", f"{NIGHTS[1]}:00Z", [])
    assert len(list(shelf.iterdir())) == len(list(bucket.objects.all())) == 2
    listed = user.run("backup", "list", str(shelf), where, "--instance", "s1:web", "--json").ended(DONE).json
    assert {(each["archive"], each["at"]) for each in listed} == {
        (archive, f"{NIGHTS[1]}:00Z") for archive in (str(shelf), where)
    }
    in_bucket = next(each for each in listed if each["archive"] == where)
    shown = user.run("backup", "show", f"{where}/{in_bucket['name']}", "--json").ended(DONE).json
    assert shown["definition"]["config"]["user.owner"] == "ann"
    ages = user.run("backup", "status", str(file), "--json").ended(DONE).json
    assert {(each["target"], each["last_good"]) for each in ages} == {
        (archive, f"{NIGHTS[1]}:00Z") for archive in (str(shelf), where)
    }

    command = ("backup", "restore", "s1:web", "--from", str(shelf), "--as", "beside", "--yes")
    user.run(*command, "--config", "user.owner=bob").ended(DONE)
    beside = world.get(s1, "beside")
    assert (world.rootfs(s1, "beside") / "srv/night").read_text() == "1"
    assert (beside["status"], beside["config"]["user.owner"]) == ("Stopped", "bob")
    assert beside["config"].get("volatile.eth0.hwaddr") != was["config"]["volatile.eth0.hwaddr"]
    world.delete(s1, "beside")

    world.stop(s1, "web")
    world.delete(s1, "web")
    user.run("backup", "restore", "s1:", "--from", where, "--to", "s2:", "--keep-addresses", "--yes").ended(DONE)
    now = world.get(s2, "web")
    assert (world.rootfs(s2, "web") / "srv/night").read_text() == "1"
    assert now["config"]["volatile.eth0.hwaddr"] == was["config"]["volatile.eth0.hwaddr"]
    assert world.traces(s2) == []


def test_an_archive_that_cannot_be_used_is_told_with_its_line_before_anything_moves(
    s1: LabServer, user: Herder, shelf: Path, bucket: Any
) -> None:
    """A directory that is not there, and a bucket; the good target of the same policy is not begun either."""
    world.make(s1, Wish(name="web", is_started=False))
    for command, wrong in (("check", str(shelf / "none")), ("run", "/proc"), ("run", "s3://nobodys/bucket")):
        file = a_policy_file(user.home, {"archive": str(shelf)}, {"archive": wrong})
        told = " ".join(user.run("backup", command, str(file)).ended(INPUT).error.split())
        assert f"{file}:" in told.replace(" ", "")
        assert wrong.replace(" ", "") in told.replace(" ", "")
    assert list(shelf.iterdir()) == list(bucket.objects.all()) == []


@pytest.mark.exhaustive
def test_workers_that_die_at_every_step_leave_a_whole_generation(s1: LabServer, killed: Killed, shelf: Path) -> None:
    """Also in the middle of the stream; the older one goes after it, and no part of a file is left.

    What the archive does not keep as it was sent is carried once more.
    """
    world.make(s1, Wish(name="web"))
    world.fill(s1, "web", 3)
    file = a_policy_file(killed.herder.home, {"archive": str(shelf)})
    killed.ends(killed.begins("backup", "run", str(file), "--at", NIGHTS[0], "--json"), DONE)
    (earlier,) = manifests(shelf)
    blows = around(ARCHIVE)
    at = blows.index(("after", "stream_backup"))
    blows[at:at] = [("middle", "stream_backup", "3"), ("begun", "stream_backup", "2")]
    run = killed.begins("backup", "run", str(file), "--at", NIGHTS[1], "--json")
    killed.strike(*blows[: at + 3])
    (sent,) = set(shelf.glob("*.tar")) - {shelf / earlier["file"]}
    sent.write_bytes(sent.read_bytes()[::-1])
    killed.strike(*blows[at + 3 :])
    killed.ends(run, DONE)
    (manifest,) = manifests(shelf)
    made = shelf / manifest["file"]
    assert (manifest["at"], world.checksum(made)) == (f"{NIGHTS[1]}:00Z", manifest["sha256"])
    assert {each.name for each in shelf.iterdir()} == {made.name, made.with_suffix(".json").name}
    assert backups(s1, "web") == []


def journal(server: LabServer, name: str) -> list[str]:
    """What the hooks have left in an instance."""
    return (world.rootfs(server, name) / "root/journal").read_text().split()


def test_what_a_hook_has_made_quiet_is_quiet_in_the_archive_and_for_no_longer_than_a_snapshot_takes(
    s1: LabServer, s2: LabServer, user: Herder, shelf: Path
) -> None:
    """What runs is asked, what is stopped is not. It comes back as it was, with its cards and keys, and can start."""
    file = a_policy_file(user.home, {"archive": str(shelf), "compression": "gzip"}, hook=HOOK, keep={"last": 1})
    card = {"type": "nic", "nictype": "p2p", "name": "eth1"}
    config = {"user.owner": "ann", "boot.autostart": "true"}
    world.make(s1, Wish(name="web", config=config, devices={"card": card}))
    world.make(s1, Wish(name="idle", is_started=False))
    world.fill(s1, "web", 48)
    was = world.get(s1, "web")

    for night in NIGHTS:
        user.run("backup", "run", str(file), "--at", night, "--json").ended(DONE)

    assert journal(s1, "web") == ["before", "after"] * 2
    begun, over = ((world.rootfs(s1, "web") / "root" / each).stat().st_mtime for each in ("begun", "journal"))
    assert over - begun < (shelf.stat().st_mtime - over) / 2
    assert not (world.rootfs(s1, "web") / "root/quiet").exists()
    assert sorted(world.traces(s1)) == [f"snapshot {LAST} of s1:{name}" for name in ("idle", "web")]
    assert len(world.listing(s1)) == 2
    assert {each["of_snapshot"] for each in manifests(shelf)} == {LAST}

    user.run("backup", "restore", "s1:web", "--from", str(shelf), "--as", "beside", "--yes").ended(DONE)
    beside = world.get(s1, "beside")
    assert (world.rootfs(s1, "beside") / "root/quiet").read_text() == "shh\n"
    assert journal(s1, "beside")[-1] == "before"
    assert (beside["devices"], beside["profiles"]) == (was["devices"], was["profiles"])
    assert beside["config"].get("volatile.eth0.hwaddr") != was["config"]["volatile.eth0.hwaddr"]
    assert {key: beside["config"][key] for key in config} == config
    world.start(s1, "beside")

    user.run("backup", "restore", "s1:web", "--from", str(shelf), "--to", "s2:", "--keep-addresses", "--yes").ended(
        DONE
    )
    now = world.get(s2, "web")
    same = [key for key in was["config"] if key.endswith(".hwaddr") or key == "volatile.uuid"]
    assert {key: now["config"].get(key) for key in same} == {key: was["config"][key] for key in same}
    assert [key for key in now["config"] if key.startswith("user.herder")] == []
    assert now["devices"] == was["devices"]


@pytest.mark.exhaustive
def test_workers_that_die_at_every_step_leave_what_a_hook_has_made_quiet_as_it_was(
    d1: LabServer, killed: Killed, shelf: Path
) -> None:
    """On a dir pool, whose snapshots are copies: the hook after always follows, and the file is of between the two."""
    world.make(d1, Wish(name="web"))
    world.fill(d1, "web", 3)
    file = a_policy_file(killed.herder.home, {"archive": str(shelf)}, hook=HOOK, select={"source": "d1"})
    run = killed.begins("backup", "run", str(file), "--at", NIGHTS[1], "--json")
    blows = around(ARCHIVE_OF_SNAPSHOT)
    at = blows.index(("after", "take_snapshot"))
    blows[at:at] = [("last-look", "take_snapshot", "2")] * 4
    killed.strike(*blows)
    killed.ends(run, DONE)
    assert journal(d1, "web")[-1] == "after"
    assert not (world.rootfs(d1, "web") / "root/quiet").exists()
    assert world.traces(d1) == [f"snapshot {LAST} of d1:web"]
    assert len(world.listing(d1)) == 1
    restore = killed.begins("backup", "restore", "d1:web", "--from", str(shelf), "--as", "back", "--yes", "--json")
    killed.ends(restore, DONE)
    assert (world.rootfs(d1, "back") / "root/quiet").exists()
    assert journal(d1, "back")[-1] == "before"
