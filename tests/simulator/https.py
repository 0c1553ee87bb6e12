"""The door over HTTPS: each simulated server listens on a port of 127.0.0.1 with a certificate of its own.

A thread per connection, as many as the clients keep open. A daemon that is killed closes its port and all connections,
and opens the port again when it is started.
"""

import contextlib
import hashlib
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from tests.simulator import websockets
from tests.simulator.adapter import request_of
from tests.simulator.certificates import server_context
from tests.simulator.faults import Broken
from tests.simulator.fleet import Fleet
from tests.simulator.http import Response
from tests.simulator.server import Server

_LOCALHOST = "127.0.0.1"


class Door:
    """One server's port. ``client_pem`` is the only certificate by which a client can say who it is.

    Python's TLS cannot ask for a certificate and take any: one that is not known beforehand breaks the handshake.
    """

    def __init__(self, fleet: Fleet, server: Server, client_pem: str) -> None:
        self.fleet = fleet
        self.server = server
        self.port = int(server.address.rpartition(":")[2])
        self._client_pem = client_pem
        self._listener: _Listener | None = None
        server.watchers.append(self._daemon_changed)

    def open(self) -> None:
        """Listen."""
        context = server_context(self.server.identity)
        context.load_verify_locations(cadata=self._client_pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._listener = _Listener(self, context)
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Hang up on everybody."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            with contextlib.suppress(OSError):
                listener.socket.shutdown(socket.SHUT_RDWR)  # else the loop, asleep in poll, would keep the port
            listener.server_close()
            listener.hang_up()
            # Waits for the loop to see it, which may itself wait for the clock's lock.
            threading.Thread(target=listener.shutdown, daemon=True).start()

    def _daemon_changed(self) -> None:
        if self.server.is_up and self._listener is None:
            self.open()
        elif not self.server.is_up:
            self.close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = True  # with whoever reserved it
    request_queue_size = 128

    def __init__(self, door: Door, context: ssl.SSLContext) -> None:
        self.door = door
        self.context = context
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__((_LOCALHOST, door.port), _Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called for each connection, before its thread begins."""
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Called at the end of each connection."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Close every connection."""
        with self._lock:
            connections = list(self._connections)
        for each in connections:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is nothing to tell."""


class _Connection(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave together
    _client = ""

    @property
    def _door(self) -> Door:
        return cast("_Listener", self.server).door

    def setup(self) -> None:
        """TLS first; in the connection's own thread, so that a slow client holds up nobody."""
        context = cast("_Listener", self.server).context
        self.request = context.wrap_socket(self.request, server_side=True)
        certificate = self.request.getpeercert(binary_form=True)
        self._client = hashlib.sha256(certificate).hexdigest() if certificate else ""
        super().setup()

    def answer(self) -> None:
        """Answer one request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        match = self.headers.get("If-Match", "")
        headers = {"if-match": match} if match else {}
        request = request_of(self.command, self.path, headers, body, self._client)
        if request.parts == ("events",) and "websocket" in self.headers.get("Upgrade", "").lower():
            websockets.serve(self, self._door.fleet, self._door.server, request)
            self.close_connection = True
            return
        try:
            response = self._door.fleet.exchange(self._door.server, request, read_timeout=3600.0)
        except Broken as broken:
            self._break(broken)
        else:
            self._send(response)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 - http.server's names

    def _send(self, response: Response, *, upto: int | None = None) -> None:
        body = response.body.encode()
        self.send_response(response.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:upto])

    def _break(self, broken: Broken) -> None:
        self.close_connection = True
        if broken.half:
            self._send(Response(status=200, body=broken.half * 2), upto=len(broken.half))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Nothing: the history tells what happened."""
