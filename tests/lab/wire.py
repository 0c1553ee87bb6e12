"""A wire between the source and the target, which a test can hold still or cut in the middle of the transfer.

A server dials whatever address it is told and knows the other one by its certificate, so a plain TCP relay can stand in
between.
"""

import socket
import threading
from types import TracebackType
from typing import Self

from tests.lab.server import LabServer

CHUNK = 64 * 1024


class Wire:
    """Leads to one server; the other one dials ``address``: the target to pull, the source for a ``push``.

    After ``hold_after`` bytes from the source it carries nothing more until ``release`` or ``cut``. ``carried`` counts
    the bytes that came from the source.
    """

    def __init__(self, server: LabServer, *, hold_after: int | None = None, push: bool = False) -> None:
        self.carried = 0
        self._port = server.port
        self._is_push = push
        self._hold_after = hold_after
        self._held = threading.Event()
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        if push:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        self.address = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()

    def wait_held(self, seconds: float = 30) -> None:
        """Return when the wire has stopped in the middle of the transfer."""
        assert self._held.wait(seconds), f"the transfer was over after {self.carried} bytes, or never began"

    def hold(self) -> None:
        """Carry nothing more from now on, either way."""
        with self._lock:
            self._open.clear()
            self._held.set()

    def release(self, *, hold_after: int | None = None) -> None:
        """Carry on, without end or until so many bytes have come."""
        with self._lock:
            self._hold_after = hold_after
            self._held.clear()
            self._open.set()

    def cut(self) -> None:
        """Close every connection."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for each in sockets:
            _shut(each, socket.SHUT_RDWR)
            # What lies unread in it makes the kernel send a reset: else a source that is in the middle of sending would
            # wait for minutes.
            each.close()
        self.release()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            far = socket.socket()
            # Small, so that what is held on the wire is also held at the source and not in a buffer in between.
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
            try:
                far.connect(("127.0.0.1", self._port))
            except OSError:  # its daemon is down: the caller shall see that too
                near.close()
                continue
            with self._lock:
                self._sockets += [near, far]
            threading.Thread(target=self._carry, args=(near, far, self._is_push), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, not self._is_push), daemon=True).start()

    def _carry(self, giver: socket.socket, taker: socket.socket, from_source: bool) -> None:
        try:
            while data := giver.recv(CHUNK):
                if from_source:
                    self._count(len(data))
                self._open.wait()
                taker.sendall(data)
        except OSError:  # cut, here or there
            _shut(giver, socket.SHUT_RD)
        _shut(taker, socket.SHUT_WR)

    def _count(self, count: int) -> None:
        with self._lock:
            self.carried += count
            if self._hold_after is not None and self.carried > self._hold_after:
                self._open.clear()
                self._held.set()


def _shut(each: socket.socket, how: int) -> None:
    try:
        each.shutdown(how)
    except OSError:  # its other end was faster
        return
