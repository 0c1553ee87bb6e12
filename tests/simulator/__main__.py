"""``python -m tests.simulator serve fleet.yaml``: simulated servers on 127.0.0.1 until they are interrupted."""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.simulator.served import Served


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when interrupted, 2 for a fleet file that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    serve = verbs.add_parser("serve", help="serve the fleet that a file describes")
    serve.add_argument("fleet", type=Path)
    serve.add_argument("--lxc-conf", type=Path, help="where the client's configuration is written")
    chosen = parser.parse_args(arguments)
    directory = chosen.lxc_conf or Path(tempfile.mkdtemp(prefix="herder-simulator-"))
    try:
        served = Served.from_file(chosen.fleet, directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"{chosen.fleet}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    with served:
        for name, server in served.fleet.servers.items():
            print(f"{name}  {server.address}  {len(server.instances)} instances")
        print(f"use them: LXD_CONF={directory} herder doctor", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


if __name__ == "__main__":
    sys.exit(main())
