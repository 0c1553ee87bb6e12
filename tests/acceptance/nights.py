"""`python -m tests.acceptance.nights`: nights of backups of real containers that change by day.

Every night runs the policy with the command that a user types, onto a target with a btrfs pool and one with a dir
pool, which keep more nights than the source. At the end every generation that the policy keeps has the bytes of its
night, those and no others are there, and nothing of herder's is left where it does not belong. The last line of the
output is JSON, for programs. Run from the root of the checkout, as root; every other instance and volume on these
servers of the lab is deleted.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from tests.acceptance import world
from tests.acceptance.story import DONE, Herder, Running
from tests.acceptance.world import Record, Tree, Wish
from tests.lab import Lab, LabServer

FIRST_NIGHT = datetime(2026, 11, 2, 2, 0, tzinfo=UTC)
#: By a rule of a policy: what a night has in common with those of which only the newest is kept.
_GROUPS: Mapping[str, Callable[[datetime], object]] = {
    "last": lambda at: at,
    "daily": lambda at: at.date(),
    "weekly": lambda at: at.isocalendar()[:2],
    "monthly": lambda at: (at.year, at.month),
}
STATE, OF, AT = "user.herder-backup-state", "user.herder-backup-of", "user.herder-backup-at"
SOURCE, TARGETS = "s1", ("s2", "d1")


@dataclass
class Nights:
    """A source with instances, its targets, and what each instance was in each night."""

    servers: Mapping[str, LabServer]
    herder: Herder
    instances: int
    volumes: int = 0  # of each instance
    keep: int = 2  # nights on the source
    keep_on: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: {"s2": {"last": 4}, "d1": {"last": 3}})
    hook: Mapping[str, list[str]] = field(default_factory=dict)
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    was: dict[tuple[str, int], Tree] = field(default_factory=dict)  # of an instance or a volume, in a night
    sent: dict[tuple[str, str, int], int] = field(default_factory=dict)
    nights: int = 0

    @property
    def names(self) -> list[str]:
        return [f"web{number}" for number in range(1, self.instances + 1)]

    def shelves(self, name: str) -> list[str]:
        """The custom volumes of an instance."""
        return [f"{name}-v{number}" for number in range(1, self.volumes + 1)]

    @property
    def source(self) -> LabServer:
        return self.servers[SOURCE]

    @property
    def file(self) -> Path:
        """The policy file."""
        return self.herder.home / "policies.yaml"

    def begin(self) -> None:
        """Instances, the first of them stopped, one with a profile that no target has; and the policy."""
        self.source.query("POST", "/1.0/profiles", {"name": "limited", "config": {"limits.memory": "256MiB"}})
        for number, name in enumerate(self.names):
            profiles = ("default", "limited") if number == 1 else ("default",)
            config = {"boot.autostart": "true"} if number else {}
            devices = {}
            for volume in self.shelves(name):
                world.make_volume(self.source, volume, description=f"of {name}", **{"user.tier": volume})
                devices[volume] = {"type": "disk", "pool": "default", "source": volume, "path": f"/mnt/{volume}"}
            world.make(self.source, Wish(name=name, profiles=profiles, config=config, devices=devices))
            world.fill(self.source, name, 2)
        world.stop(self.source, self.names[0])
        targets = [{"remote": name, "keep": dict(keep)} for name, keep in self.keep_on.items()]
        policy: dict[str, Any] = {
            "name": "nightly",
            "select": {"source": SOURCE},
            "schedule": {"when": "02:00"},
            "targets": targets,
            "keep": {"last": self.keep},
            "hook": dict(self.hook),
        }
        self.file.write_text(yaml.safe_dump({"policies": [policy]}))

    def at(self, night: int) -> datetime:
        """The due moment of a night."""
        return FIRST_NIGHT + timedelta(days=night)

    def day(self) -> None:
        """What the instances do by day: files come, change and go; some have a quiet day."""
        for name in self.names:
            what, path, text = self._change()
            if what == "write":
                world.write(self.source, name, path, text)
            elif what == "remove":
                (world.rootfs(self.source, name) / path.lstrip("/")).unlink(missing_ok=True)
            for volume in self.shelves(name):
                what, path, text = self._change()
                file = world.volume_folder(self.source, volume) / Path(path).name
                if what == "write":
                    file.write_text(text)
                elif what == "remove":
                    file.unlink(missing_ok=True)

    def _change(self) -> tuple[str, str, str]:
        what = self.dice.choice(["write", "write", "remove", "quiet"])
        path = f"/srv/file{self.dice.randint(1, 3)}"
        return what, path, f"{self.dice.random()} of night {self.nights}\n" * 100

    def night(self) -> None:
        """One run of the policy, to its end."""
        self.ends(self.falls())

    def falls(self) -> Running:
        """A run begins; what the instances are is noted before."""
        for name in self.names:
            self.was[name, self.nights] = world.tree(world.rootfs(self.source, name))
            for volume in self.shelves(name):
                self.was[volume, self.nights] = world.tree(world.volume_folder(self.source, volume))
        return self.herder.start("backup", "run", str(self.file), "--at", self.at(self.nights).isoformat(), "--json")

    def ends(self, run: Running) -> None:
        """The run has made all backups."""
        for report in run.wait().ended(DONE).json:
            for job in report["jobs"]:
                self.sent[job["instance"], job["target"], self.nights] = job["bytes"]
        self.nights += 1

    def assert_like(self, server: LabServer, name: str, was: Record) -> None:
        """It is stopped, free to start, and made of the same config, devices and profiles but for its root disk's."""
        now = world.get(server, name)
        assert (now["status"], now["profiles"], now["description"]) == ("Stopped", was["profiles"], was["description"])
        assert _own(now) == _own(was)
        ending = "" if name in self.names else f"-{name}"  # beside the one that it was
        devices = {n: {**d, "source": f"{d['source']}{ending}"} for n, d in was["devices"].items()}
        assert {n: d for n, d in now["devices"].items() if n != "root"} == devices
        assert world.traces_on(server, name) == []

    def check(self) -> None:
        """Everything that was promised is there, and nothing else."""
        for target in self.keep_on:
            self._check_target(self.servers[target], self.kept_on(target))
        for name in self.names:
            kept = range(max(0, self.nights - self.keep), self.nights)
            wanted = {f"herder-nightly-{self.at(night):%Y%m%d-%H%M%S}" for night in kept}
            assert set(world.snapshots(self.source, name)) == wanted, name
            for volume in self.shelves(name):
                assert world.volume_snapshots(self.source, volume) == wanted, volume
        assert world.volumes(self.source).keys() == {v for name in self.names for v in self.shelves(name)}
        expected = {name: "Stopped" if name == self.names[0] else "Running" for name in self.names}
        assert {name: world.status(self.source, name) for name in self.names} == expected

    def kept_on(self, target: str) -> list[int]:
        """The nights that a target has by now: of each of the newest days, weeks and months the newest night."""
        found: set[int] = set()
        for rule, count in self.keep_on[target].items():
            newest = {_GROUPS[rule](self.at(night)): night for night in range(self.nights)}
            found |= set(sorted(newest.values())[-count:])
        return sorted(found)

    def _check_target(self, target: LabServer, kept: list[int]) -> None:
        # What LXD cannot delete any more of a broken staging copy is set aside, and reported by the job.
        records = [each for each in world.listing(target) if each["name"] not in world.wrecks(target)]
        complete = {
            (record["config"][OF], datetime.fromisoformat(record["config"][AT])): record
            for record in records
            if record["config"][STATE] == "complete"
        }
        wanted = {(f"{SOURCE}:default/{name}", self.at(night)) for name in self.names for night in kept}
        assert complete.keys() == wanted, target.name
        assert len(records) == len(wanted) + len(self.names)  # and a staging copy of each
        for name in self.names:
            for night in kept:
                record = complete[f"{SOURCE}:default/{name}", self.at(night)]
                there = world.tree(world.rootfs(target, record["name"]))
                assert there == self.was[name, night], (target.name, name, night)
                for volume, folder in self.kept_volumes(target, record).items():
                    assert world.tree(folder) == self.was[volume, night], (target.name, volume, night)
        assert len(world.volumes(target)) == len(wanted) * self.volumes, target.name
        assert not any(each["used_by"] for each in world.volumes(target).values()), target.name
        for record in records:
            assert record["status"] == "Stopped", record["name"]
            assert record["profiles"] == [], record["name"]
            assert set(record["devices"]) == {"root", "herder-guard"}, record["name"]
            assert not any(".hwaddr" in key for key in record["config"]), record["name"]

    def kept_volumes(self, target: LabServer, record: Record) -> dict[str, Path]:
        """Where the volumes beside a generation are, by the names that they have on the source."""
        told = json.loads(record["config"]["user.herder-backup-definition"])["volumes"]
        found = {each["name"]: world.volume_folder(target, each["kept_as"]) for each in told}
        assert sorted(found) == self.shelves(record["config"][OF].rpartition("/")[2])
        return found


def _own(record: Record) -> dict[str, str]:
    return {key: value for key, value in record["config"].items() if not key.startswith("volatile.")}


def main() -> int:
    """Run the nights that the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.nights")
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--instances", type=int, default=8)
    parser.add_argument("--volumes", type=int, default=2, help="of each instance")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    lab = Lab.up([SOURCE, *TARGETS])
    servers = {name: lab.servers[name] for name in (SOURCE, *TARGETS)}
    for server in servers.values():
        world.strip(server)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hn", dir="/tmp") as home:
        story = Nights(
            servers,
            Herder.of(lab, Path(home)),
            arguments.instances,
            arguments.volumes,
            keep=3,
            keep_on={"s2": {"daily": 7, "weekly": 3, "monthly": 2}, "d1": {"last": 2, "daily": 5, "weekly": 4}},
            dice=random.Random(arguments.seed),
        )
        story.begin()
        for _ in range(arguments.nights):
            story.day()
            story.night()
            print(f"night {story.nights}: {time.monotonic() - began:.0f} s", flush=True)
        story.check()
        kept = {target: len(story.kept_on(target)) * arguments.instances for target in story.keep_on}
    for server in servers.values():
        world.strip(server)
    told = {
        "nights": arguments.nights,
        "instances": arguments.instances,
        "volumes": arguments.instances * arguments.volumes,
        "generations": kept,
        "seconds": round(time.monotonic() - began),
        "bytes_sent": sum(story.sent.values()),
    }
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
