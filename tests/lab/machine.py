"""What a virtual machine of `machine_image` says on its console, and what is on its disk: there is no agent in it."""

import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab import host
from tests.lab.errors import LabError, RefusedError
from tests.lab.server import LabServer

MEMORY = "256MiB"
#: As small as its firmware bears (192 MiB are too little), with room for its memory where a test wants that.
CONFIG = {"limits.memory": MEMORY, "security.secureboot": "false"}
STATEFUL = CONFIG | {"migration.stateful": "true"}
ROOT = {"path": "/", "pool": "default", "size": "128MiB", "size.state": "256MiB", "type": "disk"}
#: An emulated processor on a busy host needs a minute for a boot.
PATIENCE_SECONDS = 120
_TICK = re.compile(r"tick (\d+) of ([0-9a-f-]{36})\r?\n")


@dataclass(frozen=True)
class Tick:
    """How many seconds it has counted since its boot, and the id of that boot."""

    count: int
    boot: str


def make(server: LabServer, name: str, *, config: dict[str, str] = CONFIG, starts: bool = True) -> None:
    """A virtual machine, in a cluster on this member. Returns when it counts, if it shall start."""
    where = f"?target={server.name}" if server.cluster else ""
    body = {
        "name": name,
        "type": "virtual-machine",
        "config": config,
        "devices": {"root": ROOT},
        "source": {"type": "image", "alias": "machine"},
    }
    try:
        server.query("POST", f"/1.0/instances{where}", body)
    except RefusedError as refused:
        # On a busy machine qemu-img has told LXD nothing of the image, once.
        if "unexpected end of JSON input" not in str(refused):
            raise
        server.query("POST", f"/1.0/instances{where}", body)
    if starts:
        server.query("PUT", f"/1.0/instances/{name}/state", {"action": "start"})
        tick(server, name)


def tick(server: LabServer, name: str) -> Tick:
    """The next one that it says. LabError if it says nothing."""
    said = _listened if server.product.is_incus else _heard
    for heard in said(server, name):
        if found := _TICK.findall(heard):
            return Tick(int(found[-1][0]), found[-1][1])
    raise LabError(f"{server.name}:{name} does not count; it said {heard[-500:]!r}")


def _heard(server: LabServer, name: str) -> Iterator[str]:
    """What its console says from now on, longer and longer: LXD has a socket for that."""
    heard, deadline = "", time.monotonic() + PATIENCE_SECONDS
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(str(server.lxd_dir / "logs" / name / "qemu.console"))
        console.settimeout(PATIENCE_SECONDS)
        while time.monotonic() < deadline:
            heard += console.recv(4096).decode(errors="replace")
            yield heard


def _listened(server: LabServer, name: str) -> Iterator[str]:
    """The same of Incus, which has a log of all that was ever said."""
    before, deadline = len(_log(server, name)), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.2)
        yield _log(server, name)[before:]


def _log(server: LabServer, name: str) -> str:
    return server.lxc("console", name, "--show-log")


def disk(server: LabServer, name: str) -> Path:
    """Its disk on the host, in the server's only pool."""
    return server.lxd_dir / "storage-pools/default/virtual-machines" / name / "root.img"


def write(server: LabServer, name: str, text: str) -> None:
    """Put a file onto the disk of one that is stopped."""
    host.run("mcopy", "-o", "-i", str(disk(server, name)), "-", "::/note", text=text)


def read(server: LabServer, name: str) -> str:
    """That file."""
    return host.run("mtype", "-i", str(disk(server, name)), "::/note")
