"""The lab as a whole: which servers it has, how it comes up, what it is, how it goes away.

Everything lives below one root directory: `$HERDER_LAB`, or else `/var/tmp/herder-lab-` and 8 hex digits of the
SHA-256 of the checkout's path, with `-incus` for a lab of Incus. It is not inside the checkout because the path of a
unix socket is limited, to 107 characters. Below the root:

    herder-lab                      marks the directory as a lab: `down` removes no other
    lab.json                        the servers and their ports, and whose they are
    NAME/ NAME.log NAME.process     one daemon: its LXD_DIR, its log, our note of its process
    NAME.ready                      the server is furnished; without it, `up` makes it anew
    images/                         the tarballs of `image.py`
    lxc-conf/                       configuration of the real `lxc` client: one remote for each, trusted by all
    incus-conf/                     that of the `incus` client, which is used through the unix sockets only
    programs/ qemu/                 Incus, and its QEMU, unpacked
    stand-ins/                      what virtual machines need and this kernel has not

and beside it ROOT.lock while somebody changes the lab; `/var/tmp/herder-ports` tells which lab has which ports. `s1`
and `s2` stand alone with a btrfs pool on a loop file, `d1` with a dir pool; `c1`, `c2` and `c3` are one cluster with
btrfs pools. `i1` and `i2` are servers of Incus with btrfs pools, `v1` and `v2` servers of LXD and `w1` and `w2`
servers of Incus that run virtual machines, `x1` and `x2` a cluster of LXD that does, all with btrfs pools; these come
up only when they are named. A lab that is made
with `$HERDER_LAB_PRODUCT=incus` has Incus in all others. All listen on 127.0.0.1 only, and the guests' network cards
are on a bridge that leads nowhere.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import furnish, host, image, machine_image, packages, stand_ins
from tests.lab.daemon import Daemon
from tests.lab.errors import LabError
from tests.lab.product import (
    INCUS,
    INCUS_WITH_MACHINES,
    LXD,
    LXD_WITH_MACHINES,
    PRODUCTS,
    PROGRAMS,
    QEMU,
    STAND_INS,
    Product,
)
from tests.lab.server import LabServer

STANDALONE = {"s1": "btrfs", "s2": "btrfs", "d1": "dir"}
CLUSTER = ("c1", "c2", "c3")
SERVERS = (*STANDALONE, *CLUSTER)
#: Servers of Incus, which come up only when they are asked for by name.
INCUS_SERVERS = {"i1": "btrfs", "i2": "btrfs"}
#: Servers that run virtual machines, likewise: of LXD, of Incus, and a cluster of LXD.
MACHINE_SERVERS = {"v1": "btrfs", "v2": "btrfs"}
INCUS_MACHINE_SERVERS = {"w1": "btrfs", "w2": "btrfs"}
MACHINE_CLUSTER = ("x1", "x2")
_LXD_WITH_MACHINES = {*MACHINE_SERVERS, *MACHINE_CLUSTER}
_WITH_MACHINES = {*_LXD_WITH_MACHINES, *INCUS_MACHINE_SERVERS}
#: The members of each cluster, by the name of its remote.
CLUSTERS = {"cluster": CLUSTER, "machines": MACHINE_CLUSTER}
ALL = (*SERVERS, *INCUS_SERVERS, *MACHINE_SERVERS, *INCUS_MACHINE_SERVERS, *MACHINE_CLUSTER)

CHECKOUT = Path(__file__).resolve().parents[2]
# Each lab gets its own stretch of ports, mostly the same one by its path. All lie below the ports that the kernel gives
# to outgoing connections: else one of those could sit on a server's port when the server starts again.
FIRST_PORT, PORTS_PER_LAB, STRETCHES = 20000, 20, 600
#: Of the whole machine: the number of a stretch, as a link to the root of the lab that has it.
CLAIMS = Path("/var/tmp/herder-ports")
MARK = "herder-lab"
LONGEST_ROOT = 80  # the path of a unix socket has less than 108 characters


@dataclass(frozen=True)
class Lab:
    """The servers that are up or have been, by name."""

    root: Path
    servers: dict[str, LabServer]

    @classmethod
    def up(
        cls,
        servers: Iterable[str] = SERVERS,
        root: Path | None = None,
        first_port: int | None = None,
        *,
        product: str = "",
    ) -> "Lab":
        """Bring up at least these servers; what is up already stays.

        `c1`, `c2` and `c3` come together, as `cluster`, and `x1` and `x2` as `machines`.

        `first_port`, or `$HERDER_LAB_PORT`, is where the search for free ports begins; `product`, or
        `$HERDER_LAB_PRODUCT`, what a lab has that is made now. Raises LabUnavailableError if this machine cannot run a
        lab, LabError if a daemon does not come up.
        """
        root = root or default_root()
        if len(str(root)) > LONGEST_ROOT:
            raise LabError(f"{root} is too long for the sockets of a lab: at most {LONGEST_ROOT} characters")
        wanted = _with_whole_clusters(servers)
        packages.ensure()
        if _WITH_MACHINES.intersection(wanted):
            packages.ensure(packages.MACHINE_PROGRAMS)
        root.parent.mkdir(parents=True, exist_ok=True)
        with host.locked(_lock(root)):
            _claim(root)
            _decide(root, product)
            if any(_product_of(name, _product(root)).is_incus for name in wanted):
                packages.unpack_other(packages.INCUS, root / PROGRAMS)
            if INCUS_MACHINE_SERVERS.keys() & set(wanted):
                packages.unpack_other(packages.QEMU_OF_INCUS, root / QEMU)
            if _WITH_MACHINES.intersection(wanted):
                stand_ins.make(root / STAND_INS, programs=root / PROGRAMS, qemu=root / QEMU)
            lab = cls(root, _known(root))
            lab._add(wanted, first_port or int(os.environ.get("HERDER_LAB_PORT", "0")) or _first_port(root))
            lab._bring_up(wanted)
        return lab

    @classmethod
    def load(cls, root: Path | None = None) -> "Lab":
        """The lab that is there; LabError if there is none."""
        root = root or default_root()
        servers = _known(root)
        if not servers:
            raise LabError(f"there is no lab in {root}; `python -m tests.lab up` makes one")
        return cls(root, servers)

    def down(self) -> None:
        """End every daemon and container of the lab and remove all of it; a lab that is half there goes too."""
        if not self.root.exists():
            return
        _refuse_foreign(self.root)
        with host.locked(_lock(self.root)), ThreadPoolExecutor() as pool:
            product = _product(self.root)
            list(pool.map(Daemon.destroy, [_server(self.root, name, 0, product).daemon for name in ALL]))
            host.remove_bridge(self.bridge)
            # The mark goes last, so that whoever is interrupted here can call `down` again.
            for entry in [*(entry for entry in self.root.iterdir() if entry.name != MARK), self.root]:
                host.run("rm", "--recursive", "--force", "--one-file-system", str(entry))

    @property
    def bridge(self) -> str:
        """Name of the bridge on the host that the guests' network cards are on; one for all servers of the lab."""
        return f"hlab{_digest(self.root)}"

    @property
    def lxc_conf(self) -> Path:
        """LXD_CONF of the lab's own `lxc` client; its client.crt and client.key are trusted by every server."""
        return self.root / "lxc-conf"

    def lxc(self, *args: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002 - as in subprocess
        """Output of the real `lxc` as a remote client, for example `lab.lxc("copy", "s1:web", "s2:")`."""
        return host.run("lxc", *args, env={"LXD_CONF": str(self.lxc_conf)}, text=input, check=check)

    def status(self) -> dict[str, Any]:
        """What `python -m tests.lab status --json` prints."""
        return {
            "root": str(self.root),
            "lxc_conf": str(self.lxc_conf),
            "bridge": self.bridge,
            "servers": {name: _status(server) for name, server in self.servers.items()},
        }

    def _add(self, wanted: Iterable[str], first_port: int) -> None:
        """Give every new server a free port and write the whole list down."""
        port, product = first_port, _product(self.root)
        for name in wanted:
            if name not in self.servers:
                taken = {server.port for server in self.servers.values()}
                while port in taken or not host.is_free(port):
                    port += 1
                self.servers[name] = _server(self.root, name, port, product)
        ports = {name: server.port for name, server in self.servers.items()}
        _write(self.root, {"product": product.name, "ports": ports})

    def _bring_up(self, wanted: Iterable[str]) -> None:
        host.make_bridge(self.bridge)
        tarballs = image.build(self.root / "images")
        machines = machine_image.build(self.root / "images") if _WITH_MACHINES.intersection(wanted) else {}
        groups: dict[str, list[LabServer]] = {}
        for name in wanted:
            groups.setdefault(self.servers[name].cluster or name, []).append(self.servers[name])
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda group: self._bring_up_together(group, tarballs, machines), groups.values()))
        for group in groups.values():
            furnish.trust(group[0], self.lxc_conf)

    def _bring_up_together(
        self, group: list[LabServer], tarballs: Mapping[str, Path], machines: Mapping[str, Path]
    ) -> None:
        """One standalone server, or all members of a cluster."""
        daemons = [server.daemon for server in group]
        fresh = not all(daemon.ready.exists() for daemon in daemons)
        for daemon in daemons:
            if fresh:
                daemon.destroy()
            daemon.thaw()
            daemon.spawn()
        for daemon in daemons:
            daemon.wait_ready()
        if fresh:
            if group[0].cluster:
                furnish.cluster(group, self.bridge)
            else:
                furnish.stand_alone(group[0], self.bridge)
            for daemon in daemons:
                daemon.ready.touch()
        furnish.import_images(group[0], {**tarballs, **(machines if group[0].product.runs_machines else {})})


def default_root() -> Path:
    """`$HERDER_LAB`, or a directory that is this checkout's own; one of Incus throughout has another."""
    chosen = os.environ.get("HERDER_LAB")
    other = "-incus" if os.environ.get("HERDER_LAB_PRODUCT") == INCUS.name else ""
    return Path(chosen).resolve() if chosen else Path(f"/var/tmp/herder-lab-{_digest(CHECKOUT)}{other}")


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:8]


def _first_port(root: Path) -> int:
    """The beginning of a stretch that no other lab has: to look for free ports is not enough while another one does."""
    CLAIMS.mkdir(parents=True, exist_ok=True)
    with host.locked(CLAIMS / "lock"):
        own = [claim for claim in CLAIMS.iterdir() if claim.is_symlink() and claim.readlink() == root]
        first = int(own[0].name) if own else int(_digest(root), 16)
        for number in range(first, first + STRETCHES):
            claim = CLAIMS / str(number % STRETCHES)
            if not claim.exists() or claim.readlink() == root:  # a link to a lab that is gone leads nowhere
                claim.unlink(missing_ok=True)
                claim.symlink_to(root)
                return FIRST_PORT + int(claim.name) * PORTS_PER_LAB
    raise LabError(f"all {STRETCHES} stretches of ports belong to other labs; see {CLAIMS}")


def _lock(root: Path) -> Path:
    return root.with_name(root.name + ".lock")


def _claim(root: Path) -> None:
    """Make the root directory one of a lab."""
    root.mkdir(exist_ok=True)
    _refuse_foreign(root)
    root.chmod(0o711)  # guests have other users, which have to get through to their file systems
    (root / MARK).touch()


def _refuse_foreign(root: Path) -> None:
    """`down` removes the directory with all its contents: it had better be ours."""
    if any(root.iterdir()) and not (root / MARK).exists():
        raise LabError(f"{root} is not empty and not a lab")


def _with_whole_clusters(names: Iterable[str]) -> list[str]:
    whole = {name: members for remote, members in CLUSTERS.items() for name in (remote, *members)}
    wanted = {member for name in names for member in whole.get(name, (name,))}
    if unknown := wanted - set(ALL):
        raise LabError(f"no such server: {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    return [name for name in ALL if name in wanted]


def _known(root: Path) -> dict[str, LabServer]:
    ports: dict[str, int] = _written(root).get("ports", {})
    return {name: _server(root, name, port, _product(root)) for name, port in ports.items()}


def _written(root: Path) -> dict[str, Any]:
    file = root / "lab.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def _write(root: Path, facts: Mapping[str, Any]) -> None:
    half = root / "lab.json.half"
    half.write_text(json.dumps(facts, indent=2))
    half.replace(root / "lab.json")


def _decide(root: Path, product: str) -> None:
    """Write down what a lab is that is made now, if its maker says it. Raises LabError if it is another already."""
    if product and not _written(root):
        _write(root, {"product": product, "ports": {}})
    wanted = product or os.environ.get("HERDER_LAB_PRODUCT", "")
    if wanted and _product(root) is not PRODUCTS.get(wanted):
        raise LabError(f"{root} is a lab of {_product(root).name}, not of {wanted}; HERDER_LAB names another directory")


def _product(root: Path) -> Product:
    """What the lab's servers are that the names do not say it of; decided when the lab is made."""
    wanted = os.environ.get("HERDER_LAB_PRODUCT", LXD.name)
    name = _written(root).get("product", wanted)
    if name not in PRODUCTS:
        raise LabError(f"HERDER_LAB_PRODUCT: there is no {name}; {' and '.join(PRODUCTS)} there are")
    return PRODUCTS[name]


def _server(root: Path, name: str, port: int, product: Product) -> LabServer:
    driver = {**STANDALONE, **INCUS_SERVERS, **MACHINE_SERVERS, **INCUS_MACHINE_SERVERS}.get(name, "btrfs")
    cluster = next((remote for remote, members in CLUSTERS.items() if name in members), None)
    return LabServer(name, root, port, driver, cluster, _product_of(name, product))


def _product_of(name: str, product: Product) -> Product:
    if name in _LXD_WITH_MACHINES:
        return LXD_WITH_MACHINES
    if name in INCUS_MACHINE_SERVERS:
        return INCUS_WITH_MACHINES
    return INCUS if name in INCUS_SERVERS else product


def _status(server: LabServer) -> dict[str, Any]:
    made = server.certificate.exists()
    return {
        "address": server.address,
        "socket": str(server.socket),
        "lxd_dir": str(server.lxd_dir),
        "pid": server.pid,
        "certificate": str(server.certificate),
        "fingerprint": server.fingerprint if made else None,
        "pool": {"name": "default", "driver": server.driver},
        "cluster": server.cluster,
        "product": server.product.name,
        "state": "running" if server.pid else "stopped",
    }
