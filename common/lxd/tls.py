"""TLS as LXD uses it: self-signed server certificates known by their fingerprint, and our own client certificate."""

import hashlib
import socket
import ssl
from pathlib import Path
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

from common.domain.errors import InputError
from common.lxd import faults

DEFAULT_PORT = 8443
#: Seconds after which a server that takes nothing more of a stream is given up: a busy disk holds one for a while.
_TAKES_NOTHING = 25.0


class OneWriteConnection(HTTPSConnection):
    """Sends headers and body together.

    LXD compares ``If-Match`` when it has the headers and reads the body afterwards. A process that is stopped between
    the two could otherwise complete an old write long after somebody else has changed the instance. What is sent piece
    by piece as it comes has no such header, and would not fit into memory.
    """

    _held: list[bytes] | None = None

    def request(self, *args: Any, chunked: bool = False, **kwargs: Any) -> None:
        """Called by urllib3 for each request, when it is connected."""
        if chunked:
            self.timeout = _TAKES_NOTHING
            super().request(*args, chunked=True, **kwargs)
            return
        self._held = []
        try:
            super().request(*args, **kwargs)
            together = b"".join(self._held)
        finally:
            self._held = None
        super().send(together)

    def send(self, data: Any) -> None:
        """Called by http.client for the headers, then for the body."""
        if self._held is None:
            super().send(data)
        else:
            self._held.append(data)


class _OneWritePool(HTTPSConnectionPool):
    ConnectionCls = OneWriteConnection


class PinnedAdapter(HTTPAdapter):
    """Connections with this context, to the server with this fingerprint under whatever host name."""

    def __init__(self, context: ssl.SSLContext, pin: str | None) -> None:
        self._context = context
        self._pin = pin
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Called by requests to make its pool."""
        kwargs["ssl_context"] = self._context
        if self._pin:
            kwargs |= {"assert_fingerprint": self._pin, "assert_hostname": False}
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"https": _OneWritePool}


def fingerprint(pem: str) -> str:
    """SHA-256 of a certificate, as LXD writes it. Raises InputError if it is none."""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.strip())).hexdigest()
    except ValueError as error:
        raise InputError(f"not a certificate in PEM: {error}") from error


def context(*, is_pinned: bool, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """A context that shows our certificate.

    If the server is pinned nothing else is verified, so the caller must compare the fingerprint; else the system's
    authorities decide. Raises InputError for files that cannot be used.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if is_pinned:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    else:
        made.load_default_certs()
    if certificate:
        try:
            made.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"client certificate {certificate} with key {key}: {error}") from error
    return made


def connect(
    server: str, place: tuple[str, int], using: ssl.SSLContext, *, timeout: float, pin: str | None = None
) -> ssl.SSLSocket:
    """A connection to host and port on which nothing was sent yet; with a pin, a verified one.

    Raises ServerUnreachable and NotTrusted.
    """
    with faults.translated(server):
        plain = socket.create_connection(place, timeout)
        try:
            secured = using.wrap_socket(plain, server_hostname=place[0])
        except BaseException:
            plain.close()
            raise
    if pin and hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest() != pin:
        secured.close()
        raise faults.wrong_certificate(server)
    return secured
