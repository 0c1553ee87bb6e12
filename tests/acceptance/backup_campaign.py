"""`python -m tests.acceptance.backup_campaign`: nights of backups of real containers under fire.

In each night, run with the command that a user types, things die or break at moments of their own: a worker, Redis, the
daemon of the source or of a target, all connections between the servers, or a target's pool is full. Right after each
blow the newest generations of the nights before are looked at, on disk, as nobody may touch them; after the night
every promise of `nights` is checked, and one generation is restored and compared. The last line of the output is
JSON, for programs. Run from the root of the checkout, as root; every other instance on these servers of the lab is
deleted.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from os import posix_fallocate
from pathlib import Path

from tests.acceptance import campaign, world
from tests.acceptance.campaign import Front
from tests.acceptance.choke import changed_configuration
from tests.acceptance.nights import AT, OF, STATE, Nights
from tests.acceptance.story import DONE, NOT_ALL, UNREACHABLE, Herder, Running
from tests.acceptance.world import Tree
from tests.lab import Lab, LabServer
from tests.lab.wire import Wire

KEEP = {"s2": {"last": 4}, "d1": {"last": 3}}
_BLOWS_A_NIGHT = 3
_MIB = 1024**2


@dataclass
class Siege:
    """What a night stands: its servers, its command, and the wire by which the targets reach the source."""

    nights: Nights
    wire: Wire
    run: Running
    dice: random.Random
    tally: "Tally"

    @property
    def front(self) -> Front:
        """As evacuations under fire have it; the target is one of them."""
        target = self.nights.servers[self.dice.choice(list(KEEP))]
        return Front(self.nights.source, target, self.nights.herder, self.run)


def _kill(kill: Callable[[Front], None], siege: Siege) -> None:
    kill(siege.front)


def cut_wire(siege: Siege) -> None:
    """All transfers break."""
    siege.wire.cut()


def fill_pool(siege: Siege) -> None:
    """That of s2 has no room for a second; whoever is parked for it is tried again after the night."""
    with occupied(siege.nights.servers["s2"]):
        time.sleep(siege.dice.uniform(0.5, 3))


@contextmanager
def occupied(server: LabServer) -> Iterator[None]:
    """A file takes all space of the pool but a little."""
    file = server.lxd_dir / "storage-pools" / "default" / "in-the-way"
    try:
        with file.open("wb") as taken:
            size, piece = 0, 1024 * _MIB
            while piece > _MIB:  # somebody else writes meanwhile
                try:
                    posix_fallocate(taken.fileno(), size, piece)
                    size += piece
                except OSError:
                    piece //= 2
        yield
    finally:
        file.unlink()


BLOWS: dict[str, Callable[[Siege], None]] = {
    **{name: partial(_kill, kill) for name, kill in campaign.KILLS.items()},
    "cut": cut_wire,
    "full": fill_pool,
}


@dataclass
class Tally:
    """What all nights came to."""

    nights: int = 0
    blows: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    restored: int = 0
    retried: int = 0
    begun_again: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Stand the nights and print; a broken promise ends it with its traceback."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.backup_campaign", description=__doc__)
    parser.add_argument("--blows", type=int, default=200, help="in all (default: %(default)s)")
    parser.add_argument("--instances", type=int, default=3)
    parser.add_argument("--volumes", type=int, default=1, help="of each instance (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the moments (default: random)")
    chosen = parser.parse_args(arguments)
    lab = Lab.up(["s1", *KEEP])
    what = f"{chosen.instances} instances with {chosen.volumes} volumes each"
    print(f"seed {chosen.seed}: {chosen.blows} blows, {what}", flush=True)
    with tempfile.TemporaryDirectory(prefix="hb", dir="/tmp") as home:
        dice = random.Random(chosen.seed)
        tally = stand(lab, Path(home), chosen.blows, chosen.instances, dice, volumes=chosen.volumes)
    print(json.dumps(vars(tally) | {"blows": dict(tally.blows), "harmed": 0}))
    return 0


def stand(lab: Lab, home: Path, blows: int, instances: int, dice: random.Random, *, volumes: int) -> Tally:
    """A first night in peace, then nights under fire. Raises AssertionError if a promise is broken."""
    servers = {name: lab.servers[name] for name in ("s1", *KEEP)}
    for server in servers.values():
        world.strip(server)
    tally = Tally()
    story = Nights(servers, Herder.of(lab, home), instances, volumes, keep_on=KEEP, dice=dice)
    story.begin()
    story.night()
    while tally.blows.total() < blows:
        began, before = time.monotonic(), tally.blows.copy()
        with Wire(servers["s1"]) as wire:
            conf = changed_configuration(lab, home / f"conf-{story.nights}", {"s1": {"addr": wire.address}})
            story.herder = Herder(home, conf)
            _night(story, wire, dice, tally)
            _restore(story, dice, tally)
        tally.nights += 1
        told = ", ".join(f"{kind} x{count}" for kind, count in (tally.blows - before).items())
        print(f"night {story.nights}: {told}: {time.monotonic() - began:.1f} s", flush=True)
    for server in servers.values():
        world.strip(server)
    return tally


def _night(story: Nights, wire: Wire, dice: random.Random, tally: Tally) -> None:
    good = _last_good(story)
    story.day()
    for name in story.names:
        world.write(story.source, name, "/srv/news", f"{dice.random()}\n" * 200_000)
    run = story.falls()
    siege = Siege(story, wire, run, dice, tally)
    for kind in dice.choices(list(BLOWS), k=_BLOWS_A_NIGHT):
        time.sleep(dice.uniform(0.2, 4))
        if run.is_over:
            break
        print(f"  {kind}", flush=True)
        BLOWS[kind](siege)
        tally.blows[kind] += 1
        _look(good, tally)
    _retry(story, run, tally)
    story.check()


def _last_good(story: Nights) -> dict[Path, Tree]:
    """Where the newest generation of each instance on each target is on disk, and its volumes; what is in them."""
    found: dict[tuple[str, str], tuple[str, list[Path]]] = {}
    for target in KEEP:
        server = story.servers[target]
        for record in world.listing(server):
            config = record["config"]
            if config.get(STATE) == "complete":
                places = [world.rootfs(server, record["name"]), *story.kept_volumes(server, record).values()]
                key = (target, config[OF])
                found[key] = max(found.get(key, ("", places)), (config[AT], places))
    return {place: world.tree(place) for _, places in found.values() for place in places}


def _look(good: dict[Path, Tree], tally: Tally) -> None:
    for place, was in good.items():
        assert world.tree(place) == was, f"{place} is not what it was"
        tally.looks += 1


def _retry(story: Nights, run: Running, tally: Tally) -> None:
    """Until all is done. Only a full pool may park a job; nobody else needs a person.

    A command that met a dead daemon before anything had begun says so; the scheduler would do what is done here.
    """
    ended = run.wait()
    while ended.code == UNREACHABLE:
        tally.begun_again += 1
        ended = story.falls().wait()
    assert ended.code in (DONE, NOT_ALL), ended.err
    jobs = [job for report in ended.json for job in report["jobs"]]
    for job in jobs:
        if job["state"] != "done":
            assert job["error"]["code"] == "out_of_space", f"{job['job']} is {job['state']}: {job['error']}"
            story.herder.run("retry", job["job"]).ended(DONE)
            tally.retried += 1
    story.nights += 1


def _restore(story: Nights, dice: random.Random, tally: Tally) -> None:
    """One generation of any night that is kept, from any target."""
    target, name = dice.choice(list(KEEP)), dice.choice(story.names)
    night = dice.choice(story.kept_on(target))
    at = story.at(night).isoformat()
    command = ("backup", "restore", f"s1:{name}", "--at", at, "--from", f"{target}:", "--as", "restored", "--yes")
    story.herder.run(*command).ended(DONE)
    assert world.tree(world.rootfs(story.source, "restored")) == story.was[name, night], (target, name, night)
    world.delete(story.source, "restored")
    for volume in story.shelves(name):
        restored = f"{volume}-restored"
        assert world.tree(world.volume_folder(story.source, restored)) == story.was[volume, night], (target, volume)
        world.delete_volume(story.source, restored)
    tally.restored += 1


if __name__ == "__main__":
    sys.exit(main())
