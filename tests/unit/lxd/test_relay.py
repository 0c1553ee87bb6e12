"""What a relay hands on between two connections: frames whole or in pieces, the closing, and never more than it may."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from common.lxd.relay import BUFFER, Channel, FrameMasker

TEXT, BINARY, CLOSE, PING = 0x81, 0x82, 0x88, 0x89


def frame(first: int, payload: bytes, *, masked: bool = False) -> bytes:
    """As a server sends it, or ``masked`` by nothing, as it has to come from a client."""
    size, mask = len(payload), 0x80 if masked else 0
    if size < 126:
        head = bytes([first, mask | size])
    elif size < 1 << 16:
        head = bytes([first, mask | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, mask | 127]) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload


FRAMES = (
    (TEXT, b'{"fs": 0}'),
    (BINARY, b""),
    (BINARY, b"x" * 125),
    (BINARY, b"y" * 126),
    (BINARY, b"z" * 65_535),
    (PING, b"keepalive"),
    (0x02, b"a part"),
    (0x80, b"and its rest" * 9000),
    (CLOSE, (1000).to_bytes(2, "big")),
)


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 4096, 10**6])
def test_every_frame_is_handed_on_as_it_is_however_it_comes(piece: int) -> None:
    """Text, data, parts of messages, pings and the closing, in pieces of any size."""
    stream = b"".join(frame(*each) for each in FRAMES)
    masker = FrameMasker()
    came = b"".join(masker(stream[at : at + piece]) for at in range(0, len(stream), piece))
    assert came == b"".join(frame(*each, masked=True) for each in FRAMES)


class Ends:
    """A source and a target with a channel between them."""

    def __init__(self, limit: int = 0) -> None:
        self.source, here = socket.socketpair()
        self.target, there = socket.socketpair()
        for each in (self.source, self.target):
            each.settimeout(10)
        self.channel = Channel(here, there, limit=limit)
        self.thread = threading.Thread(target=self.channel.run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        for each in (self.source, self.target):
            each.close()
        self.thread.join(10)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def send_and_hang_up(end: socket.socket, data: bytes) -> None:
    """Meanwhile."""

    def send() -> None:
        end.sendall(data)
        end.close()

    threading.Thread(target=send, daemon=True).start()


def read_all(end: socket.socket) -> bytes:
    """Until the other side hangs up."""
    found = bytearray()
    while piece := end.recv(1 << 16):
        found += piece
    return bytes(found)


def test_both_directions_are_carried_and_the_end_of_one_ends_the_other_when_all_has_come(ends: Ends) -> None:
    ends.target.sendall(frame(TEXT, b"go"))
    assert ends.source.recv(100) == frame(TEXT, b"go", masked=True)
    data = frame(BINARY, b"d" * 5_000_000)
    send_and_hang_up(ends.source, data)
    assert read_all(ends.target) == frame(BINARY, b"d" * 5_000_000, masked=True)
    ends.thread.join(10)
    assert not ends.thread.is_alive()


def test_the_source_is_not_read_while_the_target_does_not_read(ends: Ends) -> None:
    """Then it cannot send more than the buffers of the two connections hold, and one of ours."""
    ends.source.setblocking(False)
    sent, quiet_since = 0, time.monotonic()
    chunk = frame(BINARY, b"d" * 60_000)
    while time.monotonic() - quiet_since < 0.5:
        with suppress(BlockingIOError):
            sent += ends.source.send(chunk[sent % len(chunk) :])
            quiet_since = time.monotonic()
    held = sum(len(way.unwritten) for way in ends.channel._ways)
    assert 0 < held <= BUFFER + BUFFER // 100
    assert sent <= BUFFER + 4 * 1024**2
    ends.source.close()
    came = read_all(ends.target)
    assert len(came) >= sent


def test_a_target_that_hangs_up_ends_the_source_too(ends: Ends) -> None:
    ends.target.close()
    assert read_all(ends.source) == b""


def test_no_more_bytes_flow_in_a_second_than_the_limit_allows() -> None:
    limit, size = 1_000_000, 1_500_000
    ends = Ends(limit=limit)
    send_and_hang_up(ends.source, frame(BINARY, b"d" * size))
    began = time.monotonic()
    assert len(read_all(ends.target)) > size
    took = time.monotonic() - began
    ends.close()
    assert took >= (size - limit // 4) / limit
