"""Requests and websockets to one server, over HTTPS or its unix socket.

Who we are and whom we trust is settled here (``tls``), and every error is herder's own when it leaves (``faults``).
``client`` and ``events`` stand on top.
"""

import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import requests
import tenacity
import websocket
from requests_unixsocket.adapters import UnixAdapter

from common.domain.errors import InputError, ServerRefused
from common.lxd import faults, tls

_HTTPS_PORT = 443
_FIRST_ERROR = 300
_PIECE = 1024 * 1024

_again = tenacity.Retrying(
    retry=tenacity.retry_if_exception(faults.is_worth_another_try),
    stop=tenacity.stop_after_attempt(3),
    wait=tenacity.wait_random_exponential(multiplier=0.1, max=1.0),
    reraise=True,
)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A server's answer. ``operation`` is the bare id of the background operation that it began, if it began one."""

    status: int
    metadata: Any
    operation: str | None = None
    etag: str = ""


class Transport:
    """One server's REST API; may be shared by threads, each of which has its own connections.

    ``address`` is ``https://HOST[:PORT]`` or ``unix:///PATH``. The PEM ``server_certificate`` is pinned by its SHA-256
    on every connection; without it an HTTPS server must have one that the system's authorities vouch for. Timeouts are
    in seconds. ``name`` begins every error message; ``answered_at`` is when the server last answered, by the monotonic
    clock. Raises InputError for an address or files that cannot be used.
    """

    def __init__(
        self,
        address: str,
        *,
        server_certificate: str | None,
        client_certificate: Path | None,
        client_key: Path | None,
        connect_timeout: float = 5.0,
        read_timeout: float = 40.0,
        name: str = "",
    ) -> None:
        self.address = address.rstrip("/")
        self.name = name or self.address
        self.answered_at = float("-inf")
        self._pin = tls.fingerprint(server_certificate) if server_certificate else None
        self._timeouts = (connect_timeout, read_timeout)
        self._socket_path = _socket_path(self.address)
        self._base = f"http+unix://{quote(self._socket_path, safe='')}" if self._socket_path else self.address
        self._context = tls.context(is_pinned=self._pin is not None, certificate=client_certificate, key=client_key)
        self._of_thread = threading.local()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        data: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Send one request; ``timeout`` replaces the read timeout. ``data`` is sent piece by piece as it comes.

        A GET, which changes nothing, is tried again when the connection breaks or the server is busy. All else is sent
        once.
        Raises ServerUnreachable, ServerBusy, NotFound, NotTrusted, PreconditionFailed and ServerRefused.
        """

        def attempt() -> Reply:
            return self._attempt(method, path, params=params, json=json, data=data, headers=headers, timeout=timeout)

        return _again(attempt) if method == "GET" else attempt()

    @contextmanager
    def download(self, path: str, params: Mapping[str, str]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """A file that the server sends: how long it is, and its pieces as they come.

        Raises what ``request`` raises, the pieces ServerUnreachable.
        """
        with faults.translated(self.name):
            answer = self._session().get(
                self._base + path, params=params, timeout=self._timeouts, allow_redirects=False, stream=True
            )
        with answer:
            self.answered_at = time.monotonic()
            if answer.status_code >= _FIRST_ERROR or "Content-Length" not in answer.headers:
                _read(self.name, answer)
            yield int(answer.headers["Content-Length"]), self._pieces(answer)

    def _pieces(self, answer: requests.Response) -> Iterator[bytes]:
        with faults.translated(self.name):
            yield from answer.iter_content(_PIECE)

    def websocket(self, path: str, params: Mapping[str, str] | None = None) -> websocket.WebSocket:
        """An open websocket with the connect timeout set. The server is verified before anything is sent.

        Raises what ``request`` raises.
        """
        base = "ws://unix" if self._socket_path else self.address.replace("https", "wss", 1)
        url = f"{base}{path}?{urlencode(params or {})}"
        connection = self._connection()
        try:
            with faults.translated(self.name):
                return websocket.create_connection(
                    url, timeout=self._timeouts[0], socket=connection, suppress_origin=True
                )
        except BaseException:
            connection.close()
            raise

    def _attempt(self, method: str, path: str, *, timeout: float | None, **what: Any) -> Reply:
        timeouts = (self._timeouts[0], timeout or self._timeouts[1])
        with faults.translated(self.name):
            answer = self._session().request(method, self._base + path, timeout=timeouts, allow_redirects=False, **what)
        self.answered_at = time.monotonic()
        return _read(self.name, answer)

    def _session(self) -> requests.Session:
        """The calling thread's session: a kept-alive connection answers 40 times faster than a new one."""
        session: requests.Session | None = getattr(self._of_thread, "session", None)
        if session is None:
            session = requests.Session()
            # With it, REQUESTS_CA_BUNDLE would override our own choice of whom to trust.
            session.trust_env = False
            session.verify = self._pin is None
            session.mount("https://", tls.PinnedAdapter(self._context, self._pin))
            session.mount("http+unix://", UnixAdapter())  # type: ignore[no-untyped-call]
            self._of_thread.session = session
        return session

    def _connection(self) -> socket.socket:
        if self._socket_path is None:
            place = urlsplit(self.address)
            where = (place.hostname or "", place.port or _HTTPS_PORT)
            return tls.connect(self.name, where, self._context, timeout=self._timeouts[0], pin=self._pin)
        with faults.translated(self.name):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(self._timeouts[0])
            connection.connect(self._socket_path)
            return connection


def _socket_path(address: str) -> str | None:
    """The path in a unix address, None for HTTPS."""
    place = urlsplit(address)
    if place.scheme == "https" and place.hostname:
        return None
    if place.scheme == "unix" and place.path and not place.netloc:
        return place.path
    raise InputError(f"{address}: not an address of a server", hint="write https://HOST:8443 or unix:///PATH")


def _read(server: str, answer: requests.Response) -> Reply:
    """What the server said. Raises its refusal, or ServerRefused if this is no LXD server at all."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {}
    if answer.status_code >= _FIRST_ERROR:
        raise faults.refusal(server, answer.status_code, str(body.get("error") or ""))
    if body.get("type") == "error":
        # Incus sends the headers of a wait at once, to keep the connection alive, and what came of it when it is over.
        raise ServerRefused(f"{server}: {body.get('error')}", status=int(body.get("error_code") or 0))
    if "metadata" not in body:
        raise ServerRefused(f"{server}: does not answer as LXD does", status=answer.status_code)
    operation = str(body.get("operation") or "")
    return Reply(
        status=answer.status_code,
        metadata=body["metadata"],
        # A member of a cluster adds ``?project=default``, which spoils every address made from the path.
        operation=urlsplit(operation).path.rpartition("/")[2] or None,
        etag=answer.headers.get("Etag", ""),
    )
