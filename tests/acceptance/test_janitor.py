"""`herder janitor`: finds what was left on real servers, mends what it may, and leaves alone what it must."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from common.domain.volume import Volume
from common.store.keys import Keys
from tests.acceptance import world
from tests.acceptance.choke import Choke
from tests.acceptance.story import DONE, FOUND, INPUT, Herder, Ran
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, host
from tests.lab.pulls import Site, done, pull

pytestmark = pytest.mark.lab

JANITOR = ("janitor", "s1:", "s2:", "--json")
FIX = (*JANITOR, "--fix", "--yes")

Found = dict[tuple[str, str, str], Any]


@pytest.fixture
def choke(s1: LabServer) -> Iterator[Choke]:
    """The way to s1, on which big transfers are held."""
    with Choke(s1) as held:
        yield held


@pytest.fixture
def owner(lab: Lab, home: Path, choke: Choke) -> Herder:
    """A user whose moves from s1 are held in the middle."""
    return Herder.of(lab, home).having(choke.configuration(lab, home / "conf"))


@pytest.fixture
def stranger(lab: Lab, home: Path, redis_url: str, keys: Keys) -> Herder:
    """Another user, whose Redis knows nothing of the owner's jobs: as if it had been emptied."""
    (home / "stranger").mkdir()
    return Herder.of(lab, home / "stranger").having(HERDER_REDIS_URL=redis_url, HERDER_NAMESPACE=keys.namespace)


@contextmanager
def a_move_that_dies(owner: Herder, choke: Choke) -> Iterator[None]:
    """A move of ``web`` that is held in a transfer; after the block, its command, workers and Redis are killed."""
    # No refresh follows a pass that was held.
    moving = owner.start("move", "s1:web", "s2:", "--yes", "--json", "--downtime", "1h")
    try:
        choke.wait_held()
        yield
    finally:
        host.end_all([each for each in host.processes() if each.environment.get("HOME") == str(owner.home)])
        choke.release()
        moving.wait()


def wait_until_idle(*servers: LabServer) -> None:
    """Return when no operation is under way; the transfers outlive those who began them."""
    host.wait_until("the end of all operations", lambda: not any(world.operations(server) for server in servers))


def found(ran: Ran) -> Found:
    """What was found, by kind, server and subject."""
    return {(each["kind"], each["server"], each["subject"]): each for each in ran.json["found"]}


def kinds(ran: Ran) -> set[tuple[str, str]]:
    """What was found, by kind and server."""
    return {(each["kind"], each["server"]) for each in ran.json["found"]}


def mended(ran: Ran) -> set[tuple[str, str]]:
    return {(each["kind"], each["server"]) for each in ran.json["found"] if each["mended"]}


def test_what_a_lost_job_has_left_is_shown_and_then_removed(
    s1: LabServer, s2: LabServer, choke: Choke, owner: Herder, stranger: Herder
) -> None:
    """Nothing while its job is at work; all of it when Redis is lost; then the source is as if nothing had been."""
    world.make(s1, Wish(name="web", config={"boot.autostart": "true"}))
    world.fill(s1, "web", 16)
    before = world.owners_config(world.get(s1, "web"))
    with a_move_that_dies(owner, choke):
        assert owner.run(*JANITOR).ended(DONE).json["found"] == []
        busy = stranger.run(*FIX).ended(FOUND)
        assert kinds(busy) == {("half", "s2"), ("snapshot", "s1"), ("marks", "s1")}
        assert mended(busy) == set()
        assert all("is under way on" in each["held"] for each in busy.json["found"])
    wait_until_idle(s1, s2)

    seen = stranger.run(*JANITOR).ended(FOUND)
    assert kinds(seen) == kinds(busy)
    assert found(seen)["half", "s2", "web"]["calls"] == ["DELETE /1.0/instances/web?project=default"]
    assert "Redis knows no plan at all" in seen.json["notice"]
    picture = world.picture(s1), world.picture(s2)
    asked = stranger.run("janitor", "--fix").ended(INPUT)
    assert "there is nobody to ask" in asked.error
    assert "`herder recover`" in asked.err
    assert "DELETE /1.0/instances/web?project=default" in asked.out
    assert (world.picture(s1), world.picture(s2)) == picture

    assert mended(stranger.run(*FIX).ended(DONE)) == kinds(seen)
    world.assert_untouched(s1, s2, "web")
    assert world.owners_config(world.get(s1, "web")) == before
    assert stranger.run("janitor", "s1:", "s2:").ended(DONE).out == "nothing was left on s1, s2\n"


def test_a_cutover_that_was_interrupted_is_left_alone(
    s1: LabServer, s2: LabServer, choke: Choke, owner: Herder, stranger: Herder
) -> None:
    """The source is guarded and down: only who knows the protocol may go on."""
    world.make_with_last_words(s1, "web", {})
    with a_move_that_dies(owner, choke):
        assert world.status(s1, "web") == "Stopped"
    wait_until_idle(s1, s2)
    picture = world.picture(s1), world.picture(s2)
    left = stranger.run(*FIX).ended(FOUND)
    assert {("half", "s2"), ("marks", "s1"), ("profile", "s1"), ("profile", "s2")} <= kinds(left)
    assert all("`herder recover` takes it on" in each["held"] for each in left.json["found"])
    assert (world.picture(s1), world.picture(s2)) == picture
    world.assert_cannot_start(s1, "web")


def test_a_retired_source_is_deleted_on_request_if_its_twin_runs(
    s1: LabServer, s2: LabServer, stranger: Herder
) -> None:
    """It is what a good move leaves: no reason to end with another code than 0, and none to be deleted unasked."""
    world.make(s1, Wish(name="web"))
    stranger.having(HERDER_REDIS_URL="").run("move", "s1:web", "s2:", "--yes", "--json").ended(DONE)
    assert kinds(stranger.run(*FIX).ended(DONE)) == {("retired", "s1")}
    world.stop(s2, "web")
    retired = (*FIX, "--kind", "retired")
    assert "the only good copy" in found(stranger.run(*retired).ended(FOUND))["retired", "s1", "web"]["held"]
    assert world.status(s1, "web") == "Stopped"
    world.start(s2, "web")
    assert mended(stranger.run(*retired).ended(DONE)) == {("retired", "s1")}
    assert (world.status(s1, "web"), world.status(s2, "web")) == ("absent", "Running")


def test_a_wreck_that_lxd_cannot_delete_comes_with_the_commands_that_can(
    s1: LabServer, s2: LabServer, choke: Choke, owner: Herder, stranger: Herder
) -> None:
    """Its server was killed while it received a snapshot: root has to help, and what to type is in the hint."""
    world.make(s1, Wish(name="web"))
    world.fill(s1, "web", 16)
    with a_move_that_dies(owner, choke):
        s2.kill()
    s2.start()
    phantoms = (*FIX, "--kind", "phantom")
    (wreck,) = stranger.run(*phantoms).ended(FOUND).json["found"]
    assert (wreck["server"], wreck["subject"], wreck["calls"]) == ("s2", "web", [])
    commands = wreck["hint"].partition("): ")[2].partition("; if that says")[0]
    commands = commands.replace("/var/snap/lxd/common/lxd", str(s2.lxd_dir))
    environment = {**stranger.environment, "LXD_DIR": str(s2.lxd_dir)}
    subprocess.run(["sh", "-c", commands], env=environment, check=True, capture_output=True)
    assert stranger.run(*phantoms).ended(DONE).json["found"] == []
    assert (world.status(s1, "web"), world.status(s2, "web")) == ("Running", "absent")


def test_a_volumes_backup_of_a_lost_job_is_removed(lab: Lab, s1: LabServer, stranger: Herder) -> None:
    """What its owner has backed up stays, and the volume too."""
    site = Site.of(lab, s1.name)
    volume = Volume(pool="default", name="data")
    site.client.create_volume(volume)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for name in ("herder-pgone-1-0", "owners"):
        done(
            site.client,
            site.client.back_volume_up(volume, name, expires_at=tomorrow, volume_only=False, optimized=False),
        )
    backup = ("backup", "s1", "backup default/data/herder-pgone-1-0")
    assert found(stranger.run(*JANITOR).ended(FOUND))[backup]["calls"] == [
        "DELETE /1.0/storage-pools/default/volumes/custom/data/backups/herder-pgone-1-0?project=default"
    ]
    assert mended(stranger.run(*FIX).ended(DONE)) == {("backup", "s1")}
    assert site.client.volume_backups(volume) == {"owners"}


def test_what_others_have_left_is_found_too(lab: Lab, s1: LabServer, s2: LabServer, stranger: Herder) -> None:
    """A twin that would start at boot, a move of LXD's own that broke, and a profile of nobody."""
    for server, name in ((s1, "web"), (s2, "stays")):
        world.make(server, Wish(name=name))
    uuid = world.get(s1, "web")["config"]["volatile.uuid"]
    pull(
        Site.of(lab, "s1"), Site.of(lab, "s2"), "web", config={"volatile.uuid": uuid, "boot.autostart": "true"}
    ).succeed()
    temporary = f"lxd-move-of-{world.get(s2, 'stays')['config']['volatile.uuid']}"
    world.make(s2, Wish(name=temporary, is_started=False, config={"security.protection.delete": "true"}))
    s2.query("POST", "/1.0/profiles", {"name": "herder-p0-1", "description": "herder: guard of job p0-1"})
    s2.query("POST", "/1.0/profiles", {"name": "herder-web-1", "description": "of the owner"})

    fixed = stranger.run(*FIX).ended(DONE)
    assert mended(fixed) == kinds(fixed) == {("double", "s2"), ("temporary", "s2"), ("profile", "s2")}
    assert "at boot start: s1:web, s2:web" in found(fixed)["double", "s2", "web"]["proof"]
    assert world.get(s2, "web")["config"]["boot.autostart"] == "false"
    assert {record["name"] for record in world.listing(s2)} == {"stays", "web"}
    assert [each for each in world.traces(s2) if each.startswith("profile")] == ["profile herder-web-1 on s2"]
    (told,) = stranger.run(*JANITOR).ended(FOUND).json["found"]
    assert (told["kind"], told["calls"]) == ("double", [])


@pytest.mark.incus_too
def test_a_transfer_that_nobody_waits_for_is_cancelled_when_it_is_old(
    lab: Lab, s1: LabServer, s2: LabServer, choke: Choke, stranger: Herder
) -> None:
    """On the source, which is where LXD can; that ends the target's side too."""
    world.make(s1, Wish(name="web"))
    world.fill(s1, "web", 16)
    moving = pull(Site.of(lab, "s1"), Site.of(lab, "s2"), "web", address=choke.address)
    choke.wait_held()
    assert stranger.run(*FIX).ended(DONE).json["found"] == []
    told = stranger.run(*FIX, "--stuck-after", "0s").ended(FOUND)
    assert {key[:2]: each["mended"] for key, each in found(told).items() if key[0] == "operation"} == {
        ("operation", "s1"): True,
        ("operation", "s2"): False,
    }
    assert not any(each.succeeded for each in moving.ended())
    assert world.status(s2, "web") == "absent"
    assert stranger.run(*FIX, "--stuck-after", "0s").ended(DONE).json["found"] == []
