"""Servers and Redis die, hang and come back; people cancel, pause and interrupt. The evacuation ends by itself.

A ``Choke`` holds the transfer in its middle, so that what happens "in the full pass" or "in the final pass" does. A
guest with last words gives the final pass something to carry.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import Redis

from common.domain.itinerary import UNDO
from common.domain.job import State
from tests.acceptance import world
from tests.acceptance.choke import Choke
from tests.acceptance.story import DONE, INTERRUPTED, NOT_ALL, UNREACHABLE, Herder, Running
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, host

pytestmark = pytest.mark.lab

#: A pass that was held is a long one; with this budget no refresh follows it.
EVACUATE = ("evacuate", "s1:", "--to", "s2:", "--yes", "--json", "--downtime", "1h")


@dataclass
class Pasture:
    """Three instances on s1, a user who reaches s1 through a choke, and what the instances were.

    ``large`` has 16 MiB and two snapshots: its full pass is held. ``talker`` has last words: its final pass is held.
    ``small`` is neither. A test makes those that it needs.
    """

    s1: LabServer
    s2: LabServer
    choke: Choke
    herder: Herder
    was: dict[str, world.Record] = field(default_factory=dict)
    files: dict[str, world.Tree] = field(default_factory=dict)

    def has(self, *names: str) -> None:
        """Make them."""
        for name in names:
            config = {"boot.autostart": "true"}
            if name == "talker":
                world.make_with_last_words(self.s1, name, config)
            else:
                world.make(self.s1, Wish(name=name, config=config))
            world.fill(self.s1, name, 16 if name == "large" else 1)
            if name == "large":
                for number in ("one", "three"):
                    world.write(self.s1, name, "/srv/number", number)
                    world.take_snapshot(self.s1, name, number)
            self.was[name] = world.get(self.s1, name)
            self.files[name] = self._files(self.s1, name)

    def _files(self, server: LabServer, name: str) -> world.Tree:
        """Its files, without the last words that come later."""
        files = world.tree(world.rootfs(server, name))
        return {path: leaf for path, leaf in files.items() if not path.endswith("last-words")}

    def assert_moved(self) -> None:
        """All of them, each as it was, and nothing else is on the target but perhaps LXD's own wrecks."""
        for name in self.was:
            world.assert_moved(self.s1, self.s2, name)
            self._assert_same(self.s2, name)
        there = {record["name"] for record in world.listing(self.s2)}
        assert there - world.wrecks(self.s2) == self.was.keys()

    def assert_untouched(self) -> None:
        """None of them has gone anywhere."""
        for name in self.was:
            world.assert_untouched(self.s1, self.s2, name)
            self._assert_same(self.s1, name)
        assert {record["name"] for record in world.listing(self.s2)} == world.wrecks(self.s2)

    def _assert_same(self, server: LabServer, name: str) -> None:
        now = world.get(server, name)
        assert world.owners_config(now) == world.owners_config(self.was[name])
        assert now["devices"] == self.was[name]["devices"]
        assert self._files(server, name) == self.files[name]
        if name == "talker":
            last_words = [world.rootfs(each, name) / world.LAST_WORDS[1:] for each in (self.s1, server)]
            assert last_words[0].stat().st_size == world.LAST_WORDS_BYTES
            assert world.checksum(last_words[0]) == world.checksum(last_words[1])
        if name == "large":
            assert set(world.snapshots(server, name)) == {"one", "three"}
            kept = world.rootfs(server, name, snapshot="one") / "srv/number"
            assert kept.read_text() == "one"

    @contextmanager
    def evacuation(self, held: int = 1) -> Iterator[Running]:
        """An evacuation that has come to where so many transfers are held; nothing runs twice meanwhile."""
        with NeverTwice(self.s1, self.s2):
            running = self.herder.start(*EVACUATE)
            try:
                self.choke.wait_held(held)
                yield running
            finally:
                self.choke.release()
                if not running.is_over:
                    running.send(signal.SIGINT)
                    running.wait()

    @property
    def plan(self) -> str:
        return self.herder.jobs()[0].plan


@pytest.fixture
def pasture(lab: Lab, s1: LabServer, s2: LabServer, home: Path) -> Iterator[Pasture]:
    with Choke(s1) as choke:
        herder = Herder.of(lab, home).having(choke.configuration(lab, home / "conf"))
        yield Pasture(s1, s2, choke, herder)


def _kill_source(pasture: Pasture) -> None:
    pasture.s1.kill()
    pasture.choke.release()
    pasture.s1.start()


def _kill_target(pasture: Pasture) -> None:
    pasture.s2.kill()
    pasture.choke.release()
    pasture.s2.start()


def _kill_redis(pasture: Pasture) -> None:
    """The embedded one; the command starts it again."""
    home = str(pasture.herder.home)
    host.end_all([p for p in host.processes() if p.program in REDIS_PROGRAMS and p.environment.get("HOME") == home])
    pasture.choke.release()


def _hang_target(pasture: Pasture) -> None:
    """It says nothing for 10 s, with all its connections open."""
    pasture.s2.freeze()
    pasture.choke.release()
    time.sleep(10)
    pasture.s2.thaw()


REDIS_PROGRAMS = ("valkey-server", "redis-server")
DISASTERS: dict[str, Callable[[Pasture], None]] = {
    "the source dies": _kill_source,
    "the target dies": _kill_target,
    "redis dies": _kill_redis,
    "the target hangs": _hang_target,
}


@pytest.mark.parametrize("disaster", DISASTERS)
def test_an_evacuation_outlives_it_in_the_full_pass_and_in_the_cutover(pasture: Pasture, disaster: str) -> None:
    """One instance is in its first pass, another is stopped and in its last. Nobody lends a hand, nothing is lost.

    What a killed target leaves of a half-received copy may be something that LXD cannot delete: that is set aside under
    a name that says so, and reported.
    """
    pasture.has("large", "talker")
    with pasture.evacuation(held=2) as evacuation:
        assert (world.status(pasture.s1, "large"), world.status(pasture.s1, "talker")) == ("Running", "Stopped")
        DISASTERS[disaster](pasture)
        report = evacuation.wait().ended(DONE).json

    assert {job["instance"]: job["state"] for job in report["jobs"]} == {"large": "done", "talker": "done"}
    pasture.assert_moved()
    noted = {note.rpartition(":")[2] for job in report["jobs"] for note in job["notes"]}
    assert noted == world.wrecks(pasture.s2)


@pytest.mark.parametrize("name", ["large", "talker"], ids=["in the full pass", "in the cutover"])
def test_a_cancel_brings_the_instance_back_and_leaves_nothing(pasture: Pasture, name: str) -> None:
    """Also when it is stopped already: before the commit point it is started again on the source.

    LXD 5.0.2 may leave of a cancelled refresh what it cannot delete: that is set aside and reported.
    """
    pasture.has(name)
    with pasture.evacuation() as evacuation:
        cancel = pasture.herder.start("cancel", pasture.plan)
        pasture.herder.wait_for("the way back", evacuation, itinerary=UNDO.name)
        pasture.choke.release()
        cancel.wait().ended(DONE)
        (job,) = evacuation.wait().ended(NOT_ALL).json["jobs"]
    assert job["state"] == "cancelled"
    pasture.assert_untouched()
    assert {note.rpartition(":")[2] for note in job["notes"]} == world.wrecks(pasture.s2)


def test_jobs_that_redis_has_lost_are_rebuilt_from_the_servers(pasture: Pasture) -> None:
    """One is in its first pass, another is stopped and in its last: both go on where the servers say that they are."""
    pasture.has("large", "talker")
    with pasture.evacuation(held=2) as evacuation:
        Redis.from_url(pasture.herder.redis_url).flushall()
        assert "herder recover" in evacuation.wait().ended(UNREACHABLE).error
        pasture.choke.release()
    recovered = pasture.herder.run("recover", "--yes", "--json").ended(DONE).json
    assert {job["move"]["instance"] for job in recovered["recovered"]["jobs"]} == {"large", "talker"}
    pasture.assert_moved()
    assert pasture.herder.run("recover", "--yes", "--json").ended(DONE).json["recovered"]["jobs"] == []


def test_what_a_lost_plan_had_not_begun_is_planned_again(pasture: Pasture) -> None:
    """No job has touched it, but the request in the memo of another means it too."""
    pasture.has("large")
    with pasture.evacuation() as evacuation:
        pasture.has("small")
        Redis.from_url(pasture.herder.redis_url).flushall()
        evacuation.wait().ended(UNREACHABLE)
        pasture.choke.release()
    recovered = pasture.herder.run("recover", "--yes", "--json").ended(DONE).json["recovered"]
    assert [job["move"]["instance"] for job in recovered["jobs"]] == ["large"]
    assert [move["instance"] for plan in recovered["not_begun"] for move in plan["moves"]] == ["small"]
    pasture.assert_moved()


def test_a_cancel_while_the_guest_is_asked_to_shut_down_leaves_it_running(
    s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    """LXD cannot take the request back, so the cancel takes as long as the grace; the guest has never been down."""
    world.make(s1, Wish(name="stubborn", image="stubborn"))
    started = world.get(s1, "stubborn")["last_used_at"]
    evacuation = herder.start(*EVACUATE, "--grace", "4s", "--stop-then", "give-back")
    job = herder.wait_for("the shutdown", evacuation, step="stop_source", state=State.WAITING)
    herder.cancel_a_refused_stop(job.id, s1)
    evacuation.wait().ended(NOT_ALL)
    world.assert_untouched(s1, s2, "stubborn")
    assert world.get(s1, "stubborn")["last_used_at"] == started


def test_a_pause_lets_the_pass_finish_and_a_resume_goes_on(pasture: Pasture) -> None:
    """Meanwhile the instance runs on the source, and its copy cannot start, not even by a restart of its server."""
    pasture.has("large")
    with pasture.evacuation() as evacuation:
        pasture.herder.run("pause", pasture.plan).ended(DONE)
        pasture.choke.release()
        paused = pasture.herder.wait_for("the pause", evacuation, state=State.PAUSED)
        assert [each.kind for each in paused.passes] == ["full"]
        assert world.status(pasture.s1, "large") == "Running"
        world.assert_cannot_start(pasture.s2, "large")
        world.restart_daemon(pasture.s2)
        assert world.status(pasture.s2, "large") == "Stopped"

        resumed = pasture.herder.run("resume", pasture.plan, "--json").ended(DONE).json
        assert evacuation.wait().ended(DONE).json == resumed
    pasture.assert_moved()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_an_interrupted_evacuation_goes_on_where_it_was(pasture: Pasture, number: signal.Signals) -> None:
    """LXD finishes the pass while nothing of herder runs, and forgets that it did; the pass is not sent again."""
    pasture.has("large")
    with pasture.evacuation() as evacuation:
        evacuation.send(number)
        ended = evacuation.wait().ended(INTERRUPTED if number == signal.SIGINT else -number)
        assert ("herder resume" in ended.err) == (number == signal.SIGINT)
        assert "Traceback" not in ended.err
        pasture.choke.release()
        world.wait_until_forgotten(pasture.s1)
        world.wait_until_forgotten(pasture.s2)
        received = world.get(pasture.s2, "large")["created_at"]

        (job,) = pasture.herder.run("resume", "--json").ended(DONE).json["jobs"]
    assert job["passes"] == 2
    assert world.get(pasture.s2, "large")["created_at"] == received
    pasture.assert_moved()
