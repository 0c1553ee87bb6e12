"""Workers die, or fall asleep, around every step; whoever comes after them finishes the job as if nothing had been.

Each story has an instance, a worker and a namespace of its own in one Redis, so that several are told at once. The 15 s
after which others take over from a dead worker are not waited for: its leases are made to end in Redis.
"""

import json
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from common.domain.itinerary import COLD, GIVE_BACK, UNDO, WARM, Itinerary
from common.store.keys import Keys
from tests.acceptance import world
from tests.acceptance.story import DONE, NOT_ALL, PATIENCE_SECONDS, Herder, Running, worker
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, host

# All stories are told before the first test begins, and count as its time.
pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]

AT_ONCE = 4
PASSES = ("full_pass", "refresh_passes", "final_pass")


@dataclass(frozen=True)
class Blow:
    """What hits a worker: at which moment of which step, and whether it dies or only sleeps."""

    moment: str
    step: str
    look: int = 1  # which of the step's looks at its fence, for the moment "last-look"
    sleeps: bool = False

    def __str__(self) -> str:
        look = f" {self.look}" if self.moment == "last-look" else ""
        return f"{'asleep' if self.sleeps else 'killed'} {self.moment}{look} {self.step}"

    @property
    def options(self) -> list[str]:
        """For the worker that it hits."""
        sleeps = ["--sleep"] if self.sleeps else []
        return ["--at", self.moment, self.step, "--look", str(self.look), *sleeps]


@dataclass(frozen=True)
class Story:
    """An itinerary, and the blows that hit one worker after the other on it."""

    itinerary: str
    blows: tuple[Blow, ...]

    def __str__(self) -> str:
        return f"{self.itinerary}, {' and '.join(str(blow) for blow in self.blows)}"

    @property
    def name(self) -> str:
        """Of its instance and its namespace."""
        last = self.blows[-1]
        words = [self.itinerary, last.step, last.moment, str(last.look), "sleeps" if last.sleeps else "dies"]
        return "-".join(words).replace("_", "-")


def _one(itinerary: str, moment: str, step: str, look: int = 1, *, sleeps: bool = False) -> Story:
    return Story(itinerary, (Blow(moment, step, look, sleeps=sleeps),))


def _every_step(itinerary: Itinerary, name: str, moment: str) -> Story:
    return Story(name, tuple(Blow(moment, step.name) for step in itinerary.steps))


AROUND_WARM = [_one("warm", moment, step.name) for step in WARM.steps for moment in ("before", "after")]
IN_WARM_PASSES = [_one("warm", moment, step) for step in PASSES for moment in ("middle", "begun")]
IN_COLD = [_one("cold", "after", step.name) for step in COLD.steps if step.name in ("stop_source", "hand_over")]
IN_COLD += [_one("cold", moment, "full_pass") for moment in ("before", "middle", "after")]
GOING_BACK = [_every_step(UNDO, "undo", moment) for moment in ("before", "after")]
GIVING_BACK = [_every_step(GIVE_BACK, "give-back", moment) for moment in ("before", "after")]
ASLEEP = [
    *(_one("warm", "before", step, sleeps=True) for step in ("hand_over", "start_target", "retire_source")),
    _one("warm", "last-look", "hand_over", sleeps=True),
    *(_one("warm", "last-look", "start_target", look, sleeps=True) for look in (1, 2)),
    *(_one("give-back", moment, "restart_source", sleeps=True) for moment in ("before", "last-look")),
]
STOPPED = Blow("before", "hand_over")  # the source is stopped, the copy complete, and nothing is decided yet


@dataclass(frozen=True)
class Stage:
    """Where the stories are told: two servers, a user with a Redis that others share, and what s1 has sent."""

    s1: LabServer
    s2: LabServer
    herder: Herder
    told_by_s1: Path

    def transfers(self, name: str) -> int:
        """How often s1 has sent this instance to the end."""
        sent = set()
        for line in filter(None, self.told_by_s1.read_text().splitlines()):
            operation = json.loads(line)["metadata"]
            instances = (operation.get("resources") or {}).get("instances", ())
            if operation["description"] == "Migrating instance" and operation["status"] == "Success":
                sent |= {operation["id"] for path in instances if path.endswith(f"/{name}")}
        return len(sent)


@pytest.fixture(scope="module")
def stage(lab: Lab, redis_url: str) -> Iterator[Stage]:
    s1, s2 = lab.servers["s1"], lab.servers["s2"]
    for server in (s1, s2):
        world.strip(server)
    with tempfile.TemporaryDirectory(prefix="hs", dir="/tmp") as folder:
        herder = Herder.of(lab, Path(folder)).having(HERDER_REDIS_URL=redis_url)
        with _told_by(lab, "s1", Path(folder)) as told, NeverTwice(s1, s2):
            yield Stage(s1, s2, herder, told)
    for server in (s1, s2):
        world.strip(server)


@contextmanager
def _told_by(lab: Lab, server: str, folder: Path) -> Iterator[Path]:
    """A file that gets a line of JSON for every change of an operation on a server."""
    told = folder / "told"
    command = ["lxc", "monitor", f"{server}:", "--type", "operation", "--format", "json"]
    with told.open("wb") as output:
        monitor = subprocess.Popen(command, stdout=output, env=Herder.of(lab, folder).environment)
    host.wait_until("the first word of the monitor", lambda: _prompted(lab.servers[server], told))
    try:
        yield told
    finally:
        monitor.kill()
        monitor.wait()


def _prompted(server: LabServer, told: Path) -> bool:
    """Nothing is told of what was before the monitor listened, so there must be something new to tell."""
    world.make(server, Wish(name="prompter", is_started=False))
    world.delete(server, "prompter")
    return told.stat().st_size > 0


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, stage: Stage) -> Mapping[Story, Future[None]]:
    """Every story that was asked for, told to its end, several at once.

    Not while tests come and go: pytest then changes the environment, which no other thread can bear to read.
    """
    tests = [i for i in request.session.items if isinstance(i, pytest.Function) and i.path == request.path]
    chosen = [story for test in tests if isinstance(story := test.callspec.params["story"], Story)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {story: pool.submit(TOLD[story.itinerary], stage, story) for story in chosen}


@pytest.mark.exhaustive
@pytest.mark.parametrize("story", [*AROUND_WARM, *IN_WARM_PASSES, *IN_COLD], ids=str)
def test_the_move_is_finished_and_no_finished_pass_is_sent_again(
    outcomes: Mapping[Story, Future[None]], story: Story
) -> None:
    """It runs exactly once, with the data and snapshots that it had, and nothing is left behind."""
    outcomes[story].result()


@pytest.mark.parametrize("story", GOING_BACK, ids=str)
def test_a_cancelled_cutover_is_undone_to_the_end(outcomes: Mapping[Story, Future[None]], story: Story) -> None:
    """The source runs as before and nothing shows that herder was there, on neither server."""
    outcomes[story].result()


@pytest.mark.parametrize("story", GIVING_BACK, ids=str)
def test_a_broken_cutover_is_given_back_and_tried_again(outcomes: Mapping[Story, Future[None]], story: Story) -> None:
    """Somebody has deleted the copy while the source was stopped: it is started again, and then it moves after all."""
    outcomes[story].result()


@pytest.mark.exhaustive
@pytest.mark.parametrize("story", ASLEEP, ids=str)
def test_a_worker_that_wakes_up_when_another_has_finished_changes_nothing(
    outcomes: Mapping[Story, Future[None]], story: Story
) -> None:
    """Neither when it fell asleep before it looked at its fence, nor between its look and its write."""
    outcomes[story].result()


def _moves(stage: Stage, story: Story) -> None:
    told = Told.begin(stage, story, "--downtime", "1ms", "--method", story.itinerary)
    (blow,) = story.blows
    told.strike(blow)
    told.ends(DONE)
    told.assert_moved()
    passes = [each.kind for each in told.herder.jobs()[0].passes]
    if story.itinerary == "warm":
        assert (passes[0], passes[-1]) == ("full", "final")
        assert set(passes[1:-1]) == {"refresh"}
    else:
        assert passes == ["full"]
    # Nothing proves a refresh that nobody saw end, so another follows; it carries only what has changed since.
    unseen = int(blow.step in ("refresh_passes", "final_pass") and blow.moment in ("begun", "middle"))
    assert stage.transfers(story.name) == len(passes) + unseen
    told.clean_up()


def _goes_back(stage: Stage, story: Story) -> None:
    told = Told.begin(stage, story)
    told.strike(STOPPED)
    assert world.status(stage.s1, story.name) == "Stopped"
    told.herder.run("cancel", told.job, "--no-wait").ended(DONE)
    told.strike(*story.blows)
    told.ends(NOT_ALL)
    world.assert_untouched(stage.s1, stage.s2, story.name)
    told.assert_same(stage.s1)
    told.clean_up()


def _gives_back(stage: Stage, story: Story) -> None:
    told = Told.begin(stage, story)
    told.strike(STOPPED)
    world.delete(stage.s2, story.name)
    told.strike(*story.blows)
    told.ends(DONE)
    told.assert_moved()
    told.clean_up()


TOLD: Mapping[str, Callable[[Stage, Story], None]] = {
    "warm": _moves,
    "cold": _moves,
    "undo": _goes_back,
    "give-back": _gives_back,
}


@dataclass
class Told:
    """One story while it is told: the command that waits for the end, and the worker that sleeps, if one does."""

    stage: Stage
    name: str
    herder: Herder
    command: Running
    was: world.Record
    files: world.Tree
    sleeper: "subprocess.Popen[bytes] | None" = None

    @classmethod
    def begin(cls, stage: Stage, story: Story, *options: str) -> "Told":
        """An instance that is worth keeping, and the command to move it. No worker is there yet."""
        name = story.name
        world.make(stage.s1, Wish(name=name, config={"boot.autostart": "true"}, files={"/srv/file": name}))
        world.take_snapshot(stage.s1, name, "kept")
        world.fill(stage.s1, name, 2)
        was, files = world.get(stage.s1, name), world.tree(world.rootfs(stage.s1, name))
        herder = stage.herder.having(HERDER_NAMESPACE=name)
        command = herder.start("move", f"s1:{name}", "s2:", "--yes", "--json", *options)
        return cls(stage, name, herder, command, was, files)

    @property
    def job(self) -> str:
        return self.herder.jobs()[0].id

    @property
    def log(self) -> Path:
        return self.herder.home / f"{self.name}.log"

    def strike(self, *blows: Blow) -> None:
        """One worker after the other comes, works, and is hit. Afterwards nobody holds what they held."""
        for blow in blows:
            self._hit(blow)
            if blow.moment in ("middle", "begun"):
                for server in (self.stage.s1, self.stage.s2):
                    host.wait_until(f"{server.name} to forget {self.name}", partial(self._is_forgotten, server))
            self._end_leases()

    def _hit(self, blow: Blow) -> None:
        flag = self.herder.home / f"{self.name}-{blow.step}-{blow.moment}"
        hit = worker(self.herder, *blow.options, "--flag", str(flag), log=self.log)
        if blow.sleeps:
            host.wait_until(f"{blow}", flag.exists, seconds=PATIENCE_SECONDS)
            self.sleeper = hit
        else:
            assert hit.wait(PATIENCE_SECONDS) == -signal.SIGKILL, self.log.read_text()
            assert flag.exists()

    def _end_leases(self) -> None:
        """As if the time had passed after which others take over."""
        redis, keys, job = Redis.from_url(self.herder.redis_url), Keys(self.name), self.job
        redis.hset(keys.job(job), "lease", 0)
        redis.zadd(keys.due, {job: 0})
        redis.delete(keys.listener("s1"), keys.listener("s2"))

    def _is_forgotten(self, server: LabServer) -> bool:
        by_status = server.query("GET", "/1.0/operations?recursion=1")
        return not any(self.name in str(each["resources"]) for listed in by_status.values() for each in listed)

    def ends(self, code: int) -> None:
        """An ordinary worker brings it to this end; then whoever slept wakes up, and finds out that it is late."""
        successor = worker(self.herder, log=self.herder.home / f"{self.name}-successor.log")
        try:
            self.command.wait().ended(code)
        finally:
            successor.terminate()
            successor.wait(PATIENCE_SECONDS)
        if self.sleeper is not None:
            self.sleeper.send_signal(signal.SIGCONT)
            host.wait_until(f"{self.name} to find out", lambda: "job.fence_lost" in self.log.read_text())
            self.sleeper.terminate()
            self.sleeper.wait(PATIENCE_SECONDS)

    def clean_up(self) -> None:
        """The lists of the servers stay short for the stories to come."""
        for server in (self.stage.s1, self.stage.s2):
            if world.status(server, self.name) == "Running":
                world.stop(server, self.name)
            if world.status(server, self.name) == "Stopped":
                world.delete(server, self.name)

    def assert_moved(self) -> None:
        assert not any(self.name in wreck for wreck in world.wrecks(self.stage.s2))
        world.assert_moved(self.stage.s1, self.stage.s2, self.name)
        self.assert_same(self.stage.s2)

    def assert_same(self, server: LabServer) -> None:
        """The instance on this server is what it was."""
        now = world.get(server, self.name)
        assert world.owners_config(now) == world.owners_config(self.was)
        assert now["devices"] == self.was["devices"]
        assert world.tree(world.rootfs(server, self.name)) == self.files
        assert set(world.snapshots(server, self.name)) == {"kept"}
