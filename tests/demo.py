"""``make demo``: two real LXD servers, 12 running containers on one, and one command that empties it into the other.

Leaves nothing behind but the installed packages. Where LXD cannot run, the servers are simulated, and the first and the
last line say so.
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab.errors import LabError, LabUnavailableError
from tests.lab.lab import Lab
from tests.simulator import MIB
from tests.simulator.served import Served

CONTAINERS = 12
#: The lab of the demo is its own, so that it disturbs no other.
ROOT = Path("/var/tmp/herder-demo")
_HERDER = Path(sys.executable).with_name("herder")


def main() -> int:
    """Exit status: herder's own; 1 if the lab could not come up."""
    try:
        lab = Lab.up(("s1", "s2"), root=ROOT)
    except LabUnavailableError as error:
        return simulated(str(error))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        fill(lab)
        return evacuate(lab.lxc_conf)
    finally:
        lab.down()


def fill(lab: Lab) -> None:
    """Launch the containers on s1, each with some data of its own."""
    lab.servers["s1"].delete_all()
    lab.servers["s2"].delete_all()

    def launch(number: int) -> None:
        name = f"web{number:02}"
        lab.servers["s1"].launch(name)
        lab.servers["s1"].lxc("exec", name, "--", "dd", "if=/dev/urandom", "of=/root/data", "bs=1M", "count=20")

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(launch, range(1, CONTAINERS + 1)))
    _announce()


def simulated(reason: str) -> int:
    """The same on simulated servers behind HTTPS. Exit status: herder's own."""
    print(f"{reason} So the servers of this demo are simulated: nothing here is LXD.", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="herder-demo-") as directory,
        Served.begin({"s1": {}, "s2": {}}, Path(directory)) as served,
    ):
        for number in range(1, CONTAINERS + 1):
            served.fleet.launch("s1", f"web{number:02}", size=20 * MIB)
        _announce()
        status = evacuate(served.lxc_conf)
    print("These were simulated servers, not LXD. With yours, it is the same command.", flush=True)
    return status


def _announce() -> None:
    print(f"s1 runs {CONTAINERS} containers. Now: herder evacuate s1: --to s2: --yes", flush=True)


def evacuate(lxc_conf: Path) -> int:
    """Run the command that a user types, with a state directory of its own."""
    with tempfile.TemporaryDirectory(prefix="herder-demo-") as state:
        environment = {
            **os.environ,
            "LXD_CONF": str(lxc_conf),
            "HERDER_STATE_DIR": state,
            "HERDER_CONFIG": os.devnull,
            "HERDER_REDIS_URL": "",
        }
        command = [str(_HERDER), "evacuate", "s1:", "--to", "s2:", "--yes"]
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
