"""Headers and body of a request leave together."""

import json
from http.client import InvalidURL
from typing import Any

import pytest
from urllib3.connection import HTTPSConnection

from common.lxd.tls import OneWriteConnection


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
