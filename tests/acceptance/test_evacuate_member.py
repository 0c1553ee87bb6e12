"""`herder evacuate cluster:MEMBER` and `herder restore cluster:MEMBER` on a real cluster: all leave, all come back."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from common.domain.errors import InputError
from producer.members import check_idle
from tests.acceptance import world
from tests.acceptance.story import DONE, INPUT, NOT_ALL, Herder
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, RefusedError, host
from tests.lab.members import bring_back, heal
from tests.lab.pulls import Site, done

pytestmark = pytest.mark.lab

HOME, ORIGIN = "user.herder-evacuated-from", "volatile.evacuate.origin"
EVACUATE = ("evacuate", "cluster:c2", "--yes", "--downtime", "1h")
RESTORE = ("restore", "cluster:c2", "--yes", "--downtime", "1h")


@dataclass
class Cluster:
    """The cluster and its user; what leaves is on `c2`."""

    members: dict[str, Site]
    herder: Herder

    @property
    def c1(self) -> LabServer:
        return self.members["c1"].server

    @property
    def c2(self) -> LabServer:
        return self.members["c2"].server

    def instances(self) -> dict[str, tuple[str, str]]:
        """Location and status by name."""
        return {record["name"]: (record["location"], record["status"]) for record in world.listing(self.c1)}

    def member(self, name: str = "c2") -> dict[str, Any]:
        found: dict[str, Any] = self.c1.query("GET", f"/1.0/cluster/members/{name}")
        return found

    def assert_at_work(self, name: str = "c2") -> None:
        """In service, and with the config that it had."""
        member = self.member(name)
        assert (member["status"], member["config"]) == ("Online", {})


@pytest.fixture
def cluster(lab: Lab, herder: Herder) -> Iterator[Cluster]:
    there = Cluster({name: Site.of(lab, name) for name in ("c1", "c2", "c3")}, herder)
    _settle(there)
    yield there
    _settle(there)


def _settle(there: Cluster) -> None:
    heal(there.members)
    world.strip(there.c1)
    for name in there.members:
        member = there.member(name)
        kept = {key: member[key] for key in ("roles", "failure_domain", "description", "groups")}
        there.c1.query("PUT", f"/1.0/cluster/members/{name}", {**kept, "config": {}})


def test_all_leave_and_come_back_as_they_were(cluster: Cluster) -> None:
    """Running ones, a stopped one, and one that its owner wants stopped with its member; others stay where they are."""
    names = ["a", "b", "c", "d"]
    for name in names:
        cluster.c2.launch(name, config={"boot.stop.priority": "9"} if name == "d" else {})
        world.write(cluster.c1, name, "/srv/file", name)
        world.take_snapshot(cluster.c1, name, "kept")
    world.stop(cluster.c1, "c")
    cluster.c2.launch("bound", config={"cluster.evacuate": "stop"})
    cluster.members["c3"].server.launch("other")
    was = {name: world.get(cluster.c1, name) for name in names}
    files = {name: world.tree(world.rootfs(cluster.c2, name)) for name in names}

    report = cluster.herder.run(*EVACUATE, "--json").ended(DONE).json

    assert [job["instance"] for job in report["jobs"]] == ["d", "a", "b", "c"]
    there = cluster.instances()
    assert {name for name, (location, _) in there.items() if location == "c2"} == {"bound"}
    assert sorted(there[name][0] for name in names) == ["c1", "c1", "c3", "c3"]
    assert {name for name, (_, status) in there.items() if status != "Running"} == {"c", "bound"}
    assert {world.get(cluster.c1, name)["config"][HOME] for name in names} == {"c2"}
    assert cluster.member()["status"] == "Evacuated"
    assert "nothing to move" in cluster.herder.run(*EVACUATE).ended(DONE).out
    assert cluster.instances() == there

    cluster.herder.run(*RESTORE).ended(DONE)

    back = cluster.instances()
    assert back.pop("other") == ("c3", "Running")
    assert {name for name, (_, status) in back.items() if status != "Running"} == {"c"}
    assert back.keys() == {*names, "bound"}
    assert {location for location, _ in back.values()} == {"c2"}
    cluster.assert_at_work()
    for name in names:
        now = world.get(cluster.c1, name)
        assert world.owners_config(now) == world.owners_config(was[name])
        assert (now["devices"], now["profiles"]) == (was[name]["devices"], was[name]["profiles"])
        assert set(world.snapshots(cluster.c1, name)) == {"kept"}
        assert world.tree(world.rootfs(cluster.c2, name)) == files[name]
    assert world.traces(cluster.c1) == []


@pytest.mark.exhaustive
def test_a_written_plan_empties_the_member_when_it_is_run(cluster: Cluster) -> None:
    """Until then nothing has changed, and the file can be read and edited; run again, it finds nothing to do."""
    cluster.c2.launch("a")
    file = cluster.herder.home / "plan.yaml"
    cluster.herder.run("plan", "evacuate", "cluster:c2", "--target", "c3", "-o", str(file)).ended(DONE)
    cluster.assert_at_work()
    cluster.herder.run("run", str(file), "--yes").ended(DONE)
    assert cluster.instances() == {"a": ("c3", "Running")}
    assert cluster.member()["status"] == "Evacuated"
    cluster.herder.run("run", str(file), "--yes").ended(DONE)
    assert cluster.instances() == {"a": ("c3", "Running")}


@pytest.mark.exhaustive
def test_lxd_itself_brings_back_what_has_left(cluster: Cluster) -> None:
    """It has the note that its own evacuation makes. Meanwhile herder keeps away, and opens the member afterwards."""
    cluster.c2.launch("a")
    cluster.herder.run(*EVACUATE, "--target", "c3").ended(DONE)
    client = cluster.members["c1"].client
    restoring = client.restore_member("c2")
    with pytest.raises(InputError, match="'Restoring cluster member' is under way on c2"):
        check_idle(client, ["c2"])
    check_idle(client, ["c3"])
    done(client, restoring)
    assert cluster.instances() == {"a": ("c2", "Running")}
    assert "nothing to move" in cluster.herder.run(*RESTORE).ended(DONE).out
    assert not {HOME, ORIGIN} & world.get(cluster.c1, "a")["config"].keys()
    cluster.assert_at_work()


@pytest.mark.exhaustive
def test_one_that_cannot_go_stops_nobody_else(cluster: Cluster) -> None:
    """It runs on, the member is closed but not evacuated, and the next steps are told; LXD itself would crash here."""
    cluster.c2.launch("free")
    cluster.c2.launch("tied", devices={"host": {"type": "disk", "source": "/srv", "path": "/mnt"}})
    ran = cluster.herder.run(*EVACUATE).ended(NOT_ALL)
    assert "c2 is not set to evacuated" in ran.err
    assert "tied: device host shares the path /srv" in ran.err
    assert "herder restore cluster:c2" in ran.err
    there = cluster.instances()
    assert there["tied"] == ("c2", "Running")
    assert (there["free"][0] != "c2", there["free"][1]) == (True, "Running")
    assert (cluster.member()["status"], cluster.member()["config"]["scheduler.instance"]) == ("Online", "manual")
    cluster.herder.run(*RESTORE).ended(DONE)
    assert cluster.instances() == {"free": ("c2", "Running"), "tied": ("c2", "Running")}
    cluster.assert_at_work()


@pytest.mark.of_lxd
def test_what_lxd_has_begun_and_a_sudden_death_has_broken_off_is_run_again(cluster: Cluster) -> None:
    """LXD's evacuation fails at the second one, then the command is killed, and with it its workers and its Redis.

    All leave, what LXD has stopped runs again, and all come back, by whomever they were moved.
    """
    for name in ("a", "b", "c"):
        cluster.c2.launch(name, config={"cluster.evacuate": "migrate"})
        world.fill(cluster.c2, name, 100)
    in_its_way = f"lxd-move-of-{world.get(cluster.c1, 'b')['config']['volatile.uuid']}"
    world.make(cluster.c1, Wish(name=in_its_way, is_started=False))
    with pytest.raises(RefusedError, match="already exists"):
        cluster.c1.query("POST", "/1.0/cluster/members/c2/state", {"action": "evacuate"})
    there = cluster.instances()
    assert (there["a"][0] != "c2", there["b"], there["c"]) == (True, ("c2", "Stopped"), ("c2", "Running"))

    running = cluster.herder.start(*EVACUATE)
    host.wait_until("the first pass", lambda: world.has_migrated(cluster.c1), seconds=60)
    os.kill(running.process.pid, signal.SIGKILL)
    assert "cluster:b was stopped by LXD itself, which then failed to move it: it is started" in running.wait().err
    assert cluster.member()["status"] == "Online"
    assert "which an earlier run has left" in cluster.herder.run(*EVACUATE).ended(DONE).err
    there = cluster.instances()
    assert there.keys() == {"a", "b", "c", in_its_way}
    assert all(there[name][0] != "c2" and there[name][1] == "Running" for name in ("a", "b", "c"))
    assert cluster.member()["status"] == "Evacuated"
    assert world.traces(cluster.c1) == []

    cluster.herder.run(*RESTORE).ended(DONE)
    assert {name: place for name, place in cluster.instances().items() if name != in_its_way} == dict.fromkeys(
        ("a", "b", "c"), ("c2", "Running")
    )
    cluster.assert_at_work()


@pytest.mark.exhaustive
def test_a_member_that_dies_meanwhile_is_waited_for(cluster: Cluster) -> None:
    """The one that is emptied; its guests run on."""
    cluster.c2.launch("a")
    world.fill(cluster.c2, "a", 200)
    running = cluster.herder.start(*EVACUATE)
    host.wait_until("the first pass", lambda: world.has_migrated(cluster.c1), seconds=60)
    cluster.c2.kill()
    cluster.c2.start()
    bring_back(cluster.members)
    running.wait().ended(DONE)
    assert (cluster.instances()["a"][1], cluster.member()["status"]) == ("Running", "Evacuated")


def test_what_cannot_be_meant_changes_nothing(cluster: Cluster) -> None:
    """One clear error for each, before anything moves or a member is closed."""
    cluster.c2.launch("stays")
    for words, *arguments in (
        ("no member c9; its members are c1, c2, c3", "evacuate", "cluster:c9"),
        ("no member c9; its members are c1, c2, c3", "restore", "cluster:c9"),
        ("no majority", "evacuate", "cluster:c1", "cluster:c2"),
        ("c2 cannot take anything", "evacuate", "cluster:c2", "--target", "c2"),
        ("s1 is no cluster", "evacuate", "s1:c2"),
    ):
        assert words in cluster.herder.run(*arguments, "--yes").ended(INPUT).error
    assert cluster.instances() == {"stays": ("c2", "Running")}
    cluster.assert_at_work()
