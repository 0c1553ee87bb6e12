"""`python -m tests.acceptance.campaign`: kill -9 of workers, Redis and LXD daemons in evacuations of real containers.

Each round empties one of the servers s1 and s2 of the lab into the other with the command that a user types, and kills
one of the four at a moment of its own. Then it looks at the servers: every container runs once, on the other side, with
its data, and nothing of herder's is left. The last line of the output is JSON, for programs. Run from the root of the
checkout, as root; every other instance on these servers of the lab is deleted.
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
from pathlib import Path
from typing import Any

from tests.acceptance import world
from tests.acceptance.story import DONE, Herder, Ran, Running
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, host

REDIS_PROGRAMS = ("valkey-server", "redis-server")


@dataclass
class Front:
    """One evacuation under fire."""

    source: LabServer
    target: LabServer
    herder: Herder
    evacuation: Running


def kill_worker(front: Front) -> None:
    """One worker process; the command starts another."""
    _kill(front, lambda process: "workers" in process.command and "-m" in process.command)


def kill_redis(front: Front) -> None:
    """The embedded one; the command starts it again."""
    _kill(front, lambda process: process.program in REDIS_PROGRAMS)


def kill_source(front: Front) -> None:
    """Its daemon; its containers run on."""
    front.source.kill()
    front.source.start()


def kill_target(front: Front) -> None:
    """Its daemon, and it comes back."""
    front.target.kill()
    front.target.start()


def _kill(front: Front, is_meant: Callable[[host.Process], bool]) -> None:
    home = str(front.herder.home)
    for process in host.processes():
        if is_meant(process) and process.environment.get("HOME") == home:
            host.end_all([process])
            return


KILLS: dict[str, Callable[[Front], None]] = {
    "worker": kill_worker,
    "redis": kill_redis,
    "source": kill_source,
    "target": kill_target,
}


@dataclass
class Tally:
    """What all rounds came to."""

    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    wrecks: int = 0

    @property
    def violations(self) -> list[str]:
        return [*self.lost, *self.doubled, *self.left_over]

    def as_json(self) -> dict[str, Any]:
        """The last line of the output."""
        return {
            "rounds": self.rounds,
            "kills": dict(self.kills),
            "lost": len(self.lost),
            "doubled": len(self.doubled),
            "left_over": len(self.left_over),
            "wrecks_set_aside": self.wrecks,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Fight the rounds, print, and say whether anything was lost, doubled or left over."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.campaign", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="evacuations (default: %(default)s)")
    parser.add_argument("--containers", type=int, default=12, help="in each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the moments (default: random)")
    chosen = parser.parse_args(arguments)
    lab = Lab.up(["s1", "s2"])
    print(f"seed {chosen.seed}: {chosen.rounds} rounds, {chosen.containers} containers")
    with tempfile.TemporaryDirectory() as home:
        tally = fight(lab, Path(home), chosen.rounds, chosen.containers, random.Random(chosen.seed))
    for violation in tally.violations:
        print(f"VIOLATION {violation}")
    print(json.dumps(tally.as_json()))
    return 1 if tally.violations else 0


def fight(lab: Lab, home: Path, rounds: int, containers: int, dice: random.Random) -> Tally:
    """All rounds, back and forth."""
    here, there = lab.servers["s1"], lab.servers["s2"]
    names = [f"c{number:02}" for number in range(1, containers + 1)]
    world.strip(here)
    world.strip(there)
    for name in names:
        world.make(here, Wish(name=name))
        world.fill(here, name, 4)
    data = {name: world.checksum(_data(here, name)) for name in names}
    tally = Tally()
    for number in range(rounds):
        kind = list(KILLS)[number % len(KILLS)]
        state = home / f"round-{number}"
        state.mkdir()
        began = time.monotonic()
        delay = dice.uniform(0.2, 10)
        _round(Herder.of(lab, state), here, there, (kind, delay), tally)
        tally.rounds, tally.kills[kind] = number + 1, tally.kills[kind] + 1
        _check(here, there, data, f"round {number + 1} ({kind} after {delay:.1f} s)", tally)
        print(f"{number + 1:>3}  {kind:<7} after {delay:>4.1f} s: {time.monotonic() - began:>5.1f} s", flush=True)
        if tally.violations:
            break  # what follows would only follow from it
        here, there = there, here
    world.strip(here)
    world.strip(there)
    return tally


def _round(herder: Herder, here: LabServer, there: LabServer, blow: tuple[str, float], tally: Tally) -> None:
    kind, delay = blow
    with _counted(here, there, tally):
        command = ("evacuate", f"{here.name}:", "--to", f"{there.name}:", "--yes", "--json", "--retire", "delete")
        evacuation = herder.start(*command)
        herder.wait_for("the first job", evacuation)
        time.sleep(delay)
        KILLS[kind](Front(here, there, herder, evacuation))
        ended = evacuation.wait()
        if ended.code != DONE:
            tally.lost.append(f"the evacuation ended with {ended.code}: {_reasons(ended)}")


def _reasons(ended: Ran) -> str:
    """Why jobs are not done."""
    try:
        jobs = ended.json["jobs"]
    except (ValueError, KeyError):
        return ended.err
    return "; ".join(
        f"{job['instance']} is {job['state']} at {job['step']}: {job['error']}"
        for job in jobs
        if job["state"] != "done"
    )


@contextmanager
def _counted(here: LabServer, there: LabServer, tally: Tally) -> Iterator[None]:
    """What a watcher sees twice is counted and does not end the campaign."""
    watcher = NeverTwice(here, there)
    try:
        with watcher:
            yield
    except AssertionError as error:
        (tally.doubled if watcher.twice else tally.lost).append(str(error))


def _data(server: LabServer, name: str) -> Path:
    return world.rootfs(server, name) / "root/data"


def _check(here: LabServer, there: LabServer, data: dict[str, str], when: str, tally: Tally) -> None:
    for name, checksum in data.items():
        if world.status(there, name) != "Running" or not world.runs(there, name):
            tally.lost.append(f"{when}: {name} does not run on {there.name}")
        elif world.checksum(_data(there, name)) != checksum:
            tally.lost.append(f"{when}: the data of {name} are not what they were")
        if world.status(here, name) != "absent":
            tally.left_over.append(f"{when}: {name} is still on {here.name}")
    tally.wrecks += len(world.wrecks(there))
    for server in (here, there):
        wrecks = world.wrecks(server)
        left = [trace for trace in world.traces(server) if not any(wreck in trace for wreck in wrecks)]
        tally.left_over += [f"{when}: {trace}" for trace in left]
    here.delete_all()  # what LXD has left of its own, which only the host's root can remove


if __name__ == "__main__":
    sys.exit(main())
