"""The door in process: herder's own client, whose requests go to simulated servers instead of a network.

``requests`` builds each request and reads each answer as always; only the sending is replaced. ``transport_to`` makes
the ``Transport``, ``clients`` what workers and producers call ``client_of``.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from json import dumps
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import requests
import websocket
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from common.lxd import faults as errors
from common.lxd.client import LxdClient
from common.lxd.transport import Reply, Transport
from common.lxd.transport import _read as read_reply  # what any transport makes of an answer
from tests.simulator.events import Subscription
from tests.simulator.faults import Broken, Way
from tests.simulator.fleet import CLIENT, Fleet
from tests.simulator.http import Request, Response
from tests.simulator.server import Server

_PING_SECONDS = 10.0


def request_of(method: str, target: str, headers: Mapping[str, str], body: bytes | str | None, client: str) -> Request:
    """A request as the core takes it; ``target`` is path and query."""
    path, _, query = target.partition("?")
    parts = tuple(unquote(part) for part in path.split("/")[2:] if part)
    return Request(
        method=method,
        path=path,
        parts=parts,
        query=dict(parse_qsl(query)) if query else {},
        headers=headers,
        body=body.encode() if isinstance(body, str) else body or b"",
        client=client,
    )


class SimulatedAdapter(BaseAdapter):
    """For a ``requests`` session. ``pin`` is the fingerprint that the server must have, ``client`` our own."""

    def __init__(self, fleet: Fleet, pin: str | None, client: str) -> None:
        super().__init__()
        self._fleet = fleet
        self._pin = pin
        self._client = client

    def send(self, request: requests.PreparedRequest, *_: Any, timeout: Any = None, **__: Any) -> requests.Response:
        """Called by requests, which passes more than is used here."""
        url = str(request.url)
        server = _server_at(self._fleet, url, self._pin)
        asked = request_of(
            str(request.method), request.path_url, _known(request.headers), _whole(request.body), self._client
        )
        read_timeout = timeout[1] if isinstance(timeout, tuple) else timeout
        try:
            answer = self._fleet.exchange(server, asked, read_timeout=float(read_timeout or 40.0))
        except Broken as broken:
            raise _as_requests_does(broken, request) from broken
        return _response(request, answer)

    def close(self) -> None:
        """Nothing is open."""


class SimulatedTransport(Transport):
    """A ``Transport`` to a simulated server: another adapter in its sessions, another kind of websocket."""

    def __init__(self, fleet: Fleet, server: Server, *, client: str = CLIENT, **options: Any) -> None:
        super().__init__(
            server.address,
            server_certificate=server.identity.certificate,
            client_certificate=None,
            client_key=None,
            name=server.name,
            **options,
        )
        self._fleet = fleet
        self._adapter = SimulatedAdapter(fleet, self._pin, client)
        self._client = client

    @contextmanager
    def download(self, path: str, params: Mapping[str, str]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """All of it in one piece."""
        asked = request_of("GET", f"{path}?{urlencode(params)}", {}, None, self._client)
        with errors.translated(self.name):
            server = _server_at(self._fleet, self._base, self._pin)
            try:
                answer = self._fleet.exchange(server, asked, read_timeout=self._timeouts[1])
            except Broken as broken:
                raise _as_requests_does(broken, None) from broken
        if "Content-Length" not in answer.headers:
            read_reply(self.name, _response(None, answer))
        yield int(answer.headers["Content-Length"]), iter([answer.body.encode()])

    def websocket(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        """The event stream; there is no other websocket here."""
        with errors.translated(self.name):
            server = _server_at(self._fleet, self.address + path, self._pin)
            asked = request_of("GET", "/1.0", {}, None, self._client)
            try:
                self._fleet.exchange(server, asked, read_timeout=self._timeouts[1])
            except Broken as broken:
                raise _as_requests_does(broken, None) from broken
        if not server.trusts(self._client):
            raise errors.refusal(self.name, 403, "not authorized")
        with self._fleet.clock.lock:
            return EventStream(self._fleet, server, server.events.subscribe(params or {}))

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._of_thread, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False
            session.mount("https://", self._adapter)
            self._of_thread.session = session
        return session


class DirectTransport(SimulatedTransport):
    """The same without ``requests`` in between: four times as fast, for campaigns with very many requests."""

    def _attempt(self, method: str, path: str, *, timeout: float | None, **what: Any) -> Reply:
        body, params = what.get("json"), what.get("params")
        target = f"{path}?{urlencode(params)}" if params else path
        sent = _whole(what.get("data")) if body is None else dumps(body)
        asked = request_of(method, target, _known(what.get("headers") or {}), sent, self._client)
        with errors.translated(self.name):
            server = _server_at(self._fleet, self._base, self._pin)
            try:
                answer = self._fleet.exchange(server, asked, read_timeout=timeout or self._timeouts[1])
            except Broken as broken:
                raise _as_requests_does(broken, None) from broken
        return read_reply(self.name, _response(None, answer))


class EventStream:
    """What a ``websocket.WebSocket`` is to ``common.lxd.events``. Listening never moves a virtual clock."""

    def __init__(self, fleet: Fleet, server: Server, subscription: Subscription) -> None:
        self._fleet = fleet
        self._server = server
        self._subscription = subscription
        self._timeout = 25.0

    def settimeout(self, seconds: float) -> None:
        self._timeout = seconds

    def recv_data(self, *, control_frame: bool = False) -> tuple[int, bytes]:  # noqa: ARG002
        """An event, or a ping when nothing happens. Raises websocket.WebSocketException."""
        queue: deque[dict[str, Any]] = self._subscription.queue
        clock = self._fleet.clock
        heard = clock.watch(lambda: bool(queue) or not self._subscription.is_open, min(_PING_SECONDS, self._timeout))
        with clock.lock:
            if queue:
                return websocket.ABNF.OPCODE_TEXT, dumps(queue.popleft()).encode()
            if not self._subscription.is_open:
                raise websocket.WebSocketConnectionClosedException("Connection to remote host was lost.")
            if not heard and (self._server.is_frozen or self._timeout <= _PING_SECONDS):
                raise websocket.WebSocketTimeoutException("timed out")
            return websocket.ABNF.OPCODE_PING, b"keepalive"

    def close(self, timeout: float = 0) -> None:  # noqa: ARG002
        """Hang up."""
        with self._fleet.clock.lock:
            self._server.events.unsubscribe(self._subscription)


def client_of(fleet: Fleet, server: str, *, client: str = CLIENT, direct: bool = False) -> LxdClient:
    """A client of one server of the fleet, which it knows by its present certificate; ``direct`` without requests."""
    kind = DirectTransport if direct else SimulatedTransport
    return LxdClient(server, kind(fleet, fleet.servers[server], client=client))


def clients(fleet: Fleet, *, direct: bool = False) -> Callable[[str], LxdClient]:
    """Clients by the servers' names, made when first asked for: what a runner and its listeners take."""
    made: dict[str, LxdClient] = {}

    def of(name: str) -> LxdClient:
        if name not in made:
            made[name] = client_of(fleet, name, direct=direct)
        return made[name]

    return of


def _known(headers: Mapping[str, Any]) -> dict[str, str]:
    """The headers that a server looks at."""
    known = ("if-match", "content-type", "x-lxd-name", "x-incus-name")
    return {name.lower(): str(value) for name, value in headers.items() if name.lower() in known}


def _whole(body: Iterable[bytes] | bytes | str | None) -> bytes | str | None:
    """What is sent piece by piece arrives as a whole, or not at all."""
    return body if body is None or isinstance(body, bytes | str) else b"".join(body)


def _server_at(fleet: Fleet, url: str, pin: str | None) -> Server:
    place = urlsplit(url)
    server = fleet.at(f"https://{place.netloc}")
    if server is None:
        raise requests.ConnectionError(f"Failed to resolve {place.netloc}")
    if pin and server.is_up and pin != server.identity.fingerprint:
        raise requests.exceptions.SSLError(f"Fingerprints did not match. Expected {pin!r}")
    return server


def _as_requests_does(broken: Broken, request: requests.PreparedRequest | None) -> requests.RequestException:
    """The exception that requests would raise."""
    if broken.way is Way.SILENT:
        return requests.ReadTimeout("Read timed out.", request=request)
    if broken.half:
        return requests.exceptions.ChunkedEncodingError("IncompleteRead", request=request)
    return requests.ConnectionError(ConnectionError(broken.way.value), request=request)


def _response(request: requests.PreparedRequest | None, answer: Response) -> requests.Response:
    made = requests.Response()
    made.status_code = answer.status
    made.headers = CaseInsensitiveDict(answer.headers)
    if request is not None:
        made.request = request
        made.url = str(request.url)
    made.encoding = "utf-8"
    made.raw = BytesIO()
    made._content = answer.body.encode()  # what reading from the network would have left there
    return made
