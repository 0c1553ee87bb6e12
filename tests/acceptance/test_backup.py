"""A policy backs instances up night after night; whatever breaks, the generations that were good stay good."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance import world
from tests.acceptance.choke import Choke
from tests.acceptance.nights import Nights
from tests.acceptance.story import NOT_ALL, Herder
from tests.lab import Lab, LabServer, host

pytestmark = pytest.mark.lab


@pytest.fixture
def nights(s1: LabServer, s2: LabServer, d1: LabServer, herder: Herder) -> Nights:
    """Three instances on s1 and a policy that backs them up onto s2 (btrfs) and d1 (dir)."""
    story = Nights({"s1": s1, "s2": s2, "d1": d1}, herder, instances=3, volumes=1)
    story.begin()
    return story


def test_every_generation_that_is_kept_has_the_bytes_of_its_night(nights: Nights, s2: LabServer) -> None:
    """Five nights with changes in between. Targets keep more nights than the source, and no profile, card or device.

    The janitor takes none of it for debris, and an evacuation of the target leaves all of it where it is.
    """
    for _ in range(5):
        nights.day()
        nights.night()
    nights.check()
    nights.herder.run("janitor", "--json").ended(0)
    evacuated = nights.herder.run("evacuate", "s2:", "--to", "d1:", "--yes").ended(0)
    assert "nothing to move" in evacuated.out
    nights.check()
    world.assert_cannot_start(s2, min(record["name"] for record in world.listing(s2)))


def test_an_instance_of_an_earlier_night_comes_back_with_all_that_it_was(nights: Nights, s1: LabServer) -> None:
    """Onto its own server under another name, and onto that after it was lost; files, config, devices and profiles."""
    was = world.get(s1, "web2")
    for _ in range(3):
        nights.day()
        nights.night()
    at = nights.at(1).isoformat()
    nights.herder.run("backup", "restore", "s1:web2", "--at", at, "--as", "older", "--yes").ended(0)
    assert world.tree(world.rootfs(s1, "older")) == nights.was["web2", 1]
    assert world.tree(world.volume_folder(s1, "web2-v1-older")) == nights.was["web2-v1", 1]
    nights.assert_like(s1, "older", was)
    world.stop(s1, "web2")
    world.delete(s1, "web2")
    world.delete_volume(s1, "web2-v1")
    command = ("backup", "restore", "s1:web2", "--from", "d1:", "--keep-addresses", "--yes")
    nights.herder.run(*command).ended(0)
    assert world.tree(world.rootfs(s1, "web2")) == nights.was["web2", 2]
    assert world.tree(world.volume_folder(s1, "web2-v1")) == nights.was["web2-v1", 2]
    assert world.volumes(s1)["web2-v1"]["config"]["user.tier"] == "web2-v1"
    nights.assert_like(s1, "web2", was)
    assert addresses(world.get(s1, "web2")) == addresses(was)
    world.start(s1, "web2")


def addresses(record: world.Record) -> dict[str, str]:
    return {key: value for key, value in record["config"].items() if key.endswith(".hwaddr")}


@pytest.mark.exhaustive
def test_a_whole_server_comes_back_on_one_that_has_nothing_of_it(nights: Nights, s1: LabServer, s2: LabServer) -> None:
    """Everything of s1 as it was that night, on a server that lacks the profile; from the definitions alone.

    With ``--no-profiles`` nothing is needed there, and the source need not answer. Also where the generations are.
    """
    for _ in range(2):
        nights.day()
        nights.night()
    s1.kill()
    every = ("backup", "restore", "s1:", "--at", nights.at(0).isoformat(), "--from", "d1:", "--to", "s2:", "--yes")
    refused = nights.herder.run(*every).ended(2)
    assert "--no-profiles" in refused.error
    nights.herder.run(*every, "--no-profiles").ended(0)
    for name in nights.names:
        assert world.tree(world.rootfs(s2, name)) == nights.was[name, 0]
        assert world.tree(world.volume_folder(s2, f"{name}-v1")) == nights.was[f"{name}-v1", 0]
        assert world.traces_on(s2, name) == []
        assert not any(key.startswith("user.herder-backup") for key in world.get(s2, name)["config"])
    d1_too = ("backup", "restore", "s1:web3", "--from", "d1:", "--to", "d1:", "--no-profiles", "--yes")
    nights.herder.run(*d1_too).ended(0)
    d1 = nights.servers["d1"]
    assert world.tree(world.rootfs(d1, "web3")) == nights.was["web3", 1]
    assert world.traces_on(d1, "web3") == []
    assert not any(key.startswith("user.herder-backup") for key in world.get(d1, "web3")["config"])
    world.start(d1, "web3")
    config = world.get(s2, "web2")["config"]
    assert (config["limits.memory"], config["boot.autostart"]) == ("256MiB", "true")
    world.start(s2, "web2")


@pytest.mark.exhaustive
def test_what_runs_says_before_its_snapshot_is_in_the_backup_and_gone_after_it(
    s1: LabServer, s2: LabServer, d1: LabServer, herder: Herder
) -> None:
    """The hook runs inside what runs, before and after; what is stopped needs none. All targets take one snapshot."""
    hook = {"before": ["echo quiet > /root/quiet", "test -s /root/quiet"], "after": ["rm -f /root/quiet"]}
    nights = Nights({"s1": s1, "s2": s2, "d1": d1}, herder, instances=2, hook=hook)
    nights.begin()
    nights.night()
    for server in (s2, d1):
        made = [each["name"] for each in world.listing(server) if "staging" not in each["name"]]
        told = {name: (world.rootfs(server, name) / "root/quiet").exists() for name in made}
        assert sorted((name.partition("-")[0], is_there) for name, is_there in told.items()) == [
            ("web1", False),
            ("web2", True),
        ]
    assert not (world.rootfs(s1, "web2") / "root/quiet").exists()
    assert len(world.snapshots(s1, "web2")) == 1


@pytest.mark.exhaustive
def test_a_hook_that_fails_leaves_no_snapshot_and_is_taken_back(s1: LabServer, s2: LabServer, herder: Herder) -> None:
    """What it had begun is ended by the lines after; the job is parked with the reason, and nothing was backed up."""
    hook = {"before": ["echo begun > /root/quiet", "false"], "after": ["rm -f /root/quiet"]}
    nights = Nights({"s1": s1, "s2": s2}, herder, instances=2, hook=hook, keep_on={"s2": {"last": 1}})
    nights.begin()
    ran = nights.falls().wait().ended(NOT_ALL)
    states = {job["instance"]: (job["state"], job["error"]) for report in ran.json for job in report["jobs"]}
    assert states["web1"][0] == "done"
    assert states["web2"][0] == "parked"
    assert "hook before" in str(states["web2"][1])
    assert world.snapshots(s1, "web2") == {}
    assert not (world.rootfs(s1, "web2") / "root/quiet").exists()


@pytest.fixture
def choke(s1: LabServer) -> Iterator[Choke]:
    """On the way from s1: a transfer that has carried 4 MiB stands still."""
    with Choke(s1) as made:
        yield made


def held_night(lab: Lab, home: Path, choke: Choke, target: LabServer) -> Nights:
    """One instance, and one good night on the target; the next one has 16 MiB to send."""
    herder = Herder.of(lab, home).having(choke.configuration(lab, home / "conf"))
    story = Nights({"s1": choke.server, target.name: target}, herder, instances=1, keep_on={target.name: {"last": 3}})
    story.begin()
    story.night()
    world.start(choke.server, "web1")
    world.fill(choke.server, "web1", 16, path="/root/more")
    world.stop(choke.server, "web1")
    return story


def _kill_target(target: LabServer, _: Path) -> None:
    target.kill()


def _kill_worker(_: LabServer, home: Path) -> None:
    """All of the command's; it starts others."""
    ours = [each for each in host.processes() if each.environment.get("HOME") == str(home)]
    host.end_all([each for each in ours if "workers" in each.command and "-m" in each.command])


@pytest.mark.exhaustive
@pytest.mark.parametrize("disaster", [_kill_target, _kill_worker], ids=lambda each: each.__name__)
@pytest.mark.parametrize("target", ["s2", "d1"], indirect=True)
def test_what_dies_in_the_middle_of_a_night_harms_no_earlier_one_and_the_night_is_made(
    lab: Lab, home: Path, choke: Choke, target: LabServer, disaster: Callable[[LabServer, Path], None]
) -> None:
    """The target's daemon, or all workers, while the delta is under way: nobody has to do anything."""
    nights = held_night(lab, home, choke, target)
    night = nights.falls()
    choke.wait_held()
    disaster(target, home)
    good = next(each for each in target.lxd_dir.glob("storage-pools/default/containers/*/rootfs") if is_good(each))
    assert world.tree(good) == nights.was["web1", 0]
    choke.release()
    target.start()
    nights.ends(night)
    nights.check()
    nights.day()
    nights.night()
    nights.check()


@pytest.fixture
def target(request: pytest.FixtureRequest) -> LabServer:
    """The server of this name."""
    found: LabServer = request.getfixturevalue(request.param)
    return found


def is_good(path: Path) -> bool:
    """Whether it is a generation's."""
    return "staging" not in path.parent.name


def test_a_quiet_day_costs_next_to_nothing_between_btrfs_pools(
    lab: Lab, home: Path, choke: Choke, s2: LabServer
) -> None:
    """Of 18 MiB that have not changed less than 4 MiB are sent, or the transfer would stand still."""
    nights = held_night(lab, home, choke, s2)
    night = nights.falls()
    choke.wait_held()
    choke.release()
    nights.ends(night)
    with Choke(choke.server) as narrow:
        conf = narrow.configuration(lab, home / "narrow")
        quiet = Nights(nights.servers, nights.herder.having(conf), 1, keep_on=nights.keep_on, was=nights.was, nights=2)
        quiet.night()
        assert narrow.held == 0
    quiet.check()
