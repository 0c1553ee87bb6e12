"""A target that is full, and what becomes of the instance that was to go there."""

from collections.abc import Iterator
from os import posix_fallocate
from pathlib import Path

import pytest

from tests.acceptance import world
from tests.acceptance.story import DONE, NOT_ALL, Herder
from tests.acceptance.world import Wish
from tests.lab import LabServer

pytestmark = pytest.mark.lab

MIB = 1024**2


@pytest.fixture
def tight(s2: LabServer) -> Iterator[Path]:
    """A pool ``tight`` of 1 GiB on s2; a file in it that is in the way leaves less than 400 MiB."""
    s2.query("POST", "/1.0/storage-pools", {"name": "tight", "driver": "btrfs", "config": {"size": "1GiB"}})
    in_the_way = s2.lxd_dir / "storage-pools" / "tight" / "in-the-way"
    yield in_the_way
    in_the_way.unlink(missing_ok=True)


def test_a_target_without_room_leaves_the_source_running_and_a_retry_finishes(
    s1: LabServer, s2: LabServer, herder: Herder, tight: Path
) -> None:
    """The pool is full in the middle of the first pass; once there is room, `retry` is all that it takes."""
    world.make(s1, Wish(name="large"))
    world.fill(s1, "large", 450, device="zero")
    data = world.checksum(world.rootfs(s1, "large") / "root/data")
    started = world.get(s1, "large")["last_used_at"]
    _occupy(tight, s2.query("GET", "/1.0/storage-pools/tight/resources")["space"], leave=380 * MIB)

    asked = ("move", "s1:large", "s2:", "--storage", "tight", "--yes", "--json")
    (job,) = herder.run(*asked).ended(NOT_ALL).json["jobs"]

    assert (job["state"], job["error"]["code"]) == ("parked", "out_of_space")
    assert "tight" in job["error"]["hint"] or "pool" in job["error"]["hint"]
    assert "herder retry" in job["error"]["hint"]
    assert world.runs(s1, "large")
    assert world.get(s1, "large")["last_used_at"] == started
    assert world.status(s2, "large") == "absent"

    tight.unlink()
    herder.run("retry", job["job"]).ended(DONE)
    world.assert_moved(s1, s2, "large")
    assert world.checksum(world.rootfs(s2, "large", pool="tight") / "root/data") == data


def _occupy(file: Path, space: dict[str, int], *, leave: int) -> None:
    """A file that takes all space but this much."""
    with file.open("wb") as occupied:
        posix_fallocate(occupied.fileno(), 0, space["total"] - space["used"] - leave)
