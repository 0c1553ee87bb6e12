"""An operator empties a server, moves single instances, and has the words of ``lxc move``."""

from pathlib import Path

import pytest
import yaml

from tests.acceptance import world
from tests.acceptance.story import DONE, INPUT, NOT_ALL, Herder
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.bench import writer
from tests.lab import Lab, LabServer, host

pytestmark = pytest.mark.lab

REPORT_KEYS = {"plan", "state", "started_at", "finished_at", "totals", "jobs"}
TOTAL_KEYS = {"jobs", "done", "failed", "parked", "bytes", "downtime_p50_s", "downtime_p99_s"}
JOB_KEYS = {
    *("instance", "project", "source", "target", "method", "state", "phase", "step", "blocked_on", "error"),
    *("attempts", "passes", "bytes", "downtime_s", "started_at", "finished_at"),
}
ERROR_KEYS = {"code", "message", "hint"}


def rich_instances(bridge: str) -> list[Wish]:
    """Instances that use what an owner may use."""
    return [
        Wish(
            name="web",
            description="the shop's front",
            profiles=("default", "team"),
            config={
                "boot.autostart": "true",
                "boot.autostart.priority": "7",
                "security.protection.delete": "true",
                "environment.FOO": "bar baz",
                "user.owner": "ann",
                "limits.memory": "128MiB",
            },
            devices={
                "eth1": {"type": "nic", "nictype": "bridged", "parent": bridge, "hwaddr": "00:16:3e:aa:bb:01"},
                "data": {"type": "disk", "pool": "default", "source": "data", "path": "/data"},
            },
            files={"/srv/index.html": "<h1>hello</h1>", "/root/secret": "s3cret"},
        ),
        Wish(name="db", config={"user.tier": "db", "limits.processes": "200"}, files={"/var/db/rows": "1\n2\n3\n"}),
        Wish(name="cache", config={"security.nesting": "true"}),
        Wish(name="masked", devices={"eth0": {"type": "none"}}),
        Wish(name="archive", config={"user.kept": "yes"}, files={"/srv/old": "1999"}, is_started=False),
    ]


@pytest.fixture
def furnished(s1: LabServer, s2: LabServer) -> tuple[LabServer, LabServer]:
    """Source and target, both with a profile ``team``; the source has a custom volume ``data``, too."""
    profile = {"name": "team", "config": {"user.team": "shop"}, "devices": {}}
    for server in (s1, s2):
        server.query("POST", "/1.0/profiles", profile)
    s1.query("POST", "/1.0/storage-pools/default/volumes/custom", {"name": "data", "type": "custom"})
    return s1, s2


def test_an_evacuation_moves_every_instance_and_keeps_it_what_it_was(
    lab: Lab, furnished: tuple[LabServer, LabServer], herder: Herder
) -> None:
    """Files, config, devices, profiles, addresses and snapshots are the same on the target, and what ran runs there.

    At no moment does it run on both. Nothing of herder's is left on the target. The sources are kept and cannot start,
    not even by a restart of their daemon, although one of them starts at boot.
    """
    s1, s2 = furnished
    wishes = rich_instances(lab.bridge)
    for wish in wishes:
        world.make(s1, wish)
    for moment in ("monday", "tuesday"):
        world.write(s1, "web", "/srv/today", moment)
        world.take_snapshot(s1, "web", moment)
        world.take_snapshot(s1, "archive", moment)
    world.fill(s1, "db", 24)
    before = {wish.name: world.get(s1, wish.name) for wish in wishes}
    taken = {wish.name: world.snapshots(s1, wish.name) for wish in wishes}

    with NeverTwice(s1, s2):
        report = herder.run("evacuate", "s1:", "--to", "s2:", "--yes", "--json").ended(DONE).json

    for name, was in before.items():
        now = world.get(s2, name)
        assert now["status"] == was["status"], name
        assert world.owners_config(now) == world.owners_config(was), name
        assert now["devices"] == was["devices"], name
        assert (now["profiles"], now["description"]) == (was["profiles"], was["description"]), name
        assert world.snapshots(s2, name) == taken[name], name
        assert world.tree(world.rootfs(s2, name)) == world.tree(world.rootfs(s1, name)), name
    for name in ("web", "archive"):
        on_source, on_target = (world.tree(world.rootfs(server, name, snapshot="monday")) for server in furnished)
        assert on_source == on_target
    assert (world.rootfs(s2, "web", snapshot="monday") / "srv/today").read_text() == "monday"
    assert world.traces(s2) == []
    assert {name: world.snapshots(s1, name) for name in before} == taken

    world.restart_daemon(s1)
    for name in before:
        assert world.status(s1, name) == "Stopped"
        world.assert_cannot_start(s1, name)

    assert report.keys() >= REPORT_KEYS
    assert report["totals"].keys() >= TOTAL_KEYS
    assert (report["state"], report["totals"]["jobs"], report["totals"]["done"]) == ("done", 5, 5)
    assert (report["totals"]["failed"], report["totals"]["parked"]) == (0, 0)
    assert report["started_at"] < report["finished_at"]
    assert 0 < report["totals"]["downtime_p50_s"] <= report["totals"]["downtime_p99_s"]
    jobs = {job["instance"]: job for job in report["jobs"]}
    assert jobs.keys() == before.keys()
    for name, job in jobs.items():
        assert job.keys() >= JOB_KEYS
        assert (job["project"], job["source"], job["target"]) == ("default", "s1", "s2")
        assert (job["state"], job["error"], job["blocked_on"]) == ("done", None, "")
        assert job["started_at"] < job["finished_at"]
        assert (job["method"], job["downtime_s"] is None) == (("cold", True) if name == "archive" else ("warm", False))
    assert jobs["archive"]["passes"] == 1
    assert all(jobs[name]["passes"] >= 2 for name in jobs if name != "archive")


def test_a_plan_is_reviewed_then_run_and_running_it_again_changes_nothing(
    s1: LabServer, s2: LabServer, herder: Herder, home: Path
) -> None:
    """`plan` moves nothing; `run` carries the file out; `status`, `report` and `watch` tell the same of it."""
    world.make(s1, Wish(name="one"))
    world.make(s1, Wish(name="two", is_started=False))
    untouched = world.picture(s1), world.picture(s2)
    file = str(home / "plan.yaml")

    told = herder.run("plan", "evacuate", "s1:", "--to", "s2:", "--output", file).ended(DONE).out
    assert all(word in told for word in ("one", "two", "warm", "cold", "the only target"))
    assert (world.picture(s1), world.picture(s2)) == untouched

    first = herder.run("run", file, "--yes", "--json").ended(DONE).json
    assert {job["instance"]: job["state"] for job in first["jobs"]} == {"one": "done", "two": "done"}
    moved = world.picture(s1), world.picture(s2)

    again = herder.run("run", file, "--yes", "--json").ended(DONE).json
    assert again == first
    assert (world.picture(s1), world.picture(s2)) == moved

    assert herder.run("status", "--json").ended(DONE).json == [first]
    assert herder.run("report", first["plan"], "--json").ended(DONE).json == first
    assert "2 of 2 done" in herder.run("report", first["plan"]).ended(DONE).out
    assert "2 of 2 done" in herder.run("watch", first["plan"]).ended(DONE).out
    assert first["plan"] in herder.run("status").ended(DONE).out


@pytest.mark.exhaustive
@pytest.mark.parametrize("change", ["stopped", "made anew", "gone", "other devices"])
def test_a_plan_whose_servers_have_changed_since_is_refused(
    s1: LabServer, s2: LabServer, herder: Herder, home: Path, change: str
) -> None:
    world.make(s1, Wish(name="drifts"))
    file = str(home / "plan.yaml")
    herder.run("plan", "evacuate", "s1:", "--to", "s2:", "-o", file).ended(DONE)

    if change == "other devices":
        s1.lxc("config", "device", "add", "drifts", "eth7", "none")
    else:
        world.stop(s1, "drifts")
    if change in ("made anew", "gone"):
        world.delete(s1, "drifts")
    if change == "made anew":
        world.make(s1, Wish(name="drifts"))
    as_it_is = world.picture(s1), world.picture(s2)

    error = herder.run("run", file, "--yes").ended(INPUT).error
    assert file in error
    assert "herder plan" in error
    assert (world.picture(s1), world.picture(s2)) == as_it_is


def test_a_request_file_says_which_instances_go_and_how(
    s1: LabServer, s2: LabServer, d1: LabServer, herder: Herder, home: Path
) -> None:
    """Two of four match; one of those is bound for each of two targets; the others stay as they are."""
    for name, tier in (("a", "web"), ("b", "web"), ("c", "db"), ("d", "")):
        world.make(s1, Wish(name=name, config={"user.tier": tier} if tier else {}, is_started=name == "a"))
    request = home / "web.yaml"
    request.write_text(
        """
        # Two of the web tier.
        plan: web-away
        select:
          source: s1
          match: {user.tier: w*}
        targets: ["s2:", d1]
        limits: {per_source: 1, per_target: 1, downtime: 500ms}
        stop: {grace: 10s, then: give-back}
        overrides:
          config: {user.moved: true}
        """
    )
    plan = str(home / "plan.yaml")
    herder.run("plan", str(request), "-o", plan).ended(DONE)
    report = herder.run("run", plan, "--yes", "--json").ended(DONE).json

    assert (report["name"], report["totals"]["done"]) == ("web-away", 2)
    assert {job["target"] for job in report["jobs"]} == {"s2", "d1"}
    for job in report["jobs"]:
        target = {"s2": s2, "d1": d1}[job["target"]]
        moved = world.get(target, job["instance"])
        assert moved["status"] == ("Running" if job["instance"] == "a" else "Stopped")
        assert moved["config"]["user.moved"] == "true"
    assert not any("user.herder" in key for name in "cd" for key in world.get(s1, name)["config"])


def test_one_instance_of_a_request_has_what_the_others_do_not(
    s1: LabServer, s2: LabServer, herder: Herder, home: Path
) -> None:
    """In the request file by ``each``, and after review in the plan file at its move."""
    for name in ("a", "b"):
        world.make(s1, Wish(name=name, is_started=name == "a"))
    request, plan = home / "all.yaml", home / "plan.yaml"
    asked = {
        "plan": "all-away",
        "select": {"source": "s1"},
        "targets": ["s2"],
        "overrides": {"config": {"user.moved": "yes", "user.by": "all"}},
        "each": {"a": {"name": "shop", "overrides": {"config": {"user.by": "itself"}}}},
    }
    request.write_text(yaml.safe_dump(asked))
    herder.run("plan", str(request), "-o", str(plan)).ended(DONE)
    reviewed = yaml.safe_load(plan.read_text())
    (move,) = [move for move in reviewed["moves"] if move["instance"] == "b"]
    move["overrides"]["config"]["user.reviewed"] = "true"
    plan.write_text(yaml.safe_dump(reviewed))
    herder.run("run", str(plan), "--yes").ended(DONE)

    config = {name: world.get(s2, name)["config"] for name in ("shop", "b")}
    keys = ("user.moved", "user.by", "user.reviewed")
    assert {name: [each.get(key) for key in keys] for name, each in config.items()} == {
        "shop": ["yes", "itself", None],
        "b": ["yes", "all", "true"],
    }


def test_an_instance_of_another_project_goes_into_a_project_of_another_name(
    s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    """The instance of the same name in the default project stays where it is."""
    s1.query("POST", "/1.0/projects", {"name": "here", "config": world.OWN_NOTHING})
    s2.query("POST", "/1.0/projects", {"name": "there", "config": world.OWN_NOTHING})
    world.make(s1, Wish(name="namesake"))
    world.make(s1, Wish(name="namesake", project="here", files={"/srv/which": "the one in the project"}))
    world.take_snapshot(s1, "namesake", "kept", project="here")

    with NeverTwice(s1, s2):
        asked = ("evacuate", "s1:", "--to", "s2:", "--project", "here", "--target-project", "there", "--yes", "--json")
        report = herder.run(*asked).ended(DONE).json

    assert [(job["instance"], job["project"]) for job in report["jobs"]] == [("namesake", "here")]
    assert world.status(s2, "namesake", project="there") == "Running"
    assert world.status(s1, "namesake", project="here") == "Stopped"
    assert (world.rootfs(s2, "namesake", project="there") / "srv/which").read_text() == "the one in the project"
    assert set(world.snapshots(s2, "namesake", project="there")) == {"kept"}
    assert world.traces(s2) == []
    world.assert_untouched(s1, s2, "namesake")


def test_a_move_takes_the_words_of_lxc_move(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """Another name, project, pool, profile, config and device; what is not named stays as it was."""
    s2.query("POST", "/1.0/projects", {"name": "there", "config": world.OWN_NOTHING})
    s2.query("POST", "/1.0/profiles", {"name": "small", "config": {"limits.processes": "100"}, "devices": {}})
    s2.query("POST", "/1.0/storage-pools", {"name": "other", "driver": "dir"})
    world.make(s1, Wish(name="old", config={"user.keep": "1", "user.change": "1"}, files={"/srv/file": "data"}))
    was = world.get(s1, "old")

    herder.run(
        *("move", "s1:old", "s2:new", "--yes", "--config", "user.change=2", "--config", "limits.memory=64MiB"),
        *("--device", "eth0,hwaddr=00:16:3e:aa:bb:02", "--profile", "default", "--profile", "small"),
        *("--storage", "other", "--target-project", "there", "--stateless", "--mode", "pull"),
    ).ended(DONE)

    now = world.get(s2, "new", project="there")
    assert now["status"] == "Running"
    assert now["profiles"] == ["default", "small"]
    assert now["expanded_devices"]["root"]["pool"] == "other"
    assert now["expanded_devices"]["eth0"] == was["expanded_devices"]["eth0"] | {"hwaddr": "00:16:3e:aa:bb:02"}
    changed = {"user.change": "2", "limits.memory": "64MiB", "user.keep": "1"}
    assert {key: now["config"].get(key) for key in changed} == changed
    assert (world.rootfs(s2, "new", project="there", pool="other") / "srv/file").read_text() == "data"
    assert world.status(s2, "old") == "absent"
    assert world.status(s1, "old") == "Stopped"
    assert world.traces(s2) == []


def test_what_is_named_otherwise_on_the_target_is_mapped(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """Profile, pool and project have other names there; nothing else of the instances is said."""
    s1.query("POST", "/1.0/projects", {"name": "shop", "config": world.OWN_NOTHING})
    s2.query("POST", "/1.0/projects", {"name": "store", "config": world.OWN_NOTHING})
    s1.query("POST", "/1.0/profiles", {"name": "web", "config": {}, "devices": {}})
    s2.query("POST", "/1.0/profiles", {"name": "www", "config": {"user.tier": "web"}, "devices": {}})
    s2.query("POST", "/1.0/storage-pools", {"name": "other", "driver": "dir"})
    world.make(s1, Wish(name="kept", profiles=("default", "web"), files={"/srv/which": "the default project's"}))
    world.make(s1, Wish(name="kept", project="shop", is_started=False))

    asked = ("move", "s1:", "s2:", "--all", "--all-projects", "--yes", "--json")
    wrong = herder.run(*asked, "--map", "profile:webb=www", "--map", "pool:default=ssd").ended(NOT_ALL)
    assert "s2 has no pool ssd; it has default, other" in " ".join(wrong.error.split())
    maps = ("profile:web=www", "pool:default=other", "project:shop=store")
    report = herder.run(*asked, *(part for each in maps for part in ("--map", each))).ended(DONE).json

    assert {job["state"] for job in report["jobs"]} == {"done"}
    now = world.get(s2, "kept")
    assert (now["status"], now["profiles"]) == ("Running", ["default", "www"])
    assert now["expanded_config"]["user.tier"] == "web"
    assert (world.rootfs(s2, "kept", pool="other") / "srv/which").read_text() == "the default project's"
    assert world.get(s2, "kept", project="store")["expanded_devices"]["root"]["pool"] == "other"
    assert world.traces(s2) == []


def test_what_the_target_lacks_is_made_there_if_asked_for(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """Once for all instances that need it, as the source has it: project, pool, bridge, and a profile that names both.

    The default profile of a project that is made is empty at first, and gets what that of the source has.
    """
    project = {"features.images": "false", "features.storage.volumes": "false", "user.owner": "ann"}
    s1.query("POST", "/1.0/projects", {"name": "store", "description": "theirs", "config": project})
    s1.query("PUT", "/1.0/profiles/default?project=store", {"config": {"user.site": "north"}, "devices": {}})
    s1.query("POST", "/1.0/storage-pools", {"name": "fast", "driver": "btrfs", "config": {"size": "512MiB"}})
    bridge = {"ipv4.address": "none", "ipv6.address": "none", "dns.mode": "none"}
    s1.query("POST", "/1.0/networks", {"name": "hcreate0", "type": "bridge", "config": bridge})
    nic = {"type": "nic", "network": "hcreate0", "name": "eth0"}
    devices = {"root": {"type": "disk", "path": "/", "pool": "fast"}, "eth0": nic}
    profile = {"name": "shop", "description": "ours", "config": {"user.tier": "web"}, "devices": devices}
    s1.query("POST", "/1.0/profiles?project=store", profile)
    names = ("one", "two", "three")
    for name in names:
        world.make(s1, Wish(name=name, project="store", profiles=("default", "shop"), is_started=False))
    before = world.picture(s2)
    creates = (f"--create={each}" for each in ("profile", "network", "pool"))
    selected = ("move", "s1:", "s2:", "--all", "--project", "store", "--yes", "--json")
    asked = (*selected, *creates, "--map", "network:hcreate0=hcreate1")
    herder.run(*asked).ended(NOT_ALL)
    assert world.picture(s2) == before

    report = herder.run(*asked, "--create", "project").ended(DONE).json

    assert {job["state"] for job in report["jobs"]} == {"done"}
    made = s2.query("GET", "/1.0/projects/store")
    assert (made["description"], made["config"]["user.owner"]) == ("theirs", "ann")
    assert s2.query("GET", "/1.0/profiles/default?project=store")["config"] == {"user.site": "north"}
    there = s2.query("GET", "/1.0/profiles/shop?project=store")
    assert (there["description"], there["config"]) == ("ours", {"user.tier": "web"})
    assert there["devices"] == {**devices, "eth0": {**nic, "network": "hcreate1"}}
    assert s2.query("GET", "/1.0/networks/hcreate1")["config"].items() >= bridge.items()
    pool = s2.query("GET", "/1.0/storage-pools/fast")
    assert (pool["driver"], pool["config"]["size"]) == ("btrfs", "512MiB")
    assert {world.get(s2, name, project="store")["expanded_devices"]["root"]["pool"] for name in names} == {"fast"}
    assert world.traces(s2) == []


def test_a_cold_move_can_leave_profiles_and_snapshots_behind_and_delete_the_source(
    s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    """Cold though it runs: one pass of the stopped instance. `--retire delete` removes the source in the end."""
    world.make(s1, Wish(name="bare", config={"user.keep": "1"}, files={"/srv/file": "data"}))
    world.take_snapshot(s1, "bare", "left-behind")
    before = world.tree(world.rootfs(s1, "bare"))

    asked = ("move", "s1:bare", "s2:", "--yes", "--json", "--method", "cold", "--no-profiles", "--instance-only")
    with NeverTwice(s1, s2):
        (job,) = herder.run(*asked, "--retire", "delete").ended(DONE).json["jobs"]

    assert (job["method"], job["passes"], job["downtime_s"] > 0) == ("cold", 1, True)
    now = world.get(s2, "bare")
    assert (now["status"], now["profiles"], list(now["devices"])) == ("Running", [], ["root"])
    assert world.snapshots(s2, "bare") == {}
    assert world.tree(world.rootfs(s2, "bare")) == before
    assert world.status(s1, "bare") == "absent"
    assert world.traces(s2) == []


def test_a_target_that_is_not_well_waits_for_a_person_with_its_source_kept(
    s1: LabServer, s2: LabServer, herder: Herder, home: Path
) -> None:
    """The health command fails after the commit point: the job is parked, and there is no way back.

    Once the instance is mended on the target, `retry` goes on from there. One whose command succeeds is not held up.
    """
    world.make(s1, Wish(name="well", files={"/srv/well": ""}))
    world.make(s1, Wish(name="sick"))
    request = home / "request.yaml"
    health = {"command": ["test", "-e", "/srv/well"], "timeout": "1s"}
    request.write_text(
        yaml.safe_dump({"plan": "checked", "select": {"source": "s1"}, "targets": ["s2"], "health": health})
    )
    plan = str(home / "plan.yaml")
    herder.run("plan", str(request), "-o", plan).ended(DONE)

    report = herder.run("run", plan, "--yes", "--json").ended(NOT_ALL).json
    jobs = {job["instance"]: job for job in report["jobs"]}
    assert (report["state"], report["totals"]["parked"], report["totals"]["failed"]) == ("failed", 1, 1)
    assert (jobs["well"]["state"], jobs["sick"]["state"]) == ("done", "parked")
    assert jobs["sick"]["error"].keys() == ERROR_KEYS
    assert jobs["sick"]["error"]["code"] == "verification_failed"
    assert "test -e /srv/well" in jobs["sick"]["error"]["message"]
    assert f"herder retry {jobs['sick']['job']}" in jobs["sick"]["error"]["hint"]
    assert (world.status(s1, "sick"), world.status(s2, "sick")) == ("Stopped", "Running")
    world.assert_cannot_start(s1, "sick")

    (answer,) = herder.run("cancel", jobs["sick"]["job"], "--json").ended(NOT_ALL).json["answers"]
    assert "past the commit point" in answer["refused"]
    assert (world.status(s1, "sick"), world.status(s2, "sick")) == ("Stopped", "Running")

    world.write(s2, "sick", "/srv/well", "")
    herder.run("retry", jobs["sick"]["job"]).ended(DONE)
    for name in jobs:
        world.assert_moved(s1, s2, name)


def test_a_guest_that_does_not_shut_down_stays_where_it_is_if_the_plan_says_so(
    s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    """Both are parked while they run on the source as ever.

    One is cancelled, which leaves nothing; Incus has to be restarted first, and herder says so. The other is shut down
    by hand and moves at the next try; it stays stopped, as the hand left it.
    """
    for name in ("left", "gone"):
        world.make(s1, Wish(name=name, image="stubborn"))
    started = {name: world.get(s1, name)["last_used_at"] for name in ("left", "gone")}

    asked = ("evacuate", "s1:", "--to", "s2:", "--yes", "--json", "--grace", "2s", "--stop-then", "give-back")
    report = herder.run(*asked).ended(NOT_ALL).json

    jobs = {job["instance"]: job for job in report["jobs"]}
    for name, job in jobs.items():
        assert (job["state"], job["error"]["code"]) == ("parked", "stop_refused")
        assert "herder retry" in job["error"]["hint"]
        assert job["downtime_s"] is None
        assert world.runs(s1, name)
        assert world.get(s1, name)["last_used_at"] == started[name]
        assert world.status(s2, name) == "Stopped"
        world.assert_cannot_start(s2, name)

    herder.cancel_a_refused_stop(jobs["left"]["job"], s1)
    world.assert_untouched(s1, s2, "left")

    world.stop(s1, "gone")
    herder.run("retry", jobs["gone"]["job"])
    assert (world.status(s1, "gone"), world.status(s2, "gone")) == ("Stopped", "Stopped")
    world.assert_cannot_start(s1, "gone")
    assert world.traces(s2) == []
    world.start(s2, "gone")


def test_a_guest_that_does_not_shut_down_is_forced_after_its_grace(
    s1: LabServer, s2: LabServer, herder: Herder
) -> None:
    """The grace is the instance's own `boot.host_shutdown_timeout` if none is given."""
    world.make(s1, Wish(name="forced", image="stubborn", config={"boot.host_shutdown_timeout": "1"}))
    world.fill(s1, "forced", 2)
    data = world.checksum(world.rootfs(s1, "forced") / "root/data")
    with NeverTwice(s1, s2):
        herder.run("evacuate", "s1:", "--to", "s2:", "--yes").ended(DONE)
    world.assert_moved(s1, s2, "forced", data=data)


@pytest.mark.exhaustive
@pytest.mark.parametrize("target", ["s2", "d1"])
@pytest.mark.usefixtures("s2", "d1")
def test_a_writing_instance_with_snapshots_goes_there_and_back_and_there_again(
    lab: Lab, s1: LabServer, herder: Herder, target: str
) -> None:
    """Every line that it has written is there after each hop, and so are its owner's snapshots.

    The owner takes the retired source out of the way of the next hop. From the second hop on, a btrfs server does not
    know the snapshots again, which makes a refresh impossible: then all is sent again.
    """
    servers = lab.servers
    world.make(s1, Wish(name="rover", files={writer.SCRIPT_PATH: writer.script(0.05)}))
    for number in ("one", "three"):  # of different lengths: rsync would not see a change within one second otherwise
        world.write(s1, "rover", "/srv/number", number)
        world.take_snapshot(s1, "rover", number)
    taken = world.snapshots(s1, "rover")

    here = "s1"
    for there in (target, "s1", target):
        with NeverTwice(servers[here], servers[there]):
            herder.run("move", f"{here}:rover", f"{there}:", "--yes").ended(DONE)
        world.assert_moved(servers[here], servers[there], "rover")
        last_words, log = (world.rootfs(servers[each], "rover") / writer.LOG_PATH[1:] for each in (here, there))
        said = last_words.read_bytes()
        host.wait_until("a line written after the move", lambda: log.stat().st_size > len(said))  # noqa: B023
        assert log.read_bytes().startswith(said)
        assert world.snapshots(servers[there], "rover") == taken
        for number in taken:
            kept = world.rootfs(servers[there], "rover", snapshot=number) / "srv/number"
            assert kept.read_text() == number
        world.delete(servers[here], "rover")
        here = there


def test_what_is_not_refused_can_move_alone(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    world.make(s1, Wish(name="free"))
    world.make(s1, Wish(name="taken", is_started=False))
    world.make(s2, Wish(name="taken", is_started=False))
    before = world.get(s1, "taken"), world.get(s2, "taken")

    asked = ("evacuate", "s1:", "--to", "s2:", "--yes", "--json", "--skip-refused")
    report = herder.run(*asked).ended(NOT_ALL).json

    assert [refused["instance"] for refused in report["refused"]] == ["taken"]
    world.assert_moved(s1, s2, "free")
    assert (world.get(s1, "taken"), world.get(s2, "taken")) == before
