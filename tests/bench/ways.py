"""The ways to move instances, timed alike: herder, the three commands that `lxc` needs, and LXD's own evacuation.

`lxc move` refuses a running container, so without herder a move is stop, move, start.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench.errors import BenchError
from tests.bench.machine import Ticks
from tests.lab import Lab
from tests.lab.product import INCUS

HERDER = Path(sys.executable).with_name("herder")
PATIENCE_S = 1800


@dataclass(frozen=True)
class Trip:
    """One use of one way: from the command's start to its end in seconds, and the processors' share of busy time.

    `began` is in seconds since the epoch, as the writers' stamps are.
    `report` is herder's own, or one for each of its plans; empty for the others.
    """

    began: float
    seconds: float
    cpu: float
    report: Any


def timed(move: Callable[[], Any]) -> Trip:
    """Do it and look at the clock."""
    ticks, began = Ticks.now(), time.time()
    report = move()
    return Trip(began, time.time() - began, Ticks.now().share_since(ticks), report or {})


def herder(lab: Lab, state: Path, *command: str) -> Any:
    """The report of a herder command that succeeds; its Redis and its logs are in `state`."""
    others = {key: value for key, value in os.environ.items() if key not in {"HERDER_REDIS_URL", "HERDER_CONFIG"}}
    environment = {**others, "LXD_CONF": str(lab.lxc_conf), "HERDER_STATE_DIR": str(state)}
    line = [str(HERDER), *command, "--json"]
    try:
        done = subprocess.run(
            line, env=environment, cwd=state, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{' '.join(line)}: no end after {PATIENCE_S} s; its log is {state}/worker.log") from error
    if done.returncode != 0:
        raise BenchError(f"{' '.join(line)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def lxc_moves(lab: Lab, source: str, target: str, names: Sequence[str], *, at_once: int = 1) -> None:
    """Stop, move and start one instance after the other, or `at_once` at a time."""

    def one(name: str) -> None:
        lab.lxc("stop", f"{source}:{name}")
        lab.lxc("move", f"{source}:{name}", f"{target}:")
        lab.lxc("start", f"{target}:{name}")

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, names))


def lxc_moves_with_volume(lab: Lab, source: str, target: str, name: str, volume: str) -> None:
    """The same with the custom volume that it attaches, which must be there before it.

    Incus 6.0.4 crashes when LXD sends it a volume, so that a person has to export and import it there.
    """
    lab.lxc("stop", f"{source}:{name}")
    if lab.servers[target].product is INCUS:
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/{volume}.tar"
            lab.lxc("storage", "volume", "export", f"{source}:default", volume, file, "--compression", "none")
            lab.lxc("storage", "volume", "import", f"{target}:default", file)
    else:
        lab.lxc("storage", "volume", "copy", f"{source}:default/{volume}", f"{target}:default/{volume}")
    lab.lxc("move", f"{source}:{name}", f"{target}:")
    lab.lxc("start", f"{target}:{name}")


def cluster_evacuate(lab: Lab, member: str) -> None:
    """LXD's own evacuation of a member of the cluster."""
    lab.lxc("cluster", "evacuate", "--force", f"cluster:{member}")


def cluster_restore(lab: Lab, member: str) -> None:
    """Put a member into service again, if it was evacuated."""
    if lab.servers[member].query("GET", f"/1.0/cluster/members/{member}")["status"] == "Evacuated":
        lab.lxc("cluster", "restore", "--force", f"cluster:{member}")


def took(job: Mapping[str, Any]) -> float:
    """Seconds from the first step of a reported job to its end."""
    began, ended = (datetime.fromisoformat(job[key]) for key in ("started_at", "finished_at"))
    return (ended - began).total_seconds()
