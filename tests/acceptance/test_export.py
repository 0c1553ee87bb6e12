"""An owner keeps instances as files, in a directory or a bucket, and makes instances of them again."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.domain.itinerary import EXPORT, IMPORT, UNDO_EXPORT, UNDO_IMPORT
from common.domain.job import State
from tests.acceptance import world
from tests.acceptance.killed import Killed, around
from tests.acceptance.shelf import backups, manifests
from tests.acceptance.story import DONE, INPUT, NOT_ALL, Herder
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer

pytestmark = pytest.mark.lab


def as_its_owner_left_it(record: world.Record) -> world.Record:
    return {key: record[key] for key in ("status", "config", "devices", "profiles", "last_used_at", "description")}


def test_an_export_of_a_running_instance_is_the_same_instance_elsewhere(
    s1: LabServer, s2: LabServer, herder: Herder, shelf: Path
) -> None:
    """Files, snapshots, config, description, uuid; the source does not notice and keeps no backup.

    What comes back is stopped, and stays so when its server starts, though it ran when it was exported.
    """
    config = {"user.owner": "ann", "boot.host_shutdown_timeout": "5"}
    world.make(s1, Wish(name="web", config=config, description="the shop's front", files={"/srv/file": "data"}))
    world.take_snapshot(s1, "web", "monday")
    was, taken = world.get(s1, "web"), world.snapshots(s1, "web")

    (job,) = herder.run("export", "s1:web", str(shelf), "--yes", "--json").ended(DONE).json["jobs"]

    assert (job["state"], job["method"], job["downtime_s"], job["target"]) == ("done", "export", None, str(shelf))
    assert as_its_owner_left_it(world.get(s1, "web")) == as_its_owner_left_it(was)
    assert backups(s1, "web") == []
    (manifest,) = manifests(shelf)
    file = shelf / manifest["file"]
    assert sorted(each.name for each in shelf.iterdir()) == sorted([file.name, file.with_suffix(".json").name])
    assert (manifest["size"], manifest["sha256"]) == (file.stat().st_size, world.checksum(file))
    assert (manifest["instance"], manifest["source"], manifest["snapshots"]) == ("web", "s1", ["monday"])

    (job,) = herder.run("import", str(shelf), "s2:", "--yes", "--json").ended(DONE).json["jobs"]

    assert (job["state"], job["method"], job["source"]) == ("done", "import", str(shelf))
    now = world.get(s2, "web")
    assert now["status"] == "Stopped"
    assert world.owners_config(now) == world.owners_config(was)
    assert (now["config"]["volatile.uuid"], now["description"]) == (was["config"]["volatile.uuid"], was["description"])
    assert world.snapshots(s2, "web") == taken
    assert (world.rootfs(s2, "web") / "srv/file").read_text() == "data"
    assert now["config"] == was["config"] | {"volatile.last_state.power": "STOPPED"}
    assert world.traces(s1) == world.traces(s2) == []
    world.restart_daemon(s2)
    assert world.status(s2, "web") == "Stopped"
    world.start(s2, "web")


@pytest.mark.exhaustive
def test_a_bucket_is_as_good_as_a_directory(s1: LabServer, s2: LabServer, herder: Herder, bucket: Any, s3: str) -> None:
    """Credentials and endpoint come from where boto3 looks; the new one has a name and a pool of its own."""
    s2.query("POST", "/1.0/storage-pools", {"name": "other", "driver": "dir"})
    user = herder.having(
        AWS_ENDPOINT_URL=s3, AWS_ACCESS_KEY_ID="lab", AWS_SECRET_ACCESS_KEY="lab", AWS_DEFAULT_REGION="us-east-1"
    )
    world.make(s1, Wish(name="web", files={"/srv/file": "data"}))
    where = "s3://shelf/night/ly"

    user.run("export", "s1:web", where, "--yes", "--compression", "gzip").ended(DONE)

    names = sorted(each.key for each in bucket.objects.all())
    assert [name.rpartition(".")[2] for name in names] == ["json", "gz"]
    assert all(name.startswith("night/ly/web-") for name in names)
    (listed,) = user.run("import", where, "--json").ended(DONE).json
    assert (listed["instance"], listed["format"]["compression"]) == ("web", "gzip")

    user.run("import", where, "s2:back", "web", "--storage", "other", "--yes").ended(DONE)

    assert world.get(s2, "back")["expanded_devices"]["root"]["pool"] == "other"
    assert (world.rootfs(s2, "back", pool="other") / "srv/file").read_text() == "data"
    assert list(bucket.multipart_uploads.all()) == []


def test_an_optimized_export_goes_into_a_pool_of_its_own_kind_only(
    s1: LabServer, s2: LabServer, d1: LabServer, herder: Herder, shelf: Path
) -> None:
    """With its snapshots; into another kind it is refused before anything is sent."""
    world.make(s1, Wish(name="web", files={"/srv/file": "data"}))
    world.take_snapshot(s1, "web", "monday")
    herder.run("export", "s1:web", str(shelf), "--optimized", "--yes").ended(DONE)
    refused = herder.run("import", str(shelf), "d1:", "--yes").ended(NOT_ALL).error
    assert "optimized for btrfs, and pool default of d1 is dir" in " ".join(refused.split())
    assert world.status(d1, "web") == "absent"
    herder.run("import", str(shelf), "s2:", "--yes").ended(DONE)
    assert set(world.snapshots(s2, "web")) == {"monday"}
    assert (world.rootfs(s2, "web") / "srv/file").read_text() == "data"


def test_many_instances_of_a_project_are_exported_at_once(
    s1: LabServer, s2: LabServer, herder: Herder, shelf: Path
) -> None:
    """Of --all of a project; the files bear its name. Without snapshots if so wished; into another project."""
    for server in (s1, s2):
        server.query("POST", "/1.0/projects", {"name": "shop", "config": world.OWN_NOTHING})
    for name in ("a", "b"):
        world.make(s1, Wish(name=name, project="shop", is_started=False))
    world.make(s1, Wish(name="c", is_started=False))
    s1.query("POST", "/1.0/instances/a/snapshots?project=shop", {"name": "monday"})

    herder.run("export", "s1:", str(shelf), "--all", "--project", "shop", "--instance-only", "--yes").ended(DONE)

    assert [(m["project"], m["instance"], m["snapshots"]) for m in manifests(shelf)] == [
        ("shop", "a", []),
        ("shop", "b", []),
    ]
    assert all(each.name.startswith("shop-") for each in shelf.iterdir())
    herder.run("import", str(shelf), "s2:", "b", "--project", "shop", "--target-project", "default", "--yes").ended(
        DONE
    )
    herder.run("import", str(shelf), "s2:", "--all-projects", "--yes").ended(DONE)
    assert world.status(s2, "b") == world.get(s2, "a", project="shop")["status"] == "Stopped"
    assert world.snapshots(s2, "a", project="shop") == {}


def _flip(file: Path) -> None:
    """Another byte in the middle, as long as before."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes([byte[0] ^ 0xFF]))


def _cut(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("spoil", [_flip, _cut])
def test_of_a_broken_file_nothing_is_made(
    s1: LabServer, s2: LabServer, herder: Herder, shelf: Path, spoil: Callable[[Path], None]
) -> None:
    """The job is parked with the reason, and the server is as it was; a sound file then goes in."""
    world.make(s1, Wish(name="web", is_started=False))
    herder.run("export", "s1:web", str(shelf), "--yes").ended(DONE)
    (file,) = shelf.glob("*.tar")
    whole = file.read_bytes()
    spoil(file)
    as_it_was = world.picture(s2)
    (job,) = herder.run("import", str(shelf), "s2:", "--yes", "--json").ended(NOT_ALL).json["jobs"]
    assert (job["state"], job["error"]["code"]) == ("parked", "verification_failed")
    assert "manifest says" in job["error"]["message"]
    assert world.picture(s2) == as_it_was
    assert world.status(s2, "web") == "absent"
    assert list((s2.lxd_dir / "backups").rglob("*.tar*")) == []
    file.write_bytes(whole)
    herder.run("retry", job["job"]).ended(DONE)
    assert world.status(s2, "web") == "Stopped"


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("export", "s1:absent", "SHELF"), (INPUT, "no instance absent on s1")),
        (("export", "s1:", "SHELF"), (INPUT, "names no instance")),
        (("export", "s1:web", "SHELF/none"), (INPUT, "is not a directory on")),
        (("export", "s1:web", "/proc"), (INPUT, "/proc")),
        (("export", "s1:web", "ftp://host/x"), (INPUT, "is no archive")),
        (("export", "s1:web", "s3://"), (INPUT, "is no archive")),
        (("export", "s1:web", "SHELF", "--optimized", "--compression", "zstd"), (INPUT, "exclude each other")),
        (("export", "s1:web", "SHELF", "--compression", "rar"), (INPUT, "'rar' is not one of")),
        (("import", "SHELF", "s1:"), (NOT_ALL, "s1 has an instance web already")),
        (("import", "SHELF", "s2:", "nobody"), (INPUT, "has no export of nobody")),
        (("import", "SHELF", "nowhere:"), (INPUT, "nowhere")),
        (("import", "SHELF", "s2:", "--storage", "none"), (NOT_ALL, "s2 has no pool none")),
        (("import", "SHELF", "s2:", "--target-project", "none"), (NOT_ALL, "s2 has no project none")),
        (("import", "SHELF/none", "s2:"), (INPUT, "No such file or directory")),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_touched(
    kept: tuple[LabServer, LabServer, Herder, Path], arguments: Sequence[str], told: tuple[int, str]
) -> None:
    """One error that says why; the servers and the archive are as they were."""
    s1, s2, herder, shelf = kept
    as_it_is = world.picture(s1), world.picture(s2), sorted(shelf.iterdir())
    code, reason = told
    ran = herder.run(*(each.replace("SHELF", str(shelf)) for each in arguments), "--yes").ended(code)
    assert "Traceback" not in ran.err
    assert reason in " ".join(ran.err.split())
    assert (world.picture(s1), world.picture(s2), sorted(shelf.iterdir())) == as_it_is


@pytest.fixture(scope="module")
def kept(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LabServer, LabServer, Herder, Path]]:
    """An instance, web, on s1 and in an archive."""
    s1, s2 = lab.servers["s1"], lab.servers["s2"]
    for server in (s1, s2):
        world.strip(server)
    folder = tmp_path_factory.mktemp("kept")
    herder, shelf = Herder.of(lab, folder).having(HERDER_STATE_DIR=f"/tmp/{folder.name}-state"), folder / "shelf"
    shelf.mkdir()
    world.make(s1, Wish(name="web", is_started=False))
    herder.run("export", "s1:web", str(shelf), "--yes").ended(DONE)
    yield s1, s2, herder, shelf
    world.strip(s1)


def test_a_server_without_room_for_the_backup_is_left_alone(s1: LabServer, herder: Herder, shelf: Path) -> None:
    """It would be written there first; the refusal says where, and how much it takes."""
    s1.query("POST", "/1.0/storage-pools", {"name": "tiny", "driver": "btrfs", "config": {"size": "160MiB"}})
    s1.query("POST", "/1.0/storage-pools/tiny/volumes/custom", {"name": "backups"})
    s1.query("PATCH", "/1.0", {"config": {"storage.backups_volume": "tiny/backups"}})
    try:
        world.make(s1, Wish(name="web", is_started=False))
        refused = " ".join(herder.run("export", "s1:web", str(shelf), "--yes").ended(NOT_ALL).error.split())
        assert "the backup is written on s1 first, and needs" in refused
        assert "in pool tiny" in refused
        assert list(shelf.iterdir()) == []
    finally:
        s1.query("PATCH", "/1.0", {"config": {"storage.backups_volume": ""}})
        s1.query("DELETE", "/1.0/storage-pools/tiny/volumes/custom/backups")


@pytest.mark.exhaustive
def test_workers_that_die_at_every_step_leave_a_whole_export(s1: LabServer, killed: Killed, shelf: Path) -> None:
    """Also in the middle of the stream, and when all of it is there but has no name; no backup stays on the server."""
    world.make(s1, Wish(name="web"))
    world.fill(s1, "web", 3)
    blows = around(EXPORT)
    at = blows.index(("after", "stream_backup"))
    blows[at:at] = [("middle", "stream_backup", "3"), ("begun", "stream_backup", "2")]
    export = killed.begins("export", "s1:web", str(shelf), "--yes", "--json")
    killed.strike(*blows)
    killed.ends(export, DONE)
    (manifest,) = manifests(shelf)
    file = shelf / manifest["file"]
    assert world.checksum(file) == manifest["sha256"]
    assert {each.name for each in shelf.iterdir()} == {file.name, file.with_suffix(".json").name}
    assert backups(s1, "web") == []


def exported(s1: LabServer, herder: Herder, shelf: Path) -> None:
    """An instance with 3 MiB of data and a snapshot, on s1 and in the archive."""
    world.make(s1, Wish(name="web"))
    world.fill(s1, "web", 3)
    world.take_snapshot(s1, "web", "monday")
    herder.run("export", "s1:web", str(shelf), "--yes").ended(DONE)


@pytest.mark.exhaustive
def test_workers_that_die_at_every_step_leave_a_whole_import(
    s1: LabServer, s2: LabServer, herder: Herder, killed: Killed, shelf: Path
) -> None:
    """Also in the middle of the stream; nothing else is left on the server."""
    exported(s1, herder, shelf)
    blows = around(IMPORT)
    at = blows.index(("after", "send_backup"))
    blows[at:at] = [("middle", "send_backup", "3")]
    import_ = killed.begins("import", str(shelf), "s2:", "--yes", "--json")
    killed.strike(*blows)
    killed.ends(import_, DONE)
    assert [(record["name"], record["status"]) for record in world.listing(s2)] == [("web", "Stopped")]
    assert set(world.snapshots(s2, "web")) == {"monday"}
    there, here = (world.rootfs(server, "web") / "root/data" for server in (s2, s1))
    assert world.checksum(there) == world.checksum(here)
    assert world.traces(s2) == []


@pytest.mark.exhaustive
def test_a_cancelled_export_leaves_nothing(s1: LabServer, killed: Killed, shelf: Path) -> None:
    """Though workers die on the way back too; then it is tried again, from the beginning."""
    world.make(s1, Wish(name="web", is_started=False))
    export = killed.begins("export", "s1:web", str(shelf), "--yes", "--json")
    killed.strike(("before", "write_manifest"))
    (job,) = killed.herder.jobs()
    killed.herder.run("cancel", job.id, "--no-wait").ended(DONE)
    killed.strike(*around(UNDO_EXPORT))
    killed.ends(export, NOT_ALL)
    assert list(shelf.iterdir()) == []
    assert backups(s1, "web") == []
    killed.ends(killed.herder.start("retry", job.id, "--json"), DONE)
    assert len(manifests(shelf)) == 1


@pytest.mark.exhaustive
def test_a_cancelled_import_leaves_nothing(
    s1: LabServer, s2: LabServer, herder: Herder, killed: Killed, shelf: Path
) -> None:
    """The same."""
    exported(s1, herder, shelf)
    import_ = killed.begins("import", str(shelf), "s2:", "--yes", "--json")
    killed.strike(("before", "name_import"))
    (job,) = killed.herder.jobs()
    assert len(world.listing(s2)) == 1
    killed.herder.run("cancel", job.id, "--no-wait").ended(DONE)
    killed.strike(*around(UNDO_IMPORT))
    killed.ends(import_, NOT_ALL)
    assert world.listing(s2) == []
    assert world.traces(s1) == world.traces(s2) == []


@pytest.mark.exhaustive
def test_a_server_that_dies_at_its_part_of_the_work_takes_it_up_again(
    s1: LabServer, s2: LabServer, herder: Herder, shelf: Path
) -> None:
    """In the middle of the backup, of which half is left, and of the restore, of which a volume is left in the way.

    What is left of the restore is in nobody's way, and the report tells where it is.
    """
    world.make(s1, Wish(name="web"))
    world.fill(s1, "web", 120)
    export = herder.start("export", "s1:web", str(shelf), "--yes", "--json")
    herder.wait_for("the backup", export, step="make_backup", state=State.WAITING)
    s1.kill()
    s1.start()
    export.wait().ended(DONE)
    (manifest,) = manifests(shelf)
    assert world.checksum(shelf / manifest["file"]) == manifest["sha256"]
    assert backups(s1, "web") == []

    import_ = herder.start("import", str(shelf), "s2:", "--yes", "--json")
    herder.wait_for("the restore", import_, step="send_backup", state=State.WAITING)
    s2.kill()
    s2.start()
    (job,) = import_.wait().ended(DONE).json["jobs"]
    there, here = (world.rootfs(server, "web") / "root/data" for server in (s2, s1))
    assert world.checksum(there) == world.checksum(here)
    assert any("wreck" in note for note in job["notes"])
    assert [record["name"] for record in world.listing(s2)] == ["web"]
