"""What LXD and Incus call the same things: the daemon, its directory, its client.

Incus began as a copy of LXD, and most of what the lab does to the one it does to the other. `daemon` starts either,
`server` calls their clients, `furnish` gives either its pool; what is named differently stands here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab import host

#: Where a lab has the programs that it does not install on the machine: Incus, and the QEMU that Incus needs.
PROGRAMS, QEMU = "programs", "qemu"
#: Where it has the stand-ins for what virtual machines need and this kernel has not; see `stand_ins`.
STAND_INS = "stand-ins"


@dataclass(frozen=True)
class Product:
    """One product. ``command`` is that of the daemon as the system shows it, ``program`` the file that it runs.

    ``runs_machines`` is a daemon that can run virtual machines, thanks to the lab's stand-ins; ``helper_variable``
    tells it what it shall run for small tasks instead of itself.
    """

    name: str
    command: str
    program: str
    dir_variable: str
    helper_variable: str
    client: str
    conf_variable: str
    init: tuple[str, ...]
    sql: tuple[str, ...]
    runs_machines: bool = False

    def environment(self, folder: Path) -> Mapping[str, str]:
        """For every program of the product that shall use the server in this folder, the daemon itself included."""
        root = folder.parent
        unpacked, places = root / PROGRAMS / "usr", [host.PATH]
        own = {self.dir_variable: str(folder), self.conf_variable: str(root / f"{self.client}-conf")}
        if self.is_incus:
            places[:0] = [f"{unpacked}/bin", f"{unpacked}/libexec/incus"]
            own["LD_LIBRARY_PATH"] = ":".join(str(place) for place in sorted((unpacked / "lib").glob("*-linux-gnu")))
        if self.runs_machines:
            stand_ins = root / STAND_INS
            places.insert(0, str(stand_ins))
            own[self.helper_variable] = str(stand_ins / f"{self.name}-helper")
        return own | {"PATH": ":".join(places)}

    @property
    def is_incus(self) -> bool:
        return self.name == "incus"


LXD = Product(
    name="lxd",
    command="lxd --group root",
    program="lxd",
    dir_variable="LXD_DIR",
    helper_variable="LXD_EXEC_PATH",
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
    helper_variable="INCUS_EXEC_PATH",
    client="incus",
    conf_variable="INCUS_CONF",
    init=("incus", "admin", "init", "--preseed"),
    sql=("incus", "admin", "sql", "global"),
)
PRODUCTS = {product.name: product for product in (LXD, INCUS)}
LXD_WITH_MACHINES = replace(LXD, runs_machines=True)
INCUS_WITH_MACHINES = replace(INCUS, runs_machines=True)
