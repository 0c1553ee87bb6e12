"""`python -m tests.lab`: bring the lab up, look at it, take it down. Run from the root of the checkout, as root.

EXIT STATUS: 0 done; 1 the lab could not do it; 2 wrong arguments; 3 this machine cannot run a lab.
"""

import argparse
import json
import sys

from tests.lab.errors import LabError, LabUnavailableError
from tests.lab.lab import ALL, SERVERS, Lab, default_root


def main() -> int:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=f"Real servers in {default_root()}.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring servers up; what is up already stays")
    up.add_argument("servers", nargs="*", default=SERVERS, help=f"of {', '.join(ALL)} (default: {', '.join(SERVERS)})")
    commands.add_parser("down", help="end everything that belongs to the lab and remove it")
    status = commands.add_parser("status", help="what is up, and where")
    status.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    try:
        if arguments.command == "down":
            Lab(default_root(), {}).down()
            return 0
        lab = Lab.up(arguments.servers) if arguments.command == "up" else Lab.load()
    except LabUnavailableError as error:
        print(error, file=sys.stderr)
        return 3
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    show(lab, as_json=arguments.command == "status" and arguments.json)
    return 0


def show(lab: Lab, *, as_json: bool) -> None:
    """Print the lab for a program or for a person."""
    status = lab.status()
    if as_json:
        print(json.dumps(status, indent=2))
        return
    print(f"lab in {lab.root}")
    for name, server in status["servers"].items():
        where = f"{server['product']:<6}{server['cluster'] or 'standalone':<11}{server['pool']['driver']:<6}"
        print(f"  {name:<4}{server['address']:<26}{where}{server['state']}")
    print(f"client: LXD_CONF={lab.lxc_conf} lxc list {next(iter(lab.servers))}:")


if __name__ == "__main__":
    sys.exit(main())
