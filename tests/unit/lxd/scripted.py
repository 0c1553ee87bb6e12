"""A server that answers what a test tells it to, over TLS with a self-signed certificate or on a unix socket."""

import base64
import hashlib
import json
import queue
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from common.lxd.transport import Transport

Answer = Callable[["_Request"], None]


@dataclass
class Heard:
    """One request that the server received; ``port`` tells connections apart."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    port: Any


@dataclass
class ScriptedServer:
    """Gives its answers one after the other, and the last one for ever."""

    address: str
    certificate: str | None
    answers: list[Answer] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    #: The first two bytes of each websocket: what kind of frame it was.
    client_said: "queue.Queue[bytes]" = field(default_factory=queue.Queue)

    def will(self, *answers: Answer) -> None:
        self.answers = list(answers)

    def transport(self, **changes: Any) -> Transport:
        settings = {
            "server_certificate": self.certificate,
            "client_certificate": None,
            "client_key": None,
            "name": "s1",
            **changes,
        }
        return Transport(self.address, **settings)


def answer(metadata: Any = None, *, status: int = 200, **more: Any) -> Answer:
    """Answer as LXD does."""

    def act(request: "_Request") -> None:
        headers = more.pop("headers", {})
        request.reply(status, json.dumps({"type": "sync", "metadata": metadata, **more}).encode(), headers)

    return act


def refuse(status: int, error: str) -> Answer:
    """Answer with an error as LXD does."""

    def act(request: "_Request") -> None:
        request.reply(status, json.dumps({"type": "error", "error": error, "error_code": status}).encode(), {})

    return act


def after_file(then: Answer) -> Answer:
    """Answer when all of a file has come piece by piece; what is not read would be taken for the next request."""

    def act(request: "_Request") -> None:
        heard = request.scripted.heard[-1]
        heard.body = b""
        while size := int(request.rfile.readline(), 16):
            heard.body += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
        then(request)

    return act


def plain(status: int, body: str) -> Answer:
    """Answer as something that is not LXD does."""

    def act(request: "_Request") -> None:
        request.reply(status, body.encode(), {})

    return act


def cut(request: "_Request") -> None:
    """Close the connection without an answer."""
    request.close_connection = True


def silence(request: "_Request") -> None:
    """Never answer; ends when the client goes away."""
    request.rfile.read(1)
    request.close_connection = True


def frames(*payloads: bytes) -> Answer:
    """Open the websocket, send these frames and then listen until the client goes away."""

    def act(request: "_Request") -> None:
        request.upgrade()
        request.wfile.write(b"".join(payloads))
        request.scripted.client_said.put(request.rfile.read(2))
        request.rfile.read()
        request.close_connection = True

    return act


def open_and_cut(request: "_Request") -> None:
    """Open the websocket and close the connection."""
    request.upgrade()
    request.close_connection = True


def frame(code: int, payload: bytes = b"") -> bytes:
    """A short websocket frame as a server sends it."""
    assert len(payload) < 2**16
    length = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
    return bytes([0x80 | code]) + length + payload


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scripted: ScriptedServer

    def _act(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = json.loads(self.rfile.read(length)) if length else None
        port = self.client_address[1] if self.client_address else self.connection.fileno()
        self.scripted.heard.append(Heard(self.command, self.path, dict(self.headers), body, port))
        answers = self.scripted.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _act  # noqa: N815 - http.server looks for these names

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def upgrade(self) -> None:
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())  # noqa: S324
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Tests look at what was heard instead."""


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    context: ssl.SSLContext | None = None

    def get_request(self) -> tuple[Any, Any]:
        connection, address = self.socket.accept()
        if self.context:
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


class _UnixListener(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


def serve_https(certificate: Path, key: Path) -> Iterator[ScriptedServer]:
    """A server on a free port of this machine."""
    listener = _Listener(("127.0.0.1", 0), _Request)
    listener.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener.context.load_cert_chain(certificate, key)
    address = f"https://127.0.0.1:{listener.server_address[1]}"
    yield from _serve(listener, ScriptedServer(address, certificate.read_text()))


def serve_socket(path: Path) -> Iterator[ScriptedServer]:
    """The same on a unix socket."""
    yield from _serve(_UnixListener(str(path), _Request), ScriptedServer(f"unix://{path}", None))


def _serve(listener: socketserver.BaseServer, server: ScriptedServer) -> Iterator[ScriptedServer]:
    listener.RequestHandlerClass = type("Request", (_Request,), {"scripted": server})
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    listener.shutdown()
    thread.join()
    listener.server_close()
