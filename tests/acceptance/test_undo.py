"""A move is taken back after it was finished: the source runs again, and what the target wrote is kept."""

import pytest

from tests.acceptance import world
from tests.acceptance.story import DONE, NOT_ALL, Herder
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import LabServer

pytestmark = pytest.mark.lab

MOVE = ("move", "s1:web", "s2:", "--yes", "--json")


@pytest.mark.incus_too
def test_a_finished_move_is_taken_back(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """The source runs as it was at the cutover and is what it was; the target is stopped, whole, and cannot start."""
    world.make(s1, Wish(name="web", config={"boot.autostart": "true"}))
    world.write(s1, "web", "/srv/when", "before")
    was = world.get(s1, "web")
    (job,) = herder.run(*MOVE).ended(DONE).json["jobs"]
    world.write(s2, "web", "/srv/when", "after")
    with NeverTwice(s1, s2):
        (undone,) = herder.run("undo", job["job"], "--yes", "--json").ended(DONE).json["report"]["jobs"]
    assert undone["state"] == "cancelled"
    now = world.get(s1, "web")
    assert world.status(s1, "web") == "Running"
    assert world.owners_config(now) == world.owners_config(was)
    assert (now["devices"], now["profiles"]) == (was["devices"], was["profiles"])
    assert world.traces_on(s1, "web") == []
    assert (world.rootfs(s1, "web") / "srv/when").read_text() == "before"
    assert (world.rootfs(s2, "web") / "srv/when").read_text() == "after"
    world.assert_cannot_start(s2, "web")
    world.restart_daemon(s2)
    assert world.status(s2, "web") == "Stopped"

    again = herder.run("undo", job["job"], "--yes", "--json").ended(NOT_ALL).json
    assert again["answers"][0]["refused"] == "it is back already"
    assert world.status(s1, "web") == "Running"


def test_a_move_whose_source_was_deleted_cannot_be_taken_back(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """It says what to do instead; the target runs on."""
    world.make(s1, Wish(name="web"))
    (job,) = herder.run(*MOVE, "--retire", "delete").ended(DONE).json["jobs"]
    (answer,) = herder.run("undo", job["job"], "--yes", "--json").ended(NOT_ALL).json["answers"]
    assert answer["refused"] == "its source was deleted; move s2:web back instead"
    assert world.status(s2, "web") == "Running"
