"""`python -m tests.bench.cluster`: how long it takes to empty a cluster member, and how long each instance is down.

Side by side, each time with new running containers on c1: `herder evacuate` and `herder restore`, `lxc cluster
evacuate` and `lxc cluster restore`. Downtimes are those of the way out. The members share the processors of one
machine, where a copy by loopback takes all of them; `--link` makes it a network that is slower than they are. The last
line of the output is JSON, for programs. Run from the root of the checkout, as root; every other instance of the lab's
cluster is deleted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.domain.plan import Limits
from tests.bench import instances, link, machine, programs, ways
from tests.bench.evacuate import EVACUATED, HEADING, INTERVAL_S, REMAINING, Evacuation, figures, row
from tests.bench.programs import p50
from tests.lab import Lab

_MEMBER = f"cluster:{EVACUATED}"


@dataclass(frozen=True)
class Bench:
    """The cluster and what is moved in it."""

    lab: Lab
    state: Path
    containers: int
    mebibytes: int
    limits: tuple[str, ...]
    link: int

    def herder(self) -> tuple[Evacuation, float]:
        """Out and back by herder; the seconds of the way back."""

        def go(verb: str) -> Any:
            return ways.herder(self.lab, self.state, verb, _MEMBER, *self.limits, "--yes")

        return self._there_and_back("herder", lambda: go("evacuate"), lambda: go("restore"))

    def lxd(self) -> tuple[Evacuation, float]:
        """Out and back by LXD itself; the seconds of the way back."""
        return self._there_and_back(
            "cluster evacuate",
            lambda: ways.cluster_evacuate(self.lab, EVACUATED),
            lambda: ways.cluster_restore(self.lab, EVACUATED),
        )

    def _there_and_back(
        self, way: str, out: Callable[[], dict[str, Any] | None], back: Callable[[], dict[str, Any] | None]
    ) -> tuple[Evacuation, float]:
        home, others = self.lab.servers[EVACUATED], [self.lab.servers[name] for name in REMAINING]
        names = [f"bench-{number:02}" for number in range(1, self.containers + 1)]
        self._clear()
        try:
            with instances.running(home, names, mebibytes=self.mebibytes, interval_s=INTERVAL_S) as moving:
                machine.come_to_rest([home, *others])
                with link.limited(home, self.link):
                    trip = ways.timed(out)
                done = Evacuation(way, trip, instances.examine(moving, home, others))
            print(row(done), flush=True)
            with link.limited(home, self.link):
                return done, ways.timed(back).seconds
        finally:
            self._clear()

    def _clear(self) -> None:
        self.lab.servers[EVACUATED].delete_all()
        ways.cluster_restore(self.lab, EVACUATED)


def main() -> int:
    """Measure, print, and say whether anything was lost."""
    arguments = _parse()
    lab = Lab.up(["cluster"])
    with programs.state_directory(arguments.keep) as state:
        limits = ("--transfers", str(arguments.transfers), "--cutovers", str(arguments.cutovers))
        bench = Bench(lab, state, arguments.containers, arguments.mebibytes, limits, arguments.link)
        print(f"{bench.containers} running containers with {bench.mebibytes} MiB each on a member, times in seconds")
        print(f"the member's link: {bench.link or 'unlimited'} MiB/s; {machine.describe()}\n")
        print(HEADING)
        by_herder, by_lxd = [], []
        for _ in range(arguments.rounds):
            by_herder.append(bench.herder())
            by_lxd.append(bench.lxd())
    print(f"\n{json.dumps(_result(bench, by_herder, by_lxd))}")
    both = [done for done, _ in (*by_herder, *by_lxd)]
    return programs.FAILED if any(done.lost_lines for done in both) else programs.OK


def _result(
    bench: Bench, by_herder: Sequence[tuple[Evacuation, float]], by_lxd: Sequence[tuple[Evacuation, float]]
) -> dict[str, Any]:
    herder, lxd = (
        {**figures([done for done, _ in each]), "restore_s": p50([back for _, back in each])}
        for each in (by_herder, by_lxd)
    )
    return {
        "ratio_downtime": round(lxd["downtime_p50_s"] / herder["downtime_p50_s"], 2),
        "ratio_makespan": round(lxd["makespan_s"] / herder["makespan_s"], 2),
        "herder": herder,
        "cluster_evacuate": lxd,
        "limits": " ".join(bench.limits),
        "containers": bench.containers,
        "mebibytes": bench.mebibytes,
        "link_mebibytes_per_second": bench.link,
        "lost_lines": sum(done.lost_lines for done, _ in (*by_herder, *by_lxd)),
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.cluster",
        description="Emptying a member of a cluster: herder beside LXD's own evacuation.",
        epilog=programs.EXIT_STATUS,
    )
    parser.add_argument("--containers", type=int, default=12, help="running containers (default: %(default)s)")
    parser.add_argument("--mebibytes", type=int, default=1024, help="random data in each (default: %(default)s)")
    parser.add_argument(
        "--link", type=int, default=0, help="MiB/s of the member's network, 0 for no limit (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=1, help="times in each way (default: %(default)s)")
    parser.add_argument("--transfers", type=int, default=Limits.per_source, help="herder's (default: %(default)s)")
    parser.add_argument("--cutovers", type=int, default=Limits.cutovers, help="herder's (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep herder's state and logs there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(programs.run(main))
