"""The event stream over a connection of ``https``: the few parts of RFC 6455 that it needs."""

import base64
import hashlib
import json
import select
import ssl
from http.server import BaseHTTPRequestHandler

from tests.simulator.events import Subscription
from tests.simulator.fleet import Fleet
from tests.simulator.http import Request
from tests.simulator.server import Server

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING = 0x1, 0x8, 0x9
_LOOK_SECONDS, _PING_SECONDS = 0.2, 10.0


def serve(connection: BaseHTTPRequestHandler, fleet: Fleet, server: Server, request: Request) -> None:
    """Send events until one side hangs up."""
    if not server.trusts(request.client):
        body = json.dumps({"type": "error", "error": "not authorized", "error_code": 403}).encode()
        connection.send_response(403)
        connection.send_header("Content-Length", str(len(body)))
        connection.end_headers()
        connection.wfile.write(body)
        return
    with fleet.clock.lock:
        subscription = server.events.subscribe(request.query)
    try:
        _accept(connection)
        _send_all(connection, fleet, server, subscription)
    finally:
        with fleet.clock.lock:
            server.events.unsubscribe(subscription)


def _accept(connection: BaseHTTPRequestHandler) -> None:
    key = connection.headers.get("Sec-WebSocket-Key", "")
    digest = hashlib.sha1((key + _MAGIC).encode(), usedforsecurity=False).digest()
    connection.send_response(101)
    connection.send_header("Upgrade", "websocket")
    connection.send_header("Connection", "Upgrade")
    connection.send_header("Sec-WebSocket-Accept", base64.b64encode(digest).decode())
    connection.end_headers()
    connection.wfile.flush()


def _send_all(connection: BaseHTTPRequestHandler, fleet: Fleet, server: Server, subscription: Subscription) -> None:
    quiet = 0.0
    while not _has_hung_up(connection):
        happened = fleet.clock.watch(lambda: bool(subscription.queue) or not subscription.is_open, _LOOK_SECONDS)
        with fleet.clock.lock:
            events = list(subscription.queue) if not server.is_frozen else []
            if events:
                subscription.queue.clear()
        for event in events:
            connection.wfile.write(_frame(_TEXT, json.dumps(event).encode()))
        if not subscription.is_open:
            return
        quiet = 0.0 if happened else quiet + _LOOK_SECONDS
        if quiet >= _PING_SECONDS and not server.is_frozen:
            quiet = 0.0
            connection.wfile.write(_frame(_PING, b"keepalive"))
        connection.wfile.flush()


def _has_hung_up(connection: BaseHTTPRequestHandler) -> bool:
    """Whether the client has closed; its pongs are read and forgotten."""
    stream: ssl.SSLSocket = connection.request
    if not stream.pending() and not select.select([stream], [], [], 0)[0]:
        return False
    data = stream.recv(4096)
    return not data or data[0] & 0x0F == _CLOSE


def _frame(opcode: int, payload: bytes) -> bytes:
    """An unmasked frame, as servers send them."""
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, size])
    elif size < 1 << 16:
        head = bytes([0x80 | opcode, 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 127]) + size.to_bytes(8, "big")
    return head + payload
