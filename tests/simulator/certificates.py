"""Certificates of simulated servers and clients: real ones for the HTTPS door, cheap made-up ones in process."""

import base64
import hashlib
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFETIME = timedelta(days=3650)


@dataclass(frozen=True)
class Identity:
    """A certificate as PEM, and its key, which a made-up one does not have."""

    certificate: str
    key: str = ""

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate.strip())).hexdigest()


def made_up(seed: str) -> Identity:
    """Something in the form of a certificate that has a fingerprint; no TLS library would take it."""
    body = base64.encodebytes(hashlib.sha512(seed.encode()).digest()).decode().replace("\n", "")
    return Identity(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")


def real(name: str) -> Identity:
    """A self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP384R1())
    owner = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "simulator"), _common_name(name)])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1")), x509.DNSName("localhost")])
    certificate = (
        x509.CertificateBuilder(owner, owner, key.public_key(), x509.random_serial_number(), now, now + _LIFETIME)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA384())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return Identity(certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem.decode())


def server_context(identity: Identity) -> ssl.SSLContext:
    """Asks clients for a certificate and takes any: who is trusted is the server's own business."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "server.crt"), Path(folder, "server.key")
        certificate.write_text(identity.certificate)
        key.touch(mode=0o600)
        key.write_text(identity.key)
        context.load_cert_chain(certificate, key)
    return context


def _common_name(name: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.COMMON_NAME, name)
