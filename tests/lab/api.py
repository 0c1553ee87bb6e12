"""The REST API of one lab server through its unix socket, where the lab is always trusted.

Deliberately not the client of `common.lxd`: a test that checks that client must not look at the result through it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from requests_unixsocket.adapters import UnixAdapter

from tests.lab.errors import LabError, RefusedError

Json = Mapping[str, Any]


def call(socket: Path, method: str, path: str, body: Json | None = None, *, seconds: float = 120) -> Any:
    """What the server answers: the `metadata`, or for a background operation its final record.

    Raises RefusedError for an error or a failed operation, LabError if the server does not answer within `seconds`.
    """
    base = f"http+unix://{quote(str(socket), safe='')}"
    try:
        with requests.Session() as session:
            session.mount("http+unix://", UnixAdapter())  # type: ignore[no-untyped-call]
            record = _read(session.request(method, base + path, json=body, timeout=seconds))
            if record["type"] != "async":
                return record["metadata"]
            ended = _read(session.get(f"{base}{_wait_path(record['operation'])}", timeout=seconds))["metadata"]
    except (requests.ConnectionError, requests.Timeout) as error:
        raise LabError(f"{method} {path}: no answer through {socket}: {error}") from error
    if ended["status"] != "Success":
        raise RefusedError(int(ended["status_code"]), f"{method} {path}: {ended['err'] or ended['status']}")
    return ended


def _wait_path(operation: str) -> str:
    path, _, parameters = operation.partition("?")
    return f"{path}/wait?{parameters}"


def _read(answer: requests.Response) -> dict[str, Any]:
    record: dict[str, Any] = answer.json()
    if record["type"] == "error":
        raise RefusedError(
            int(record["error_code"]), f"{answer.request.method} {answer.request.path_url}: {record['error']}"
        )
    return record
