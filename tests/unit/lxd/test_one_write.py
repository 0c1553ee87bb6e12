"""Headers and body of a request leave together, and a stream as it comes."""

import json
import queue
import threading
from collections.abc import Iterator
from http.client import InvalidURL
from typing import Any

import pytest
from urllib3.connection import HTTPSConnection

from common.domain.errors import TransferFailed
from common.lxd.tls import OneWriteConnection
from tests.unit.lxd.scripted import ScriptedServer, answer


def test_headers_and_body_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped in the middle of a request has sent all of it, or nothing."""
    written: list[bytes] = []
    monkeypatch.setattr(HTTPSConnection, "send", lambda _connection, data: written.append(data))
    body: dict[str, Any] = {"config": {"user.x": "1"}}

    OneWriteConnection("127.0.0.1", 8443).request(
        "PATCH", "/1.0/instances/c1", body=json.dumps(body), headers={"If-Match": "etag"}
    )

    (one,) = written
    assert one.startswith(b"PATCH /1.0/instances/c1 HTTP/1.1\r\n")
    assert one.endswith(b'\r\n\r\n{"config": {"user.x": "1"}}')


def test_a_request_that_breaks_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was held back of it does not leave with the next one."""
    written: list[bytes] = []
    monkeypatch.setattr(HTTPSConnection, "send", lambda _connection, data: written.append(data))
    connection = OneWriteConnection("127.0.0.1", 8443)

    with pytest.raises(InvalidURL):
        connection.request("GET", "/a b\r\n")

    assert written == []


def test_what_comes_piece_by_piece_leaves_piece_by_piece(server: ScriptedServer) -> None:
    """A backup does not fit into memory: the first piece has arrived before the second one is asked for."""
    arrived = threading.Event()

    def take(request: Any) -> None:
        for expected in (b"first", b"second", b""):
            assert int(request.rfile.readline(), 16) == len(expected)
            assert request.rfile.read(len(expected)) == expected
            request.rfile.readline()
            arrived.set()
        answer({})(request)

    def pieces() -> Iterator[bytes]:
        yield b"first"
        assert arrived.wait(10), "nothing has left before the end"
        yield b"second"

    server.will(take)
    server.transport().request("POST", "/1.0/instances", data=pieces())


def test_a_stream_that_breaks_is_not_ended_for_the_server(server: ScriptedServer) -> None:
    """It sees that the rest is missing."""
    seen: queue.Queue[bytes] = queue.Queue()

    def take(request: Any) -> None:
        seen.put(request.rfile.read())
        request.close_connection = True

    def pieces() -> Iterator[bytes]:
        yield b"first"
        raise TransferFailed("the source has died")

    server.will(take)
    with pytest.raises(TransferFailed, match="the source has died"):
        server.transport().request("POST", "/1.0/instances", data=pieces())
    assert seen.get(timeout=10) == b"5\r\nfirst\r\n"
