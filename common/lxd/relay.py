"""Carries the bytes of a transfer between two servers that cannot reach each other: the relay.

Both servers wait, the source with an offer, the target as for a push; we dial both and hand on what they send. The
servers' operations tell how it ends, and cancelling the source's ends it: the source hangs up, and so do we. It dies
with its process, and then both operations fail at once.
"""

import select
import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress

from common.domain.errors import ServerRefused, ServerUnreachable
from common.lxd.client import LxdClient
from common.lxd.migration import Offer

#: At most so many bytes of one direction of one channel are read before they are written.
BUFFER = 256 * 1024
#: The channel of the data; the other one only steers.
_DATA = "fs"
#: How long the silence of a server that has vanished without a word is believed, in seconds: idle, between probes.
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
#: TLS may have to write in order to read, so that no wait for one of the two may be endless.
_LOOK_SECONDS = 1.0
_MASKED = 0x80
_NO_MASK = bytes(4)
_LENGTH_BYTES = {126: 2, 127: 8}
_NOT_NOW = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)


def carry(source: LxdClient, offer: Offer, target: LxdClient, awaited: Offer, limit: int = 0) -> None:
    """Connect the two and hand on what they send, in threads of their own, until one of them hangs up.

    Returns when both servers are connected. ``limit`` caps the bytes per second from the source; 0 is no cap. Raises
    what ``Transport.websocket`` raises, and then nobody is connected.
    """
    names = sorted(set(offer.secrets) & set(awaited.secrets))
    if _DATA not in names:
        raise ServerRefused(f"{source.remote} and {target.remote} have no data channel in common")
    with ExitStack() as connected:
        channels = []
        for name in names:
            from_source = _dial(connected, source, offer, name)
            to_target = _dial(connected, target, awaited, name)
            channels.append(Channel(from_source, to_target, limit=limit if name == _DATA else 0))
        connected.pop_all()
    for channel in channels:
        threading.Thread(target=channel.run, name=f"relay of {offer.operation}", daemon=True).start()


def _dial(connected: ExitStack, client: LxdClient, waiting: Offer, name: str) -> socket.socket:
    path = f"/1.0/operations/{waiting.operation}/websocket"
    connection = client.transport.websocket(path, {"secret": waiting.secrets[name]}).sock
    if connection is None:
        raise ServerUnreachable(f"{client.remote}: hung up", server=client.remote)
    connected.callback(connection.close)
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection


class Channel:
    """One websocket of the source and the same one of the target, after their handshakes.

    One thread serves both directions, for TLS connections are not to be read and written by two at the same time.
    """

    def __init__(self, source: socket.socket, target: socket.socket, *, limit: int = 0) -> None:
        self._ends = (source, target)
        self._ways = (_Direction(source, target, limit=limit), _Direction(target, source))

    def run(self) -> None:
        """Carry until one end hangs up and the other one has got what came before; then hang up on both."""
        for end in self._ends:
            end.setblocking(False)
        try:
            while not any(way.is_over for way in self._ways):
                moved = [way.go_on() for way in self._ways]
                if not any(moved):
                    self._rest()
        except OSError:  # one of them broke the connection; their operations tell why
            pass
        finally:
            for end in self._ends:
                with suppress(OSError):
                    end.close()

    def _rest(self) -> None:
        reading = [way.giver for way in self._ways if way.may_read]
        writing = [way.taker for way in self._ways if way.unwritten]
        paused = min((way.pause for way in self._ways if way.pause), default=_LOOK_SECONDS)
        if reading or writing:
            poll = select.poll()
            for end in self._ends:
                wanted = (select.POLLIN if end in reading else 0) | (select.POLLOUT if end in writing else 0)
                if wanted:
                    poll.register(end, wanted)
            poll.poll(1000 * min(paused, _LOOK_SECONDS))
        else:
            time.sleep(min(paused, _LOOK_SECONDS))


class _Direction:
    """From giver to taker: nothing is read until all that was read before is written."""

    def __init__(self, giver: socket.socket, taker: socket.socket, *, limit: int = 0) -> None:
        self.giver, self.taker = giver, taker
        self.is_over = False
        self.unwritten = memoryview(b"")
        self._limit = limit
        self._room = bytearray(min(BUFFER, max(limit // 4, 4096)) if limit else BUFFER)
        self._due = 0.0
        self._mask = FrameMasker()

    @property
    def pause(self) -> float:
        """Seconds until the limit allows more."""
        return max(0.0, self._due - time.monotonic()) if self._limit else 0.0

    @property
    def may_read(self) -> bool:
        return not self.unwritten and not self.pause

    def go_on(self) -> bool:
        """Write what there is, else read; whether anything moved."""
        if self.unwritten:
            return self._write()
        return self._read() if self.may_read else False

    def _read(self) -> bool:
        room, got, is_closed = memoryview(self._room), 0, False
        while got < len(room) and not is_closed:
            try:
                count = self.giver.recv_into(room[got:])
            except _NOT_NOW:
                break
            except OSError:
                count = 0  # hung up without a farewell, as servers do at the end; what came before is still handed on
            is_closed, got = count == 0, got + count
        if got:
            self.unwritten = memoryview(self._mask(bytes(room[:got])))
            if self._limit:
                self._due = max(self._due, time.monotonic()) + got / self._limit
            return True
        self.is_over = is_closed
        return is_closed

    def _write(self) -> bool:
        moved = False
        while self.unwritten:
            try:
                count = self.taker.send(self.unwritten)
            except _NOT_NOW:
                break
            moved, self.unwritten = True, self.unwritten[count:]
        return moved


class FrameMasker:
    """Makes frames of a server those of a client: the same frames, said to be masked, with a mask that changes nothing.

    Frames of any kind and size are handed on piece by piece as they come, so that none has to be kept.
    """

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    def __call__(self, data: bytes) -> bytes:
        """The same piece of the stream as a client sends it."""
        pieces: list[bytes | memoryview] = []
        rest = memoryview(data)
        while rest:
            if self._left:
                pieces.append(rest[: self._left])
                rest, self._left = rest[self._left :], max(0, self._left - len(rest))
                continue
            needed = self._needed() - len(self._head)
            self._head, rest = self._head + bytes(rest[:needed]), rest[needed:]
            if len(self._head) == self._needed():
                pieces += [self._head[:1], bytes([self._head[1] | _MASKED]), self._head[2:], _NO_MASK]
                self._left = int.from_bytes(self._head[2:], "big") if len(self._head) > 2 else self._head[1]  # noqa: PLR2004
                self._head = b""
        return b"".join(pieces)

    def _needed(self) -> int:
        """How long the head of the frame at hand is, as far as that can be told."""
        return 2 + _LENGTH_BYTES.get(self._head[1], 0) if len(self._head) > 1 else 2
