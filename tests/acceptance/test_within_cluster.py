"""A move from one member of a cluster to another, with whatever dies on its way, on a real cluster.

There is no simulator of clusters, so the workers are killed here. The user's remote is the member `c1`; the instance
goes from `c2` to `c3`.
"""

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from redis import Redis

from common.domain.itinerary import BRING_BACK, UNDO, WITHIN_CLUSTER
from common.domain.plan import Method
from common.store.keys import Keys
from tests.acceptance import world
from tests.acceptance.story import DONE, INPUT, NOT_ALL, PATIENCE_SECONDS, Herder, Running, worker
from tests.lab import Lab, LabServer, host
from tests.lab.members import bring_back, heal
from tests.lab.pulls import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

NAME = "web"
INSTANCE_ID = "volatile.cloud-init.instance-id"
IDENTITY = (INSTANCE_ID, "volatile.uuid", "volatile.eth0.hwaddr")
MOVE = ("move", f"cluster:{NAME}", "--target", "c3", "--yes", "--json")


@dataclass
class Cluster:
    """The cluster and its user, and what the instance was."""

    members: dict[str, Site]
    herder: Herder
    was: world.Record = field(default_factory=dict)
    files: world.Tree = field(default_factory=dict)

    @property
    def c1(self) -> LabServer:
        return self.members["c1"].server

    @property
    def c2(self) -> LabServer:
        return self.members["c2"].server

    @property
    def c3(self) -> LabServer:
        return self.members["c3"].server

    def has(self, *, running: bool = True, mebibytes: int = 1) -> None:
        """The instance is on c2, with autostart, a file and a snapshot."""
        self.c2.launch(NAME, config={"boot.autostart": "true"})
        world.write(self.c1, NAME, "/srv/file", NAME)
        world.take_snapshot(self.c1, NAME, "kept")
        world.fill(self.c2, NAME, mebibytes)
        if not running:
            world.stop(self.c1, NAME)
        self.was, self.files = world.get(self.c1, NAME), world.tree(world.rootfs(self.c2, NAME))

    def assert_moved(self, *, running: bool = True, is_source_kept: bool = True) -> None:
        """It is on c3 as it was; the source is on c2 under another name and cannot start; nothing else is there."""
        bring_back(self.members)  # one that was killed is listed without facts for a while
        self._assert_same(self.c3, running=running)
        wrecks = world.wrecks(self.c1)
        there = {record["name"] for record in world.listing(self.c1)} - wrecks - {NAME}
        assert self._profiles() == ["default"]
        assert len(there) == int(is_source_kept), there
        for retired in there:
            assert retired.startswith(f"{NAME}-retired-")
            source = world.get(self.c1, retired)
            assert (source["location"], source["status"]) == ("c2", "Stopped")
            assert source["config"][f"{world.MARK}state"] == "retired"
            world.assert_cannot_start(self.c1, retired)
            assert set(world.snapshots(self.c1, retired)) == {"kept"}

    def assert_untouched(self) -> None:
        """It runs on c2 as it did, and nothing shows that herder was there."""
        self._assert_same(self.c2, running=True)
        assert {record["name"] for record in world.listing(self.c1)} - world.wrecks(self.c1) == {NAME}
        assert self._profiles() == ["default"]

    def assert_taken_back(self, job: str) -> None:
        """It runs on c2 as it did; what was on c3 is kept there, under another name, and cannot start."""
        kept = f"{NAME}-copy-{job}"
        self._assert_same(self.c2, running=True)
        assert {record["name"]: record["location"] for record in world.listing(self.c1)} == {NAME: "c2", kept: "c3"}
        world.assert_cannot_start(self.c1, kept)
        assert self._profiles() == ["default"]

    def _assert_same(self, server: LabServer, *, running: bool) -> None:
        now = world.get(self.c1, NAME)
        assert (now["location"], now["status"]) == (server.name, "Running" if running else "Stopped")
        assert world.runs(server, NAME) is running
        assert [now["config"].get(key) for key in IDENTITY] == [self.was["config"].get(key) for key in IDENTITY]
        assert world.owners_config(now) == world.owners_config(self.was)
        assert (now["devices"], now["profiles"]) == (self.was["devices"], self.was["profiles"])
        assert world.traces_on(self.c1, NAME) == []
        assert set(world.snapshots(self.c1, NAME)) == {"kept"}
        assert world.tree(world.rootfs(server, NAME)) == self.files

    def _profiles(self) -> list[str]:
        return [each["name"] for each in self.c1.query("GET", "/1.0/profiles?recursion=1")]

    @contextmanager
    def never_twice(self) -> Iterator[None]:
        """Fails if guests ran on two members at the same moment, under whatever names."""
        over, twice = threading.Event(), list[set[str]]()

        def watch() -> None:
            while not over.wait(0.1):
                where = {member.name for member in (self.c2, self.c3) if _runs_any(member)}
                if len(where) > 1:
                    twice.append(where)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
        assert twice == []

    @contextmanager
    def moving(self, *options: str) -> Iterator[Running]:
        """The command, while the block runs."""
        with self.never_twice():
            running = self.herder.start(*MOVE, *options)
            try:
                yield running
            finally:
                if not running.is_over:
                    running.send(signal.SIGINT)
                    running.wait()


def _runs_any(member: LabServer) -> bool:
    below = f"[lxc monitor] {member.lxd_dir}/containers "
    processes = host.processes()
    return bool(host.descendants([process for process in processes if process.command.startswith(below)]))


@pytest.fixture
def cluster(lab: Lab, herder: Herder) -> Iterator[Cluster]:
    there = Cluster({name: Site.of(lab, name) for name in ("c1", "c2", "c3")}, herder)
    heal(there.members)
    world.strip(there.c1)
    yield there
    heal(there.members)
    world.strip(there.c1)


class TestTheMove:
    """What a user types, and what comes of it."""

    def test_a_running_one_moves_warm(self, cluster: Cluster) -> None:
        """As it is: config, devices, addresses, uuid, cloud-init's id, files and snapshots."""
        cluster.has()
        with cluster.moving() as running:
            (job,) = running.wait().ended(DONE).json["jobs"]
        assert (job["method"], job["source_member"], job["target_member"]) == ("warm", "c2", "c3")
        cluster.assert_moved()

    def test_a_stopped_one_moves_cold_and_stays_stopped(self, cluster: Cluster) -> None:
        """Also with both sides written, as for `lxc move`."""
        cluster.has(running=False)
        cluster.herder.run("move", f"cluster:{NAME}", *MOVE[1:]).ended(DONE)
        cluster.assert_moved(running=False)

    def test_the_source_is_deleted_if_asked_for(self, cluster: Cluster) -> None:
        """And so it can go there and back again."""
        cluster.has()
        cluster.herder.run(*MOVE, "--retire", "delete").ended(DONE)
        cluster.assert_moved(is_source_kept=False)
        cluster.herder.run("move", f"cluster:{NAME}", "--target", "c2", "--yes", "--retire", "delete").ended(DONE)
        cluster.assert_untouched()

    def test_what_it_takes_of_the_network_can_be_limited(self, cluster: Cluster) -> None:
        """A worker relays the data between the members then."""
        cluster.has()
        with cluster.moving("--limit", "100MiB/s") as running:
            (job,) = running.wait().ended(DONE).json["jobs"]
        assert job["way"].startswith("relay: ")
        cluster.assert_moved()

    def test_several_are_spread_over_several_members(self, cluster: Cluster) -> None:
        """What a member has goes to those of a group by turns; what is there stays."""
        group = "/1.0/cluster/groups/others"
        cluster.c1.query("POST", "/1.0/cluster/groups", {"name": "others", "members": ["c1", "c3"]})
        names = ["a1", "a2", "a3", "a4"]
        for name in names:
            cluster.c2.launch(name)
        cluster.c3.launch("stays")
        try:
            where = ("cluster:", "cluster:", "--all", "--target", "@others", "--retire", "delete")
            cluster.herder.run("move", *where, "--yes").ended(DONE)
        finally:
            cluster.c1.query("PUT", group, {"members": []})
            cluster.c1.query("DELETE", group)
        found = {record["name"]: record["location"] for record in world.listing(cluster.c1)}
        assert found.pop("stays") == "c3"
        assert found.keys() == set(names)
        assert sorted(found.values()) == ["c1", "c1", "c3", "c3"]
        assert {record["status"] for record in world.listing(cluster.c1)} == {"Running"}

    def test_a_finished_one_is_taken_back(self, cluster: Cluster) -> None:
        """It runs where it was, as it was; what it has done since is kept, stopped, under the name of the copy."""
        cluster.has()
        (job,) = cluster.herder.run(*MOVE).ended(DONE).json["jobs"]
        world.write(cluster.c1, NAME, "/srv/since", "then")
        with cluster.never_twice():
            cluster.herder.run("undo", job["job"], "--yes").ended(DONE)
        cluster.assert_taken_back(job["job"])
        assert (world.rootfs(cluster.c3, f"{NAME}-copy-{job['job']}") / "srv/since").read_text() == "then"


class TestRefusals:
    """What cannot be meant, or cannot go well, is one clear error before anything moves."""

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (("--target", "c9"), NOT_ALL, "no member c9; its members are c1, c2, c3"),
            (("--target", "c2"), NOT_ALL, "on member c2 already"),
            (("cluster:other", "--target", "c3"), INPUT, "would be a new name"),
            (("s1:", "--target", "c3"), NOT_ALL, "s1 has no member c3; it is no cluster"),
            (("--target", "c3", "--target-project", "x"), INPUT, "does not go with --target"),
        ],
        ids=["unknown", "same", "rename", "elsewhere", "project"],
    )
    def test_bad_input_moves_nothing(self, cluster: Cluster, arguments: tuple[str, ...], code: int, words: str) -> None:
        cluster.has()
        before = world.picture(cluster.c1)
        ran = cluster.herder.run("move", f"cluster:{NAME}", *arguments, "--yes").ended(code)
        assert words in ran.error
        assert world.picture(cluster.c1) == before

    def test_a_member_in_maintenance_gets_nothing(self, cluster: Cluster) -> None:
        """The server itself would accept it."""
        cluster.has()
        cluster.c3.query("POST", "/1.0/cluster/members/c3/state", {"action": "evacuate"})
        assert "c3 of cluster is Evacuated" in cluster.herder.run(*MOVE).ended(NOT_ALL).error
        cluster.assert_untouched()


@pytest.mark.exhaustive
class TestKilledWorkers:
    """A worker dies around a step; the next one finishes. The 15 s until then are not waited for."""

    STEPS = WITHIN_CLUSTER[Method.WARM].steps

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize(
        "step", [step.name for step in STEPS if step.name not in ("check_source", "drop_snapshots")]
    )
    def test_the_move_is_finished(self, cluster: Cluster, moment: str, step: str, redis_url: str) -> None:
        self._is_finished(cluster, redis_url, "--at", moment, step)

    @pytest.mark.parametrize("look", [1, 2])
    def test_right_before_each_request_for_the_names(self, cluster: Cluster, look: int, redis_url: str) -> None:
        """For the source, and for the copy."""
        self._is_finished(cluster, redis_url, "--at", "last-look", "take_name", "--look", str(look))

    @pytest.mark.parametrize("step", ["full_pass", "final_pass"])
    def test_in_the_middle_of_a_pass(self, cluster: Cluster, step: str, redis_url: str) -> None:
        self._is_finished(cluster, redis_url, "--at", "middle", step)

    def test_one_that_wakes_up_late_changes_nothing(self, cluster: Cluster, redis_url: str) -> None:
        """It fell asleep before it gave the copy the name, which is long done when it wakes up."""
        told = Told(cluster, redis_url)
        with told.moving() as running:
            sleeper = told.hit("--at", "last-look", "take_name", "--look", "2", "--sleep")
            told.end_leases()
            told.ends(running, DONE)
            sleeper.send_signal(signal.SIGCONT)
            host.wait_until("it to find out", lambda: "job.fence_lost" in told.log.read_text())
            sleeper.terminate()
            sleeper.wait(PATIENCE_SECONDS)
        cluster.assert_moved()

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_cancelled_cutover_is_undone(self, cluster: Cluster, moment: str, redis_url: str) -> None:
        """With a worker that dies around every step of the way back."""
        told = Told(cluster, redis_url)
        with told.moving() as running:
            told.strike("--at", "before", "hand_over")
            assert world.status(cluster.c1, NAME) == "Stopped"
            told.herder.run("cancel", told.herder.jobs()[0].id, "--no-wait").ended(DONE)
            for step in UNDO.steps:
                told.strike("--at", moment, step.name)
            told.ends(running, NOT_ALL)
        cluster.assert_untouched()

    @pytest.mark.parametrize(
        "blows",
        [
            *([("before", step.name), ("after", step.name)] for step in BRING_BACK.steps),
            *([("last-look", "take_back", "--look", str(look))] for look in (1, 2, 3, 4)),
        ],
        ids=lambda blows: " ".join(blows[0][1:]),
    )
    def test_a_finished_move_is_taken_back(
        self, cluster: Cluster, blows: list[tuple[str, ...]], redis_url: str
    ) -> None:
        """Around each step of the way back, and right before each of its requests: guard, two names, release."""
        told = Told(cluster, redis_url)
        with told.moving() as running:
            told.ends(running, DONE)
        (job,) = told.herder.jobs()
        with cluster.never_twice():
            undoing = told.herder.start("undo", job.id, "--yes")
            for blow in blows:
                told.strike("--at", *blow)
            told.ends(undoing, DONE)
        cluster.assert_taken_back(job.id)

    def _is_finished(self, cluster: Cluster, redis_url: str, *blow: str) -> None:
        told = Told(cluster, redis_url)
        with told.moving() as running:
            told.strike(*blow)
            told.ends(running, DONE)
        cluster.assert_moved()


@pytest.mark.exhaustive
class TestLostRedis:
    """Nobody knows of the job any more but the servers."""

    def test_it_is_recovered_from_between_the_names(self, cluster: Cluster, herder: Herder, redis_url: str) -> None:
        """The one moment at which nothing has the instance's name."""
        told = Told(cluster, redis_url)
        with told.moving() as running:
            told.strike("--at", "last-look", "take_name", "--look", "2")
            assert world.status(cluster.c1, NAME) == "absent"
            running.send(signal.SIGINT)
            running.wait()
            (job,) = herder.run("recover", "--yes", "--json").ended(DONE).json["recovered"]["jobs"]
        assert (job["itinerary"], job["step"]) == ("warm_within_cluster", "take_name")
        cluster.assert_moved()

    def test_it_is_recovered_from_the_cutover(self, cluster: Cluster, herder: Herder, redis_url: str) -> None:
        """Before the commit point the instance is brought up first, and then it moves."""
        told = Told(cluster, redis_url)
        with told.moving() as running:
            told.strike("--at", "before", "hand_over")
            running.send(signal.SIGINT)
            running.wait()
            (job,) = herder.run("recover", "--yes", "--json").ended(DONE).json["recovered"]["jobs"]
        assert job["itinerary"] == "give_back"
        cluster.assert_moved()


@dataclass
class Told:
    """One story with workers of its own, in a namespace of its own."""

    cluster: Cluster
    redis_url: str

    def __post_init__(self) -> None:
        self.namespace = f"within-{time.monotonic_ns()}"
        self.herder = self.cluster.herder.having(HERDER_REDIS_URL=self.redis_url, HERDER_NAMESPACE=self.namespace)
        self.cluster.herder = self.herder
        self.log = self.herder.home / "hit.log"
        self.blows = 0

    @contextmanager
    def moving(self) -> Iterator[Running]:
        self.cluster.has()
        with self.cluster.moving("--downtime", "1h") as running:
            yield running

    def hit(self, *options: str) -> "subprocess.Popen[bytes]":
        """A worker that dies or sleeps by now."""
        self.blows += 1
        flag = self.herder.home / f"flag-{self.blows}"
        hit = worker(self.herder, *options, "--flag", str(flag), log=self.log)
        host.wait_until(f"{options}", flag.exists, seconds=PATIENCE_SECONDS)
        return hit

    def strike(self, *options: str) -> None:
        assert self.hit(*options).wait(PATIENCE_SECONDS) == -signal.SIGKILL
        self.end_leases()

    def end_leases(self) -> None:
        """As if the time had passed after which others take over."""
        redis, keys, job = Redis.from_url(self.redis_url), Keys(self.namespace), self.herder.jobs()[0].id
        redis.hset(keys.job(job), "lease", 0)
        redis.zadd(keys.due, {job: 0})
        redis.delete(keys.listener("cluster"))

    def ends(self, running: Running, code: int) -> None:
        successor = worker(self.herder, log=self.herder.home / "successor.log")
        try:
            running.wait().ended(code)
        finally:
            successor.terminate()
            successor.wait(PATIENCE_SECONDS)


@pytest.mark.exhaustive
class TestKilledMembers:
    """SIGKILL of a member's daemon, which is started again; the work goes on by itself."""

    @pytest.mark.parametrize("name", ["c2", "c3"])
    def test_in_the_full_pass(self, cluster: Cluster, name: str) -> None:
        """The source's, the target's."""
        cluster.has(mebibytes=400)
        with cluster.moving("--downtime", "1h") as running:
            host.wait_until("the pass", lambda: world.has_migrated(cluster.c1), seconds=60)
            self._restart(cluster, cluster.members[name].server)
            running.wait().ended(DONE)
        cluster.assert_moved()

    @pytest.mark.parametrize("name", ["c2", "c3"])
    def test_in_the_cutover(self, cluster: Cluster, redis_url: str, name: str) -> None:
        """Right before the commit point: forward or back and forward again, but to the end."""
        self._in_the_cutover(cluster, redis_url, name, "before", "hand_over")

    @pytest.mark.parametrize("name", ["c2", "c3"])
    def test_between_the_names(self, cluster: Cluster, redis_url: str, name: str) -> None:
        """The source has given its name up and the copy has not taken it: nobody has it."""
        self._in_the_cutover(cluster, redis_url, name, "last-look", "take_name", "--look", "2")

    def test_a_target_that_stays_away_gives_the_instance_back(self, cluster: Cluster, redis_url: str) -> None:
        """It runs on its old member while the target is down, and moves when that is back."""
        told = Told(cluster, redis_url)
        with told.moving() as running:
            told.strike("--at", "before", "hand_over")
            cluster.c3.kill()
            successor = worker(told.herder, log=told.herder.home / "successor.log")
            host.wait_until("it to run again", lambda: world.runs(cluster.c2, NAME), seconds=PATIENCE_SECONDS)
            assert world.status(cluster.c1, NAME) == "Running"
            cluster.c3.start()
            bring_back(cluster.members)
            running.wait().ended(DONE)
            successor.terminate()
            successor.wait(PATIENCE_SECONDS)
        cluster.assert_moved()

    def _in_the_cutover(self, cluster: Cluster, redis_url: str, name: str, *at: str) -> None:
        told = Told(cluster, redis_url)
        with told.moving() as running:
            told.strike("--at", *at)
            self._restart(cluster, cluster.members[name].server)
            told.ends(running, DONE)
        cluster.assert_moved()

    def _restart(self, cluster: Cluster, member: LabServer) -> None:
        member.kill()
        member.start()
        bring_back(cluster.members)
