"""`herder backup drill`: a backup is proven by starting it, and nothing of that stays but the proof."""

from pathlib import Path
from typing import Any

import pytest

from common.store.keys import Keys
from tests.acceptance import world
from tests.acceptance.story import DONE, FOUND, NOT_ALL, Herder
from tests.acceptance.world import Record, Wish
from tests.lab import Lab, LabServer, host

pytestmark = pytest.mark.lab

POLICIES = """\
policies:
  - name: nightly
    select: {source: s1}
    schedule: {when: "02:00"}
    targets: [{remote: s2, keep: {last: 1}}]
    drill: {schedule: {when: weekly}, command: [sh, -c, "CHECK"], timeout: TIMEOUT, max_age: 40d}
"""
#: What only a clone without any network card but its own loopback, on which nothing else reaches it, can say.
ALONE = "test -s /root/data && test -z $(ls /sys/class/net | grep -v lo)"


@pytest.fixture
def file(s1: LabServer, s2: LabServer, herder: Herder, home: Path) -> Path:  # noqa: ARG001 - it must be there
    """A policy that has backed ``web`` up from s1 onto s2, and how its backups are drilled."""
    config = {"boot.autostart": "true", "limits.memory": "256MiB"}
    world.make(s1, Wish(name="web", config=config, files={"/root/data": "data"}))
    made = home / "policies.yaml"
    made.write_text(POLICIES.replace("CHECK", ALONE).replace("TIMEOUT", "30s"))
    herder.run("backup", "run", str(made)).ended(DONE)
    return made


def generation(s2: LabServer) -> Record:
    """The one that there is."""
    (found,) = [each for each in world.listing(s2) if "user.herder-backup-at" in each["config"]]
    return found


def drills(herder: Herder) -> Any:
    (found,) = herder.run("backup", "list", "s2:", "--json").ended(DONE).json
    return found["drill"]


def all_that_is_there(s2: LabServer) -> set[str]:
    return {each["name"] for each in world.listing(s2)}


def test_a_backup_proves_itself_alone_and_keeps_only_the_proof(s2: LabServer, herder: Herder, file: Path) -> None:
    """Good, then with a command that hangs, then good again; the status tells, and a later night keeps the proof."""
    before, files = all_that_is_there(s2), world.tree(world.rootfs(s2, generation(s2)["name"]))
    herder.run("backup", "drill", "--file", str(file), "--json").ended(DONE)
    assert drills(herder)["succeeded"]
    assert drills(herder)["running_after"] >= 0

    sleeps = ("--command", "sleep 60", "--timeout", "1s", "--json")
    failed = herder.run("backup", "drill", "s1:web", *sleeps).ended(NOT_ALL)
    ((job,),) = [report["jobs"] for report in failed.json]
    assert job["state"] == "parked"
    assert "the backup of s1:default/web, has failed its drill: sleep 60: it has not ended" in job["error"]["message"]
    assert drills(herder)["succeeded"] is False
    told = herder.run("backup", "status", str(file)).ended(FOUND)
    assert "UNPROVEN" in told.out
    assert all_that_is_there(s2) == before
    assert world.tree(world.rootfs(s2, generation(s2)["name"])) == files

    herder.run("backup", "drill", "nightly", "--from", "s2:", "--command", "test -s /root/data").ended(DONE)
    herder.run("backup", "run", str(file)).ended(DONE)
    assert drills(herder)["succeeded"]
    assert drills(herder)["generation"] != generation(s2)["name"]
    (status,) = herder.run("backup", "status", str(file), "--json").ended(DONE).json
    assert (status["is_unproven"], status["drill"]) == (False, drills(herder))


@pytest.fixture
def stranger(lab: Lab, home: Path, redis_url: str, keys: Keys) -> Herder:
    """Another user, whose Redis knows nothing of what herder does: as if it had been emptied."""
    (home / "stranger").mkdir()
    return Herder.of(lab, home / "stranger").having(HERDER_REDIS_URL=redis_url, HERDER_NAMESPACE=keys.namespace)


def clone_that_runs(s2: LabServer) -> str:
    """The name of the clone, as soon as it runs."""
    found: list[str] = []

    def runs() -> bool:
        running = [each for each in world.listing(s2) if each["status"] == "Running"]
        found[:] = [each["name"] for each in running]
        return bool(found)

    host.wait_until("a clone that runs", runs)
    return found[0]


def end_all(home: Path, *words: str) -> None:
    """Kill the processes of this user whose command has all of these words."""
    ours = [each for each in host.processes() if each.environment.get("HOME") == str(home)]
    host.end_all([each for each in ours if set(words) <= set(each.command)])


@pytest.mark.usefixtures("file")
def test_what_dies_in_a_drill_is_carried_on_or_found(
    s2: LabServer, herder: Herder, stranger: Herder, home: Path
) -> None:
    """All workers and the server's daemon: it ends by itself. Redis too: the janitor finds the clone."""
    before = all_that_is_there(s2)
    drill = ("backup", "drill", "s1:web", "--command", "test -e /root/go", "--timeout", "2m", "--json")
    begun = herder.start(*drill)
    clone = clone_that_runs(s2)
    end_all(home, "-m", "workers")
    s2.kill()
    s2.start()
    world.write(s2, clone, "/root/go", "go")
    begun.wait().ended(DONE)
    assert drills(herder)["succeeded"]
    assert all_that_is_there(s2) == before

    begun = herder.start(*drill)
    clone = clone_that_runs(s2)
    end_all(home)
    begun.wait()
    janitor = ("janitor", "s2:", "--json")
    (found,) = stranger.run(*janitor).ended(FOUND).json["found"]
    assert (found["kind"], found["subject"]) == ("drill", clone)
    stranger.run(*janitor, "--fix", "--yes").ended(DONE)
    assert all_that_is_there(s2) == before
