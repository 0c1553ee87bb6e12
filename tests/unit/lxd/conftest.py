"""Fixtures of the client's tests: servers that speak HTTPS or listen on a unix socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.lxd.trust import client_certificate
from tests.unit.lxd.scripted import ScriptedServer, serve_https, serve_socket


@pytest.fixture
def own_certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    return client_certificate(tmp_path / "own")


@pytest.fixture
def server(own_certificate: tuple[Path, Path]) -> Iterator[ScriptedServer]:
    """An HTTPS server with that certificate."""
    yield from serve_https(*own_certificate)


@pytest.fixture
def socket_server(tmp_path: Path) -> Iterator[ScriptedServer]:
    """A server on a unix socket."""
    yield from serve_socket(tmp_path / "unix.socket")
