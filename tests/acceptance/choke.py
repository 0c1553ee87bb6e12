"""A client configuration in which one server is reached through a wire that holds big transfers in their middle.

Requests are small and pass. A connection that has carried more than a threshold from the server is a transfer: it
stands still from there until it is released. That makes "in the middle of a pass" a place and not a moment.
"""

import shutil
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.lab import Lab, LabServer, host

_CHUNK = 64 * 1024
_PATIENCE_SECONDS = 60


class Choke:
    """Leads to one server; whoever knows it by ``address`` has transfers from it held after ``after_bytes``.

    With ``inward`` it is the transfers to it.
    """

    def __init__(self, server: LabServer, *, after_bytes: int = 4 * 1024**2, inward: bool = False) -> None:
        self.server = server
        self._inward = inward
        self._after = after_bytes
        self._held = 0
        self._open = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._listener.close()

    def wait_held(self, transfers: int = 1) -> None:
        """Return when this many transfers stand still."""
        what = f"{transfers} transfers through the choke of {self.server.name} to come to {self._after} bytes"
        host.wait_until(what, lambda: self._held >= transfers, seconds=_PATIENCE_SECONDS)

    @property
    def held(self) -> int:
        """How many transfers have come to stand still."""
        return self._held

    def release(self) -> None:
        """Let everything pass from now on."""
        self._open.set()

    def configuration(self, lab: Lab, folder: Path) -> Path:
        """The lab's client configuration, but with this way to the server."""
        return changed_configuration(lab, folder, {self.server.name: {"addr": self.address}})

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            far = socket.socket()
            # Small, so that what is held here is also held at the server and not in a buffer in between.
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
            try:
                far.connect(("127.0.0.1", self.server.port))
            except OSError:  # its daemon is down: the caller shall see that too
                near.close()
                continue
            giver, taker = (near, far) if self._inward else (far, near)
            threading.Thread(target=self._carry, args=(taker, giver), daemon=True).start()
            threading.Thread(target=self._carry_and_hold, args=(giver, taker), daemon=True).start()

    def _carry(self, giver: socket.socket, taker: socket.socket) -> None:
        with suppress(OSError):
            while data := giver.recv(_CHUNK):
                taker.sendall(data)
        _end(taker)

    def _carry_and_hold(self, giver: socket.socket, taker: socket.socket) -> None:
        carried = 0
        with suppress(OSError):
            while data := giver.recv(_CHUNK):
                carried += len(data)
                if carried > self._after and not self._open.is_set():
                    self._held += 1
                    self._open.wait()
                taker.sendall(data)
        _end(taker)


def _end(each: socket.socket) -> None:
    with suppress(OSError):  # its other end was faster
        each.shutdown(socket.SHUT_RDWR)


def changed_configuration(lab: Lab, folder: Path, remotes: dict[str, dict[str, Any]], default: str = "") -> Path:
    """A copy of the lab's client configuration in which these remotes, or the default one, are other than they were."""
    shutil.copytree(lab.lxc_conf, folder)
    file = folder / "config.yml"
    content = yaml.safe_load(file.read_text())
    for name, keys in remotes.items():
        content["remotes"].setdefault(name, {}).update(keys)
    if default:
        content["default-remote"] = default
    file.write_text(yaml.safe_dump(content))
    return folder
