"""An operator moves or copies several instances with one command: named, all, or those that a filter lets through."""

import pytest

from tests.acceptance import world
from tests.acceptance.story import DONE, INPUT, Herder
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import LabServer

pytestmark = pytest.mark.lab

FILTER = "config.user.tier eq web and status eq Stopped"


def furnish(server: LabServer) -> None:
    """Two of the web tier, one of them running; one of the data base; all small."""
    world.make(server, Wish(name="runs", config={"user.tier": "web"}))
    world.make(server, Wish(name="rests", config={"user.tier": "web"}, is_started=False))
    world.make(server, Wish(name="db", config={"user.tier": "db"}, is_started=False))


def moved(report: world.Record) -> set[tuple[str, str]]:
    """Project and name of what the report says was done."""
    return {(job["project"], job["instance"]) for job in report["jobs"] if job["state"] == "done"}


def test_the_source_decides_what_its_filter_lets_through(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """A part of the instances is copied, then all that remain are moved, then several by their names."""
    furnish(s1)
    report = herder.run("copy", "s1:", "s2:", "--filter", FILTER, "--yes", "--json").ended(DONE).json
    assert moved(report) == {("default", "rests")}
    assert world.status(s2, "rests") == "Stopped"
    world.delete(s2, "rests")

    with NeverTwice(s1, s2):
        report = herder.run("move", "s1:runs", "s1:db", "s2:", "--yes", "--json").ended(DONE).json
    assert moved(report) == {("default", "runs"), ("default", "db")}
    assert (world.status(s1, "rests"), world.status(s2, "runs")) == ("Stopped", "Running")

    report = herder.run("move", "--all", "s1:", "s2:", "--yes", "--json").ended(DONE).json
    assert moved(report) == {("default", "rests")}


def test_all_projects_are_taken_and_each_instance_stays_in_its_own(
    s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    """Also when two have the same name."""
    for server in (s1, s2):
        server.query("POST", "/1.0/projects", {"name": "shop", "config": world.OWN_NOTHING})
    world.make(s1, Wish(name="twin", is_started=False))
    world.make(s1, Wish(name="twin", project="shop", is_started=False))
    report = herder.run("copy", "--all", "--all-projects", "s1:", "s2:", "--yes", "--json").ended(DONE).json
    assert moved(report) == {("default", "twin"), ("shop", "twin")}
    assert {world.status(s2, "twin", project=project) for project in ("default", "shop")} == {"Stopped"}
    assert world.traces(s2) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("s1:", "s2:", "--filter", "status is up and well"), "filter 'status is up and well'"),
        (("s1:", "s2:"), "names no instance"),
        (("s1:rests", "s2:", "--all"), "exclude each other"),
        (("s1:rests", "s2:db", "s1:"), "s1 and s2 are two sources"),
        (("s1:rests", "s1:db", "s2:new"), "a new name needs exactly one instance; 2 are selected"),
        (("s1:rests", "s2:", "--all-projects"), "--all-projects goes with --all or --filter"),
    ],
)
def test_what_cannot_be_meant_is_one_error_before_anything_moves(
    s1: LabServer, s2: LabServer, herder: Herder, arguments: tuple[str, ...], reason: str
) -> None:
    """The same for both commands."""
    furnish(s1)
    as_it_is = world.picture(s1), world.picture(s2)
    for verb in ("move", "copy"):
        assert reason in " ".join(herder.run(verb, *arguments, "--yes").ended(INPUT).error.split())
    assert (world.picture(s1), world.picture(s2)) == as_it_is
