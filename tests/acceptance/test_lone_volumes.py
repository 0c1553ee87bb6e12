"""Real custom volumes go by themselves: moved, copied, made equal to their source; and what happens when all breaks."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from common.domain.itinerary import UNDO_VOLUME
from common.domain.volume import COPIED_BY
from tests.acceptance import world
from tests.acceptance.choke import Choke
from tests.acceptance.story import DONE, FOUND, INPUT, NOT_ALL, UNREACHABLE, Herder, Running, worker
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, host

pytestmark = pytest.mark.lab

MIB = 1024**2
DATA = "s1:default/data"
DISK = {"type": "disk", "pool": "default", "source": "data", "path": "/mnt/data"}
PAIRS = ["s1 s2", "s1 d1", "d1 s2"]


def _path(volume: str = "", *rest: str, pool: str = "default") -> str:
    return "/".join([f"/1.0/storage-pools/{pool}/volumes/custom", *([volume, *rest] if volume else [])])


def make(server: LabServer, name: str = "data", *, tier: str = "gold", mebibytes: int = 4) -> None:
    """A volume that nobody attaches, with a snapshot that has other files than it."""
    server.query("POST", _path(), {"name": name, "config": {"user.tier": tier}, "description": f"of {tier}"})
    root = world.volume_folder(server, name)
    (root / "old").write_bytes(os.urandom(MIB))
    (root / "a").mkdir(mode=0o750)
    os.chown(root / "a", 1234, 1235)
    (root / "a" / "link").symlink_to("../old")
    server.query("POST", _path(name, "snapshots"), {"name": "monday"})
    (root / "old").unlink()
    (root / "new").write_bytes(os.urandom(mebibytes * MIB))


@dataclass(frozen=True)
class Seen:
    """A volume as its owner sees it."""

    files: world.Tree
    snapshots: dict[str, world.Tree]
    config: dict[str, str]
    description: str


def seen(server: LabServer, name: str = "data", *, pool: str = "default") -> Seen:
    """Without the key that tells its last job; with any other that herder has left."""
    record = server.query("GET", _path(name, pool=pool))
    snapshots = [url.rpartition("/")[2] for url in server.query("GET", _path(name, "snapshots", pool=pool))]
    return Seen(
        files=world.tree(world.volume_folder(server, name, pool=pool)),
        snapshots={each: world.tree(world.volume_folder(server, name, snapshot=each, pool=pool)) for each in snapshots},
        config={key: value for key, value in record["config"].items() if key != COPIED_BY},
        description=record["description"],
    )


def names(server: LabServer) -> set[str]:
    return {url.rpartition("/")[2] for url in server.query("GET", _path()) if "/snapshots/" not in url}


def said(ran: Any) -> str:
    return " ".join(f"{ran.out} {ran.err}".split())


def retired(server: LabServer, name: str = "data") -> bool:
    return bool(server.query("GET", _path(name))["config"].get(f"{world.MARK}state") == "retired")


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> tuple[LabServer, LabServer]:
    source, target = (request.getfixturevalue(name) for name in request.param.split())
    return source, target


@pytest.mark.exhaustive
@pytest.mark.parametrize("pair", PAIRS, indirect=True)
@pytest.mark.parametrize("mode", ["pull", "push", "relay"])
def test_a_volume_moves_whole_and_its_source_is_retired(
    pair: tuple[LabServer, LabServer], mode: str, herder: Herder
) -> None:
    """With files, owners, times, snapshots, config and description."""
    source, target = pair
    make(source)
    was = seen(source)
    move = ("volume", "move", f"{source.name}:default/data", f"{target.name}:", "--mode", mode, "--yes", "--json")
    (job,) = herder.run(*move).ended(DONE).json["jobs"]
    assert (job["state"], job["instance"], job["method"]) == ("done", "default/data", "volume-move")
    assert seen(target) == was
    assert retired(source)
    assert seen(source).files == was.files


@pytest.mark.exhaustive
@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_a_volume_is_copied_under_another_name(pair: tuple[LabServer, LabServer], herder: Herder) -> None:
    """Its source is as it was."""
    source, target = pair
    make(source)
    was = seen(source)
    herder.run("volume", "copy", f"{source.name}:default/data", f"{target.name}:default/data2", "--yes").ended(DONE)
    assert names(target) == {"data2"}
    assert seen(target, "data2") == was
    assert seen(source) == was


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_a_refresh_makes_a_volume_equal_to_its_source_and_keeps_its_config(
    pair: tuple[LabServer, LabServer], herder: Herder
) -> None:
    """Files and snapshots that the source has no more go; also what changed within a second, and not in size."""
    source, target = pair
    make(source)
    make(target, tier="silver")
    (world.volume_folder(target, "data") / "stray").write_text("not of the source")
    target.query("POST", _path("data", "snapshots"), {"name": "stray"})
    was = seen(source)
    refresh = ("volume", "refresh", f"{source.name}:default/data", f"{target.name}:", "--yes")
    herder.run(*refresh).ended(DONE)
    now = seen(target)
    assert (now.files, now.snapshots) == (was.files, was.snapshots)
    assert (now.config, now.description) == ({"user.tier": "silver"}, "of silver")
    changed = world.volume_folder(source, "data") / "new"
    before = changed.stat()
    changed.write_bytes(os.urandom(before.st_size))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    herder.run(*refresh).ended(DONE)
    assert seen(target).files == seen(source).files
    assert names(target) == {"data"}


@pytest.mark.exhaustive
@pytest.mark.incus_too
def test_one_server_keeps_another_one_up_to_date_until_it_takes_over(
    s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    """A copy, a refresh, and then a move under another name."""
    make(s1)
    was = seen(s1)
    for _ in range(2):
        herder.run("volume", "copy", DATA, "s2:", "--refresh", "--yes").ended(DONE)
        assert seen(s2).files == was.files
        assert set(seen(s2).snapshots) == {"monday"}
    herder.run("volume", "move", DATA, "s2:default/data2", "--yes").ended(DONE)
    assert seen(s2, "data2").files == was.files
    assert names(s2) == {"data", "data2"}
    assert retired(s1)


def test_a_move_that_deletes_leaves_nothing_on_the_source(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """And one without snapshots leaves them behind."""
    make(s1)
    files = seen(s1).files
    herder.run("volume", "move", DATA, "s2:", "--retire", "delete", "--volume-only", "--yes").ended(DONE)
    assert names(s1) == set()
    assert (seen(s2).files, seen(s2).snapshots) == (files, {})


def test_all_volumes_of_a_pool_go_and_those_in_use_stay_with_their_users_named(
    s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    """Whether who attaches them runs or not; nothing moves unless one agrees to leave them."""
    for name in ("data", "logs", "mail"):
        make(s1, name, mebibytes=1)
    world.make(s1, Wish(name="runs", devices={"data": DISK}))
    world.make(s1, Wish(name="rests", devices={"logs": {**DISK, "source": "logs"}}))
    world.stop(s1, "rests")
    ran = herder.run("volume", "move", "s1:", "s2:", "--all", "--yes").ended(NOT_ALL)
    assert "default/data is attached by runs" in said(ran)
    assert "default/logs is attached by rests" in said(ran)
    assert "2 of 3 volumes cannot move" in said(ran)
    assert names(s2) == set()
    herder.run("volume", "move", "s1:", "s2:", "--pool", "default", "--skip-refused", "--yes").ended(NOT_ALL)
    assert names(s2) == {"mail"}
    herder.run("volume", "copy", "s1:default/data", "s2:", "--yes").ended(DONE)
    assert seen(s2).files == seen(s1).files
    assert world.status(s1, "runs") == "Running"


def test_a_copy_from_a_dir_pool_that_is_written_to_is_warned_of(d1: LabServer, s2: LabServer, herder: Herder) -> None:
    make(d1, mebibytes=1)
    world.make(d1, Wish(name="runs", devices={"data": DISK}))
    ran = herder.run("volume", "copy", "d1:default/data", "s2:", "--yes").ended(DONE)
    assert "default/data is attached by runs, and a pool of dir sends files while they are written" in said(ran)
    assert seen(s2).files == seen(d1).files


def test_what_is_there_is_never_overwritten_but_by_a_refresh_of_what_nobody_attaches(
    s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    make(s1)
    make(s2, tier="silver", mebibytes=1)
    world.make(s2, Wish(name="reader", devices={"data": DISK}))
    world.stop(s2, "reader")
    was = seen(s2)
    ran = herder.run("volume", "copy", DATA, "s2:", "--yes").ended(NOT_ALL)
    assert "s2 has a custom volume default/data already" in said(ran)
    ran = herder.run("volume", "refresh", DATA, "s2:", "--yes").ended(NOT_ALL)
    assert "s2:default/data is attached by reader, which would lose it" in said(ran)
    assert seen(s2).files == was.files


def test_a_volume_goes_into_another_pool_and_another_project(s1: LabServer, d1: LabServer, herder: Herder) -> None:
    make(s1, mebibytes=1)
    was = seen(s1)
    d1.query("POST", "/1.0/projects", {"name": "shop", "config": {"features.storage.volumes": "true"}})
    d1.query("POST", "/1.0/storage-pools", {"name": "ssd", "driver": "dir"})
    try:
        herder.run("volume", "copy", DATA, "d1:ssd/data2", "--yes").ended(DONE)
        assert seen(d1, "data2", pool="ssd") == was
        herder.run("volume", "copy", DATA, "d1:ssd", "--target-project", "shop", "--yes").ended(DONE)
        assert d1.query("GET", f"{_path('data', pool='ssd')}?project=shop")["config"]["user.tier"] == "gold"
    finally:
        for where in (_path("data2", pool="ssd"), f"{_path('data', pool='ssd')}?project=shop"):
            d1.query("DELETE", where)


def test_a_volume_can_be_left_to_workers_elsewhere(
    s1: LabServer, s2: LabServer, herder: Herder, redis_url: str, tmp_path: Path
) -> None:
    """The command ends before it has moved."""
    make(s1)
    was = seen(s1)
    herder = herder.having(HERDER_REDIS_URL=redis_url, HERDER_NAMESPACE=f"detached-{tmp_path.name}")
    plan = herder.run("volume", "copy", DATA, "s2:", "--detach", "--yes", "--json").ended(DONE).json["plan"]
    assert names(s2) == set()
    process = worker(herder, log=tmp_path / "worker.log")
    try:
        herder.run("watch", plan).ended(DONE)
    finally:
        process.terminate()
        process.wait()
    assert seen(s2) == was


def test_a_volume_that_is_not_there_is_an_error_before_anything_moves(
    s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    del s1, s2
    assert (
        "no custom volume default/data on s1" in herder.run("volume", "move", DATA, "s2:", "--yes").ended(INPUT).error
    )


def test_a_moved_volume_is_not_brought_back_and_that_is_said(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """It moves back when the retired one is gone."""
    assert names(s2) == set()
    make(s1)
    was = seen(s1)
    (job,) = herder.run("volume", "move", DATA, "s2:", "--yes", "--json").ended(DONE).json["jobs"]
    assert "`herder volume move s2:default/data s1:` moves it back" in said(herder.run("undo", job["job"], "--yes"))
    assert "the retired one of job" in said(herder.run("volume", "move", "s2:default/data", "s1:", "--yes"))
    s1.query("DELETE", _path("data"))
    herder.run("volume", "move", "s2:default/data", "s1:", "--yes").ended(DONE)
    assert seen(s1) == was


@pytest.fixture
def stage(lab: Lab, home: Path, s1: LabServer, s2: LabServer) -> Iterator["Stage"]:
    """The volume is held in its middle on its way; one of that name is on the target too."""
    make(s1, mebibytes=16)
    make(s2, tier="silver")
    with Choke(s1) as choke:
        yield Stage(s1, s2, choke, Herder.of(lab, home).having(choke.configuration(lab, home / "conf")))


@dataclass(frozen=True)
class Stage:
    """Two servers, a way between them that holds transfers, and who uses it."""

    s1: LabServer
    s2: LabServer
    choke: Choke
    herder: Herder

    def held(self, way: str, target: str, *options: str) -> Running:
        """The command, when the volume is in its middle."""
        running = self.herder.start("volume", way, DATA, target, *options, "--yes", "--json")
        self.choke.wait_held()
        blocked_on = "volume default/data from s1 to s2, which cannot be cancelled"
        self.herder.wait_for("the wait to be told", running, blocked_on=blocked_on)
        return running


def _kill_workers(stage: Stage) -> None:
    """The command starts others."""
    home = str(stage.herder.home)
    found = [p for p in host.processes() if "workers" in p.command and p.environment.get("HOME") == home]
    assert found
    host.end_all(found)
    stage.choke.release()


def _kill_source(stage: Stage) -> None:
    stage.s1.kill()
    stage.choke.release()
    stage.s1.start()


def _kill_target(stage: Stage) -> None:
    stage.s2.kill()
    stage.choke.release()
    stage.s2.start()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "disaster",
    [_kill_workers, _kill_source, _kill_target],
    ids=["the workers die", "the source dies", "the target dies"],
)
@pytest.mark.parametrize("way", ["move", "refresh"])
def test_it_is_finished_although_all_breaks_in_its_middle(
    stage: Stage, way: str, disaster: Callable[[Stage], None]
) -> None:
    """What was on the target is untouched until then."""
    was, old = seen(stage.s1), seen(stage.s2)
    name = "data2" if way == "move" else "data"
    running = stage.held(way, f"s2:default/{name}")
    assert seen(stage.s2) == old
    disaster(stage)
    (job,) = running.wait().ended(DONE).json["jobs"]
    assert job["state"] == "done"
    now = seen(stage.s2, name)
    assert (now.files, now.snapshots) == (was.files, was.snapshots)
    assert names(stage.s2) == {"data", name}


def test_a_refresh_whose_target_dies_and_that_is_cancelled_leaves_the_volume_byte_for_byte(stage: Stage) -> None:
    """What broke of the new one goes."""
    was, old = seen(stage.s1), seen(stage.s2)
    running = stage.held("refresh", "s2:")
    stage.s2.kill()
    cancel = stage.herder.start("cancel", stage.herder.jobs()[0].plan)
    stage.choke.release()
    stage.herder.wait_for("the way back", running, itinerary=UNDO_VOLUME.name)
    stage.s2.start()
    cancel.wait().ended(DONE)
    (job,) = running.wait().ended(NOT_ALL).json["jobs"]
    assert job["state"] == "cancelled"
    assert (seen(stage.s1), seen(stage.s2)) == (was, old)
    assert names(stage.s2) == {"data"}


def test_a_cancel_waits_for_a_volume_in_a_project_that_has_none_of_its_own(stage: Stage) -> None:
    """Its volumes are those of the default project. Nothing of it stays."""
    stage.s2.query("POST", "/1.0/projects", {"name": "shop", "config": world.OWN_NOTHING})
    old = seen(stage.s2)
    running = stage.held("copy", "s2:default/data2", "--target-project", "shop")
    cancel = stage.herder.start("cancel", stage.herder.jobs()[0].plan)
    waits_for = "the end of 'Copying storage volume' of volume default/data on s2"
    stage.herder.wait_for("the way back", running, itinerary=UNDO_VOLUME.name, blocked_on=waits_for)
    stage.choke.release()
    cancel.wait().ended(DONE)
    (job,) = running.wait().ended(NOT_ALL).json["jobs"]
    assert job["state"] == "cancelled"
    assert names(stage.s2) == {"data"}
    assert seen(stage.s2) == old


def test_a_lost_redis_is_rebuilt_from_what_the_volume_says(stage: Stage) -> None:
    """What was sent until then is not trusted. The janitor tells of what there is, and touches nothing."""
    was = seen(stage.s1)
    running = stage.held("move", "s2:default/data2")
    Redis.from_url(stage.herder.redis_url).flushall()
    assert "herder recover" in running.wait().ended(UNREACHABLE).error
    left = stage.herder.run("janitor", "s1:", "s2:", "--fix", "--yes", "--json").ended(FOUND).json["found"]
    told = {(each["server"], each["subject"]): each["hint"] for each in left if each["kind"] == "volume"}
    assert told.keys() == {("s1", "volume default/data"), ("s2", "volume default/data2")}
    assert all(hint.startswith("`herder recover` goes on with its job") for hint in told.values())
    stage.choke.release()
    (job,) = stage.herder.run("recover", "--yes", "--json").ended(DONE).json["recovered"]["jobs"]
    assert job["move"]["instance"] == "default/data"
    assert seen(stage.s2, "data2") == was
    assert retired(stage.s1)
