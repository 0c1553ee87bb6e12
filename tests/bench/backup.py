"""``python -m tests.bench.backup``: what a night costs on which nothing has changed, beside the first one.

Between btrfs pools. The last line is JSON: medians in seconds of whole commands (``command``) and of their jobs
(``job``), the bytes that the source sent, and what a quiet night takes of the first one.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from tests.bench.machine import come_to_rest, describe
from tests.bench.ways import herder, timed, took
from tests.lab import Lab

_NAME = "quiet"
_FIRST_NIGHT = datetime(2026, 11, 2, 2, tzinfo=UTC)
_POLICY = {
    "name": "nightly",
    "select": {"source": "s1"},
    "schedule": {"when": "02:00"},
    "targets": [{"remote": "s2", "keep": {"last": 3}}],
}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="how much random data the container has")
    parser.add_argument("--rounds", type=int, default=5, help="quiet nights")
    asked = parser.parse_args()
    lab = Lab.up(["s1", "s2"])
    source, target = lab.servers["s1"], lab.servers["s2"]
    print(describe())
    source.launch(_NAME)
    try:
        source.lxc("exec", _NAME, "--", "dd", "if=/dev/urandom", "of=/root/data", "bs=1M", f"count={asked.mib}")
        source.lxc("stop", "--force", _NAME)
        with tempfile.TemporaryDirectory(prefix="hb", dir="/tmp") as state:
            file = Path(state) / "policies.yaml"
            file.write_text(yaml.safe_dump({"policies": [_POLICY]}))

            def night(number: int) -> dict[str, float]:
                come_to_rest([source, target])
                at = (_FIRST_NIGHT + timedelta(days=number)).isoformat()
                return _cost(lambda: herder(lab, Path(state), "backup", "run", str(file), "--at", at))

            first, *quiet = [night(number) for number in range(asked.rounds + 1)]
    finally:
        source.lxc("delete", "--force", _NAME)
        target.delete_all()
    usual = {what: statistics.median(each[what] for each in quiet) for what in first}
    ratios = {f"ratio_{what}": round(usual[what] / first[what], 3) for what in first}
    print(json.dumps({"mib": asked.mib, "first": first, "quiet": usual, **ratios}))


def _cost(run: Callable[[], Any]) -> dict[str, float]:
    trip = timed(run)
    (job,) = trip.report[0]["jobs"]
    cost = {"command": round(trip.seconds, 2), "job": round(took(job), 2), "bytes": job["bytes"]}
    print(f"{cost}, processors {trip.cpu:.0%} busy", flush=True)
    return cost


if __name__ == "__main__":
    main()
