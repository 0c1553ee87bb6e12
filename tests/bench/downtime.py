"""`python -m tests.bench.downtime`: how long one large running container is down while it moves to another server.

Side by side and by turns, each time with a new container: `herder move`, and `lxc stop`, `lxc move`, `lxc start`.
Before it moves, each is stopped and started where it is: a move that waits for LXD's own stop is no shorter. The last
line of the output is JSON, for programs. It moves from s1 to s2, or with `--target i2` from LXD to Incus; with
`--volume MIB` it has a custom volume, which goes along. Run from the root of the checkout, as root; every other
instance and custom volume on these servers of the lab is deleted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import instances, machine, programs, ways
from tests.bench.errors import BenchError
from tests.bench.programs import p50
from tests.lab import Lab, LabServer

INTERVAL_S = 0.01
HERDER, LXC = "herder", "lxc move"
VOLUME, VOLUMES = "bench-volume", "/1.0/storage-pools/default/volumes/custom"


@dataclass(frozen=True)
class Round:
    """One container moved in one way; `reported` is the downtime in herder's own report."""

    way: str
    downtime: float
    lost_lines: int
    trip: ways.Trip
    in_place: float  # how long a mere stop and start on the source keeps it down

    @property
    def reported(self) -> float | None:
        return self.trip.report["jobs"][0]["downtime_s"] if self.trip.report else None


def main() -> int:
    """Measure, print, and say whether anything was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.downtime",
        description="Downtime of one running container: herder beside lxc.",
        epilog=programs.EXIT_STATUS,
    )
    parser.add_argument("--rounds", type=int, default=3, help="moves in each way (default: %(default)s)")
    parser.add_argument("--mebibytes", type=int, default=1024, help="random data in it (default: %(default)s)")
    parser.add_argument("--target", default="s2", help="server of the lab that it moves to (default: %(default)s)")
    parser.add_argument(
        "--volume", type=int, default=0, metavar="MIB", help="also a custom volume with so much data (default: none)"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep herder's state and logs there")
    arguments = parser.parse_args()
    lab = Lab.up(["s1", arguments.target])
    source, target = lab.servers["s1"], lab.servers[arguments.target]
    sides = " -> ".join(f"{each.name} ({each.product.name}, {each.driver})" for each in (source, target))
    attached = f" and a custom volume with {arguments.volume} MiB" if arguments.volume else ""
    print(f"a running container with {arguments.mebibytes} MiB{attached}, {sides}, times in seconds")
    print(machine.describe(), end="\n\n")
    print(f"{'round':>5}  {'way':<10}{'downtime':>9}{'reported':>10}{'total':>8}{'cpu':>6}")
    with programs.state_directory(arguments.keep) as state:
        rounds = [
            _round((source, target), number, way, move, (arguments.mebibytes, arguments.volume))
            for number in range(1, arguments.rounds + 1)
            for way, move in _ways(lab, state, target.name, has_volume=bool(arguments.volume))
        ]
    _conclude(rounds, {"target": target.name, "volume_mib": arguments.volume})
    return programs.FAILED if any(each.lost_lines for each in rounds) else programs.OK


def _ways(
    lab: Lab, state: Path, target: str, *, has_volume: bool
) -> list[tuple[str, Callable[[str], dict[str, Any] | None]]]:
    def lxc(name: str) -> None:
        if has_volume:
            ways.lxc_moves_with_volume(lab, "s1", target, name, VOLUME)
        else:
            ways.lxc_moves(lab, "s1", target, [name])

    return [
        (HERDER, lambda name: ways.herder(lab, state, "move", f"s1:{name}", f"{target}:", "--yes")),
        (LXC, lxc),
    ]


def _round(
    sides: tuple[LabServer, LabServer],
    number: int,
    way: str,
    move: Callable[[str], dict[str, Any] | None],
    mebibytes: tuple[int, int],
) -> Round:
    source, target = sides
    own, of_volume = mebibytes
    name = f"bench-{way.replace(' ', '-')}-{number}"
    _clear(source, target)
    try:
        with instances.running(source, [name], mebibytes=own, interval_s=INTERVAL_S) as moving:
            checksum = _attached(source, name, of_volume)
            machine.come_to_rest([source, target])
            in_place = instances.restart_in_place(source, moving[0])
            machine.come_to_rest([source, target])
            trip = ways.timed(lambda: move(name))
            (outage,) = instances.examine(moving, source, [target])
            if checksum and instances.checksum_of_volume(target, VOLUME) != checksum:
                raise BenchError(f"the data in the volume of {name} are not what they were")
    finally:
        _clear(source, target)
    done = Round(way, outage.seconds, outage.lost_lines, trip, in_place)
    reported = "-" if done.reported is None else f"{done.reported:.2f}"
    print(f"{number:>5}  {way:<10}{done.downtime:>9.2f}{reported:>10}{trip.seconds:>8.1f}{trip.cpu:>6.0%}", flush=True)
    return done


def _attached(source: LabServer, name: str, mebibytes: int) -> str:
    """The checksum of the volume that it got, if it gets one."""
    if not mebibytes:
        return ""
    instances.attach_volume(source, name, VOLUME, mebibytes)
    return instances.checksum_of_volume(source, VOLUME)


def _clear(*servers: LabServer) -> None:
    for server in servers:
        server.delete_all()
        for url in server.query("GET", VOLUMES):
            if "/snapshots/" not in url:
                server.query("DELETE", url)


def _conclude(rounds: list[Round], about: Mapping[str, Any]) -> None:
    """The medians, as a table and then as the line for programs."""
    print()
    medians = {way: p50([each.downtime for each in rounds if each.way == way]) for way in (HERDER, LXC)}
    reported = p50([each.reported for each in rounds if each.reported is not None])
    print(f"median  {HERDER:<10}{medians[HERDER]:>8.2f}  (reported by herder itself: {reported:.2f})")
    print(f"median  {LXC:<10}{medians[LXC]:>8.2f}")
    in_place = p50([each.in_place for each in rounds])
    print(f"median  stop, start in place {in_place:.2f}: a move that waits for LXD's own stop is no shorter,")
    print(f"        so here its ratio is at most {medians[LXC] / in_place:.2f}")
    lost = sum(each.lost_lines for each in rounds)
    print(f"lines of the writers that were lost: {lost}\n")
    result = {
        **about,
        "ratio": round(medians[LXC] / medians[HERDER], 2),
        "herder_s": medians[HERDER],
        "herder_reported_s": reported,
        "lxc_move_s": medians[LXC],
        "stop_start_s": in_place,
        "ratio_ceiling": round(medians[LXC] / in_place, 2),
        "rounds": len(rounds) // 2,
        "lost_lines": lost,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(programs.run(main))
