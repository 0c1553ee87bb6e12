"""``python -m tests.bench.relay``: a stopped container copied by relay, by herder and by `lxc copy` in turns.

The last line is JSON: medians in seconds, and herder's over LXC's;
``job`` is herder's without the start of its Redis and its worker.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from tests.bench.machine import come_to_rest, describe
from tests.bench.ways import herder, timed, took
from tests.lab import Lab

_NAME, _COPY = "relayed", "relayed2"
_COMMAND = ("copy", f"s1:{_NAME}", f"s2:{_COPY}", "--mode", "relay")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="how much random data the container has")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    lab = Lab.up(["s1", "s2"])
    source, target = lab.servers["s1"], lab.servers["s2"]
    seconds: dict[str, list[float]] = {"herder": [], "lxc": [], "job": []}
    print(describe())
    source.launch(_NAME)
    try:
        source.lxc("exec", _NAME, "--", "dd", "if=/dev/urandom", "of=/root/data", "bs=1M", f"count={asked.mib}")
        source.lxc("stop", "--force", _NAME)
        with tempfile.TemporaryDirectory(prefix="hb", dir="/tmp") as state:
            for _ in range(asked.rounds):
                for who in ("lxc", "herder"):
                    come_to_rest([source, target])
                    if who == "lxc":
                        trip = timed(lambda: _lxc_copy(lab))
                    else:
                        trip = timed(lambda: herder(lab, Path(state), *_COMMAND, "--yes"))
                        seconds["job"].append(took(trip.report["jobs"][0]))
                    seconds[who].append(trip.seconds)
                    print(f"{who:7} {trip.seconds:6.2f} s, processors {trip.cpu:.0%} busy", flush=True)
                    target.lxc("delete", "--force", _COPY)
    finally:
        source.lxc("delete", "--force", _NAME)
    medians = {who: round(statistics.median(each), 2) for who, each in seconds.items()}
    print(json.dumps({"mib": asked.mib, **medians, "ratio": round(medians["herder"] / medians["lxc"], 2)}))


def _lxc_copy(lab: Lab) -> None:
    lab.lxc(*_COMMAND)


if __name__ == "__main__":
    main()
