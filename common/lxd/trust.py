"""How a server and we come to trust each other: its certificate is pinned, ours is added to its trust store.

Writes what the real ``lxc`` client writes, where it writes it, so that either can use the remotes of the other;
``remotes`` reads it.
"""

import base64
import binascii
import getpass
import json
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.domain.errors import HerderError, InputError, NotTrusted, ServerUnreachable
from common.domain.fleet import ServerInfo
from common.lxd import faults, records, tls
from common.lxd.remotes import CONFIG_FILE
from common.lxd.transport import Transport

_LIFETIME = timedelta(days=3650)
_TIMEOUT = 5.0
_TOKEN_HINT = "make a token there: `lxc config trust add --name herder`, `incus config trust add herder`"  # noqa: S105


@dataclass(frozen=True, kw_only=True)
class Token:
    """An invitation by a server's owner; it tells which certificate the server has, so nobody needs to confirm it."""

    fingerprint: str
    addresses: tuple[str, ...]
    text: str = field(repr=False)

    @classmethod
    def read(cls, text: str) -> "Token":
        """Raises InputError if it is no token."""
        try:
            content = json.loads(base64.b64decode(text.strip(), validate=True))
            return cls(fingerprint=content["fingerprint"], addresses=tuple(content["addresses"]), text=text.strip())
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise InputError("this is not a trust token", hint=_TOKEN_HINT) from error


def first_contact(address: str) -> tuple[str, str]:
    """The certificate that a server shows, as PEM, and its fingerprint; nobody has verified it yet.

    Raises ServerUnreachable.
    """
    place = urlsplit(https_address(address))
    context = tls.context(is_pinned=True, certificate=None, key=None)
    with tls.connect(address, (place.hostname or "", place.port or 0), context, timeout=_TIMEOUT) as connection:
        pem = ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")
    return pem, tls.fingerprint(pem)


def https_address(text: str) -> str:
    """``https://HOST:PORT`` of ``HOST``, ``HOST:PORT`` or the whole. Raises InputError."""
    place = urlsplit(text if "://" in text else f"//{text}")
    try:
        port = place.port or tls.DEFAULT_PORT
    except ValueError as error:
        raise InputError(f"{text}: {error}") from error
    if place.scheme not in ("", "https") or not place.hostname:
        raise InputError(f"{text}: not an address of a server", hint="write HOST or https://HOST:8443")
    host = f"[{place.hostname}]" if ":" in place.hostname else place.hostname
    return f"https://{host}:{port}"


def add_remote(
    directory: Path,
    name: str,
    address: str = "",
    *,
    confirm: Callable[[str], bool],
    token: str = "",
    password: str = "",
    protocol: str = "lxd",
) -> ServerInfo:
    """Make a server a remote of this name in the client's configuration directory, trusted both ways.

    With a token the address may be left out. Without one, ``confirm`` is asked whether the fingerprint is right, and
    either the password is right or the server trusts our certificate already. The entry itself is written last: after
    an error nothing refers to the rest. Raises InputError, NotTrusted, ServerUnreachable and ServerRefused.
    """
    _refuse_bad_name(directory, name)
    invitation = Token.read(token) if token else None
    address, pem = _find(address, invitation)
    if invitation is None and not confirm(tls.fingerprint(pem)):
        raise NotTrusted(f"{name}: its certificate was not confirmed", hint="compare it with `lxc info` on the server")
    certificate, key = client_certificate(directory)
    transport = Transport(address, server_certificate=pem, client_certificate=certificate, client_key=key, name=name)
    info = _become_trusted(transport, invitation, password)
    _write(directory / "servercerts", f"{name}.crt", pem)
    _enter(
        directory,
        name,
        {"addr": address, "auth_type": "tls", "project": "default", "protocol": protocol, "public": False},
    )
    return info


def client_certificate(directory: Path) -> tuple[Path, Path]:
    """Our certificate and its key, made if there are none yet. Raises InputError if only one of them is there."""
    certificate, key = directory / "client.crt", directory / "client.key"
    if certificate.exists() != key.exists():
        raise InputError(f"{directory}: client.crt and client.key belong together, and one of them is missing")
    if not certificate.exists():
        pem, key_pem = _make_certificate()
        _write(directory, "client.key", key_pem, mode=0o600)
        _write(directory, "client.crt", pem)
    return certificate, key


def _refuse_bad_name(directory: Path, name: str) -> None:
    if not name or any(character in name for character in ":/ ") or name.startswith("."):
        raise InputError(f"{name!r} cannot be the name of a remote", hint="use letters, digits and hyphens")
    if name in _config(directory).get("remotes", {}):
        raise InputError(f"there is a remote {name} in {directory / CONFIG_FILE}", hint="choose another name")


def _find(address: str, invitation: Token | None) -> tuple[str, str]:
    """Where the server answers, and its certificate. Raises NotTrusted if it is not the one that invited us."""
    if not address and not invitation:
        raise InputError("neither an address nor a token was given", hint=_TOKEN_HINT)
    candidates = [address] if address else list(invitation.addresses if invitation else ())
    address, (pem, found) = _first_that_answers([https_address(each) for each in candidates])
    if invitation and found != invitation.fingerprint:
        raise faults.wrong_certificate(address)
    return address, pem


def _first_that_answers(addresses: Sequence[str]) -> tuple[str, tuple[str, str]]:
    error: HerderError = InputError("the token names no address", hint="give the server's address too")
    for address in addresses:
        try:
            return address, first_contact(address)
        except ServerUnreachable as unreachable:
            error = unreachable
    raise error


def _become_trusted(transport: Transport, invitation: Token | None, password: str) -> ServerInfo:
    info = records.server_info(transport.request("GET", "/1.0").metadata)
    if info.trusted:
        return info
    secret = invitation.text if invitation else password
    if not secret:
        raise NotTrusted(f"{transport.name}: does not know our certificate", hint=_TOKEN_HINT)
    request = {"type": "client", "name": f"herder@{socket.gethostname()}", **_credentials(info, secret)}
    transport.request("POST", "/1.0/certificates", json=request)
    info = records.server_info(transport.request("GET", "/1.0").metadata)
    if not info.trusted:
        raise NotTrusted(f"{transport.name}: took our certificate but does not trust it")
    return info


def _credentials(info: ServerInfo, secret: str) -> dict[str, str]:
    """LXD 5.0 takes a token as ``password``, Incus only as ``trust_token``; neither tells a stranger which it is."""
    if "explicit_trust_token" in info.extensions:
        return {"trust_token": secret}
    return {"password": secret, "trust_token": secret}


def _make_certificate() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP384R1())
    owner = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "herder"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{getpass.getuser()}@{socket.gethostname()}"[:64]),
        ]
    )
    now = datetime.now(UTC)
    usage = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign", "encipher_only"),
        False,
    )
    certificate = (
        x509.CertificateBuilder(owner, owner, key.public_key(), x509.random_serial_number(), now, now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_encipherment=True, decipher_only=False, **usage), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA384())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem.decode()


def _config(directory: Path) -> dict[str, Any]:
    file = directory / CONFIG_FILE
    try:
        found = yaml.safe_load(file.read_text()) if file.exists() else None
    except yaml.YAMLError as error:
        raise InputError(f"{file}: {error}") from error
    return found if isinstance(found, dict) else {}


def _enter(directory: Path, name: str, entry: dict[str, Any]) -> None:
    config = _config(directory)
    config.setdefault("default-remote", "local")
    config.setdefault("remotes", {})[name] = entry
    config.setdefault("aliases", {})
    # lxc, too, reads a file without it as one without a local server.
    config["remotes"].setdefault("local", {"addr": "unix://", "public": False})
    _write(directory, CONFIG_FILE, yaml.safe_dump(config))


def _write(directory: Path, name: str, text: str, mode: int = 0o644) -> None:
    """Replace a file as a whole, so that no reader sees half of it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    half = directory / f".{name}.{os.getpid()}"
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    half.replace(directory / name)
