"""`python -m tests.bench.evacuate`: how long it takes to empty a server, and how long each of its instances is down.

Side by side, each time with new running containers: `herder evacuate` from s1 to s2; a loop of `lxc stop`, `lxc move`,
`lxc start` from s1 to s2; `lxc cluster evacuate` of member c1. With `--sweep 1,2,4` instead only herder, with each of
these numbers of transfers and cutovers at a time. The last line of the output is JSON, for programs. Run from the root
of the checkout, as root; every other instance on these servers of the lab is deleted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from common.domain.plan import Limits
from tests.bench import instances, machine, programs, ways
from tests.bench.programs import p50, p99
from tests.bench.writer import Outage
from tests.lab import CLUSTER, Lab

INTERVAL_S = 0.05
EVACUATED, *REMAINING = CLUSTER


@dataclass(frozen=True)
class Evacuation:
    """One server emptied in one way."""

    way: str
    trip: ways.Trip
    outages: Sequence[Outage]

    @property
    def downtimes(self) -> list[float]:
        return [outage.seconds for outage in self.outages]

    @property
    def last_up(self) -> float:
        """Seconds from the start of the command until the last instance ran on its new server."""
        return max(outage.first_after for outage in self.outages) - self.trip.began

    @property
    def reported(self) -> float | None:
        """Seconds from the first job's start to the last one's end, by herder's own report."""
        if not self.trip.report:
            return None
        began, ended = (datetime.fromisoformat(self.trip.report[key]) for key in ("started_at", "finished_at"))
        return (ended - began).total_seconds()

    @property
    def lost_lines(self) -> int:
        return sum(outage.lost_lines for outage in self.outages)


@dataclass(frozen=True)
class Bench:
    """The lab and what is moved on it."""

    lab: Lab
    state: Path
    containers: int
    mebibytes: int

    def herder(self, transfers: int, cutovers: int) -> Evacuation:
        """S1 to s2 with so many transfers and cutovers at a time."""
        limits = ("--transfers", str(transfers), "--cutovers", str(cutovers))
        command = ("evacuate", "s1:", "--to", "s2:", "--yes", *limits)
        return self._pair(f"herder {transfers}/{cutovers}", lambda _: ways.herder(self.lab, self.state, *command))

    def loop(self, at_once: int) -> Evacuation:
        """S1 to s2 with the three commands of `lxc`."""
        way = "lxc move" if at_once == 1 else f"lxc move x{at_once}"
        return self._pair(way, lambda names: ways.lxc_moves(self.lab, "s1", "s2", names, at_once=at_once))

    def cluster(self) -> Evacuation:
        """C1 to the other members of its cluster."""

        def move(_: Sequence[str]) -> None:
            ways.cluster_evacuate(self.lab, EVACUATED)

        self._clear_cluster()
        try:
            return self._evacuate("cluster evacuate", EVACUATED, REMAINING, move)
        finally:
            self._clear_cluster()

    def _pair(self, way: str, move: Callable[[Sequence[str]], dict[str, Any] | None]) -> Evacuation:
        self._clear_pair()
        try:
            return self._evacuate(way, "s1", ["s2"], move)
        finally:
            self._clear_pair()

    def _evacuate(
        self, way: str, source: str, targets: Sequence[str], move: Callable[[Sequence[str]], dict[str, Any] | None]
    ) -> Evacuation:
        home, others = self.lab.servers[source], [self.lab.servers[target] for target in targets]
        names = [f"bench-{number:02}" for number in range(1, self.containers + 1)]
        with instances.running(home, names, mebibytes=self.mebibytes, interval_s=INTERVAL_S) as moving:
            machine.come_to_rest([home, *others])
            trip = ways.timed(lambda: move(names))
            done = Evacuation(way, trip, instances.examine(moving, home, others))
        print(row(done), flush=True)
        return done

    def _clear_pair(self) -> None:
        for name in ("s1", "s2"):
            self.lab.servers[name].delete_all()

    def _clear_cluster(self) -> None:
        self.lab.servers[EVACUATED].delete_all()
        ways.cluster_restore(self.lab, EVACUATED)


def main() -> int:
    """Measure, print, and say whether anything was lost."""
    arguments = _parse()
    lab = Lab.up(["s1", "s2"] if arguments.sweep else ["s1", "s2", "cluster"])
    with programs.state_directory(arguments.keep) as state:
        bench = Bench(lab, state, arguments.containers, arguments.mebibytes)
        print(
            f"{bench.containers} running containers with {bench.mebibytes} MiB each, all on btrfs, times in seconds\n"
        )
        print(HEADING)
        done = _sweep(bench, arguments.sweep) if arguments.sweep else _compare(bench, arguments)
    return programs.FAILED if any(each.lost_lines for each in done) else programs.OK


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.evacuate",
        description="Emptying a server: herder beside lxc and LXD's cluster.",
        epilog=programs.EXIT_STATUS,
    )
    parser.add_argument("--containers", type=int, default=24, help="running containers (default: %(default)s)")
    parser.add_argument("--mebibytes", type=int, default=10, help="random data in each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="times in each way (default: %(default)s)")
    parser.add_argument("--transfers", type=int, default=Limits.per_source, help="herder's (default: %(default)s)")
    parser.add_argument("--cutovers", type=int, default=Limits.cutovers, help="herder's (default: %(default)s)")
    parser.add_argument("--loop-at-once", type=int, default=1, help="of the loop with lxc (default: %(default)s)")
    parser.add_argument("--sweep", type=_numbers, metavar="N,N", help="only herder, with N transfers and N cutovers")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep herder's state and logs there")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _sweep(bench: Bench, numbers: Sequence[int]) -> list[Evacuation]:
    done = [bench.herder(number, number) for number in numbers]
    rows = [{"concurrency": n, **figures([each])} for n, each in zip(numbers, done, strict=True)]
    print(f"\n{json.dumps({'sweep': rows, 'containers': bench.containers})}")
    return done


def _compare(bench: Bench, arguments: argparse.Namespace) -> list[Evacuation]:
    by_herder, by_loop, by_cluster = [], [], []
    for _ in range(arguments.rounds):
        by_herder.append(bench.herder(arguments.transfers, arguments.cutovers))
        by_loop.append(bench.loop(arguments.loop_at_once))
        by_cluster.append(bench.cluster())
    herder, loop, cluster = figures(by_herder), figures(by_loop), figures(by_cluster)
    result = {
        "ratio_cluster_evacuate": round(cluster["makespan_s"] / herder["makespan_s"], 2),
        "ratio_lxc_move": round(loop["makespan_s"] / herder["makespan_s"], 2),
        "herder": herder,
        "lxc_move": loop,
        "cluster_evacuate": cluster,
        "concurrency": arguments.transfers,
        "containers": bench.containers,
        "lost_lines": sum(each.lost_lines for each in (*by_herder, *by_loop, *by_cluster)),
    }
    print(f"\n{json.dumps(result)}")
    return [*by_herder, *by_loop, *by_cluster]


def figures(done: Sequence[Evacuation]) -> dict[str, float]:
    """The figures of one way over all rounds: medians, and of the downtimes of all instances the percentiles."""
    downtimes = [downtime for each in done for downtime in each.downtimes]
    found = {
        "makespan_s": p50([each.trip.seconds for each in done]),
        "last_up_s": p50([each.last_up for each in done]),
        "downtime_p50_s": p50(downtimes),
        "downtime_p99_s": p99(downtimes),
        "cpu": p50([each.trip.cpu for each in done]),
    }
    reported = [each.reported for each in done if each.reported is not None]
    return {**found, "reported_makespan_s": p50(reported)} if reported else found


HEADING = f"{'way':<17}{'makespan':>9}{'reported':>9}{'last up':>9}{'down p50':>10}{'p99':>7}{'cpu':>6}{'lost':>6}"


def row(done: Evacuation) -> str:
    reported = "-" if done.reported is None else f"{done.reported:.1f}"
    times = f"{done.trip.seconds:>9.1f}{reported:>9}{done.last_up:>9.1f}"
    downtimes = f"{p50(done.downtimes):>10.2f}{p99(done.downtimes):>7.2f}"
    return f"{done.way:<17}{times}{downtimes}{done.trip.cpu:>6.0%}{done.lost_lines:>6}"


if __name__ == "__main__":
    sys.exit(programs.run(main))
