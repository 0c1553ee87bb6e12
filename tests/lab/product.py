"""What LXD and Incus call the same things: the daemon, its directory, its client.

Incus began as a copy of LXD, and most of what the lab does to the one it does to the other. `daemon` starts either,
`server` calls their clients, `furnish` gives either its pool; what is named differently stands here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab import host

#: Where a lab has the programs that it does not install on the machine.
PROGRAMS = "programs"
#: Where it has the stand-ins for what virtual machines need and this kernel has not; see `stand_ins`.
STAND_INS = "stand-ins"


@dataclass(frozen=True)
class Product:
    """One product. ``command`` is that of the daemon as the system shows it, ``program`` the file that it runs.

    ``runs_machines`` is a daemon that can run virtual machines, thanks to the lab's stand-ins.
    """

    name: str
    command: str
    program: str
    dir_variable: str
    client: str
    conf_variable: str
    init: tuple[str, ...]
    sql: tuple[str, ...]
    runs_machines: bool = False

    def environment(self, folder: Path) -> Mapping[str, str]:
        """For every program of the product that shall use the server in this folder, the daemon itself included."""
        root = folder.parent
        own = {self.dir_variable: str(folder), self.conf_variable: str(root / f"{self.client}-conf")}
        if self.runs_machines:
            stand_ins = root / STAND_INS
            return own | {"PATH": f"{stand_ins}:{host.PATH}", "LXD_EXEC_PATH": str(stand_ins / "lxd-helper")}
        if self is LXD:
            return own
        unpacked = root / PROGRAMS / "usr"
        return own | {
            "PATH": f"{unpacked}/bin:{unpacked}/libexec/incus:{host.PATH}",
            "LD_LIBRARY_PATH": ":".join(str(place) for place in sorted((unpacked / "lib").glob("*-linux-gnu"))),
        }


LXD = Product(
    name="lxd",
    command="lxd --group root",
    program="lxd",
    dir_variable="LXD_DIR",
    client="lxc",
    conf_variable="LXD_CONF",
    init=("lxd", "init", "--preseed"),
    sql=("lxd", "sql", "global"),
)
INCUS = Product(
    name="incus",
    command="incusd --group root",
    program="incusd",
    dir_variable="INCUS_DIR",
    client="incus",
    conf_variable="INCUS_CONF",
    init=("incus", "admin", "init", "--preseed"),
    sql=("incus", "admin", "sql", "global"),
)
PRODUCTS = {product.name: product for product in (LXD, INCUS)}
LXD_WITH_MACHINES = replace(LXD, runs_machines=True)
