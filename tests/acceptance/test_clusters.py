"""Moves and copies into a cluster and out of one, on a real cluster beside servers that stand alone.

The user's remote is the member `c1`; what comes to another member is dialled there. Within it: `test_within_cluster`.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import yaml

from tests.acceptance import world
from tests.acceptance.story import DONE, NOT_ALL, Herder
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, host
from tests.lab.members import bring_back, heal
from tests.lab.pulls import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

NAME = "web"
IDENTITY = ("volatile.uuid", "volatile.eth0.hwaddr")
COPY_OF = "user.herder-copy-of"


@dataclass
class Cluster:
    """The cluster, a server that stands alone, and what the instance was."""

    members: dict[str, Site]
    s1: LabServer
    was: world.Record = field(default_factory=dict)
    files: world.Tree = field(default_factory=dict)
    snapshots: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> LabServer:
        return self.members[name].server

    @property
    def c1(self) -> LabServer:
        return self["c1"]

    def has_at(self, server: LabServer, *, mebibytes: int = 1) -> None:
        """The instance runs there, with autostart, a file and a snapshot."""
        server.launch(NAME, config={"boot.autostart": "true"})
        world.write(server, NAME, "/srv/file", NAME)
        world.take_snapshot(server, NAME, "kept")
        world.fill(server, NAME, mebibytes)
        self.was, self.snapshots = world.get(server, NAME), world.snapshots(server, NAME)
        self.files = world.tree(world.rootfs(server, NAME))

    def assert_runs_at(self, server: LabServer) -> None:
        """As it was, and nothing of herder's is on it."""
        now = world.get(server, NAME)
        assert (now["location"], now["status"]) == (server.name if server.cluster else "none", "Running")
        assert world.runs(server, NAME)
        assert [now["config"].get(key) for key in IDENTITY] == [self.was["config"].get(key) for key in IDENTITY]
        assert world.owners_config(now) == world.owners_config(self.was)
        assert (now["devices"], now["profiles"]) == (self.was["devices"], self.was["profiles"])
        assert world.snapshots(server, NAME) == self.snapshots
        assert world.traces_on(server, NAME) == []
        assert world.tree(world.rootfs(server, NAME)) == self.files

    def places(self) -> dict[str, tuple[str, str]]:
        """Location and status by name."""
        return {record["name"]: (record["location"], record["status"]) for record in world.listing(self.c1)}

    def restart(self, member: str) -> None:
        """SIGKILL a member, and return when all are at work again."""
        self[member].kill()
        self[member].start()
        bring_back(self.members)


@pytest.fixture
def cluster(lab: Lab, s1: LabServer) -> Iterator[Cluster]:
    there = Cluster({name: Site.of(lab, name) for name in ("c1", "c2", "c3")}, s1)
    _settle(there)
    yield there
    _settle(there)


def _settle(there: Cluster) -> None:
    heal(there.members)
    world.strip(there.c1)
    for name in there.members:
        _configure(there, name)


def _configure(there: Cluster, name: str, **config: str) -> None:
    path = f"/1.0/cluster/members/{name}"
    kept = {key: there.c1.query("GET", path)[key] for key in ("roles", "failure_domain", "description", "groups")}
    there.c1.query("PUT", path, {**kept, "config": {key.replace("_", "."): value for key, value in config.items()}})


def test_a_running_one_moves_in_and_out_whoever_dials(cluster: Cluster, herder: Herder) -> None:
    """Warm, with all that it is, to the member that is named or that is chosen, and back; by pull, push and relay."""
    cluster.has_at(cluster.s1)
    options = ("--retire", "delete", "--yes", "--json")
    ways = (
        (("s1:web", "cluster:", "--target", "c2"), "pull", "c2"),
        (("cluster:web", "s1:"), "push", ""),
        (("s1:web", "cluster:", "--target", "@default"), "relay", ""),
    )
    for arguments, mode, member in ways:
        with NeverTwice(cluster.s1, cluster.c1):
            (job,) = herder.run("move", *arguments, "--mode", mode, *options).ended(DONE).json["jobs"]
        assert (job["method"], job["way"].partition(":")[0]) == ("warm", mode)
        assert member in ("", job["target_member"])
        cluster.assert_runs_at(cluster[job["target_member"]] if job["target_member"] else cluster.s1)
    assert world.listing(cluster.s1) == []
    assert world.traces(cluster.s1) == world.traces(cluster.c1) == []


@pytest.mark.exhaustive
def test_a_server_is_emptied_into_a_cluster_and_a_cluster_into_a_server(cluster: Cluster, herder: Herder) -> None:
    """What runs and what is stopped, to the members that take things by themselves, by turns; each kept as it was."""
    _configure(cluster, "c3", scheduler_instance="manual")
    names = ["a", "b", "c", "d"]
    for name in names:
        world.make(cluster.s1, Wish(name=name, is_started=name != "d"))
    herder.run("evacuate", "s1:", "--to", "cluster:", "--retire", "delete", "--yes").ended(DONE)
    there = cluster.places()
    assert sorted(location for location, _ in there.values()) == ["c1", "c1", "c2", "c2"]
    assert {name: status for name, (_, status) in there.items() if status != "Running"} == {"d": "Stopped"}
    herder.run("evacuate", "cluster:", "--to", "s1:", "--yes").ended(DONE)
    assert {record["name"]: record["status"] for record in world.listing(cluster.s1)} == {
        **dict.fromkeys(names, "Running"),
        "d": "Stopped",
    }
    # The retired sources do not count, and are refused by name.
    assert {status for _, status in cluster.places().values()} == {"Stopped"}
    assert "nothing to move" in herder.run("evacuate", "cluster:", "--to", "s1:", "--yes").ended(DONE).out


@pytest.mark.exhaustive
def test_copies_come_and_go_and_follow_their_sources(cluster: Cluster, herder: Herder) -> None:
    """A copy is refreshed on the member that has it, whether or not that takes anything else."""
    world.make(cluster.s1, Wish(name=NAME, files={"/srv/file": "first"}))
    herder.run("copy", "s1:web", "cluster:", "--target", "c3", "--yes").ended(DONE)
    assert cluster.places() == {NAME: ("c3", "Stopped")}
    _configure(cluster, "c3", scheduler_instance="manual")
    world.write(cluster.s1, NAME, "/srv/file", "second")
    world.take_snapshot(cluster.s1, NAME, "monday")
    (job,) = herder.run("copy", "s1:web", "cluster:", "--refresh", "--yes", "--json").ended(DONE).json["jobs"]
    assert (job["method"], job["target_member"]) == ("refresh", "c3")
    assert world.tree(world.rootfs(cluster["c3"], NAME)) == world.tree(world.rootfs(cluster.s1, NAME))
    assert world.snapshots(cluster.c1, NAME) == world.snapshots(cluster.s1, NAME)
    assert cluster.places() == {NAME: ("c3", "Stopped")}
    assert (
        "is on member c3"
        in herder.run("copy", "s1:web", "cluster:", "--target", "c2", "--refresh", "--yes").ended(NOT_ALL).error
    )
    world.start(cluster.c1, NAME)
    for options in ((), ("--refresh",)):
        herder.run("copy", "cluster:web", "s1:back", *options, "--yes").ended(DONE)
    assert world.status(cluster.s1, "back") == "Stopped"
    assert world.get(cluster.s1, "back")["config"][COPY_OF] == world.get(cluster.c1, NAME)["config"]["volatile.uuid"]
    assert cluster.places() == {NAME: ("c3", "Running")}
    assert world.traces(cluster.s1) == world.traces(cluster.c1) == []


def test_a_cluster_is_backed_up_and_what_was_lost_comes_back(cluster: Cluster, herder: Herder) -> None:
    """From whatever member it is on; a restore has its member chosen as any other copy."""
    cluster.has_at(cluster["c2"])
    policy = {
        "name": "nightly",
        "select": {"source": "cluster"},
        "schedule": {"when": "02:00"},
        "targets": [{"remote": "s1"}],
        "keep": {"last": 2},
    }
    file = herder.home / "policies.yaml"
    file.write_text(yaml.safe_dump({"policies": [policy]}))
    for night in ("2026-01-01T02:00Z", "2026-01-02T02:00Z"):
        cluster.files = world.tree(world.rootfs(cluster["c2"], NAME))
        herder.run("backup", "run", str(file), "--at", night).ended(DONE)
        world.write(cluster.c1, NAME, "/srv/file", night)
    world.stop(cluster.c1, NAME)
    world.delete(cluster.c1, NAME)
    herder.run("backup", "restore", "cluster:web", "--from", "s1:", "--keep-addresses", "--yes").ended(DONE)
    ((place, status),) = cluster.places().values()
    assert status == "Stopped"
    assert world.tree(world.rootfs(cluster[place], NAME)) == cluster.files
    assert world.owners_config(world.get(cluster.c1, NAME)) == world.owners_config(cluster.was)
    assert world.traces(cluster.c1) == []


@pytest.mark.exhaustive
def test_a_move_into_a_cluster_is_taken_back_and_one_that_redis_lost_is_recovered(
    cluster: Cluster, herder: Herder
) -> None:
    """The member is in what an instance carries, so the job goes on to the one that it was meant for."""
    cluster.has_at(cluster.s1, mebibytes=200)
    running = herder.start("move", "s1:web", "cluster:", "--target", "c2", "--downtime", "1h", "--yes")
    host.wait_until("the full pass", lambda: world.has_migrated(cluster.s1), seconds=60)
    os.kill(running.process.pid, signal.SIGKILL)
    running.wait()
    fresh = herder.having(HERDER_STATE_DIR=str(herder.home / "fresh"))
    (job,) = fresh.run("recover", "--yes", "--json").ended(DONE).json["recovered"]["jobs"]
    assert (job["move"]["target"], job["move"]["target_member"]) == ("cluster", "c2")
    cluster.assert_runs_at(cluster["c2"])
    with NeverTwice(cluster.s1, cluster.c1):
        fresh.run("undo", job["id"], "--yes").ended(DONE)
    assert cluster.places() == {NAME: ("c2", "Stopped")}
    world.assert_cannot_start(cluster.c1, NAME)
    cluster.assert_runs_at(cluster.s1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("arguments", [("s1:web", "cluster:", "--target", "c2"), ("cluster:web", "s1:")], ids=str)
def test_a_member_that_dies_in_the_middle_is_waited_for(
    cluster: Cluster, herder: Herder, arguments: tuple[str, ...]
) -> None:
    """As target and as source; what ran runs on meanwhile, on one side only."""
    is_leaving = arguments[0].startswith("cluster:")
    source = cluster["c2"] if is_leaving else cluster.s1
    cluster.has_at(source, mebibytes=200)
    with NeverTwice(cluster.s1, cluster.c1):
        running = herder.start("move", *arguments, "--downtime", "1h", "--yes")
        host.wait_until("the full pass", lambda: world.has_migrated(source), seconds=60)
        cluster.restart("c2")
        running.wait().ended(DONE)
    cluster.assert_runs_at(cluster.s1 if is_leaving else cluster["c2"])


def test_what_cannot_go_is_named_and_nothing_moves(cluster: Cluster, herder: Herder) -> None:
    """One reason for each."""
    cluster.has_at(cluster.s1)
    before = world.picture(cluster.s1), cluster.places()
    cluster.c1.query("POST", "/1.0/cluster/members/c3/state", {"action": "evacuate"})
    for words, *arguments in (
        ("cluster has no member c9; its members are c1, c2, c3", "--target", "c9"),
        ("member c3 of cluster is Evacuated", "--target", "c3"),
        ("cluster has no pool fast", "--storage", "fast", "--target", "c1"),
    ):
        assert words in herder.run("move", "s1:web", "cluster:", *arguments, "--yes").ended(NOT_ALL).error
    assert (world.picture(cluster.s1), cluster.places()) == before
