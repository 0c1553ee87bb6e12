"""How a server and we come to trust each other."""

import base64
import json
import ssl
import stat
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from common.domain.errors import InputError, NotTrusted, ServerUnreachable
from common.lxd.remotes import Remotes
from common.lxd.tls import fingerprint
from common.lxd.trust import Token, add_remote, client_certificate, first_contact, https_address
from tests.unit.lxd.scripted import Answer, ScriptedServer, answer, refuse

NOWHERE = "127.0.0.1:9"


def stranger(*extensions: str) -> Answer:
    return answer({"auth": "untrusted", "api_extensions": list(extensions)})


def friend() -> Answer:
    return answer({"auth": "trusted", "environment": {"server_name": "s1"}})


def token_of(server: ScriptedServer, *addresses: str) -> str:
    content = {"fingerprint": pin(server), "addresses": addresses or [address(server)], "secret": "x"}
    return base64.b64encode(json.dumps(content).encode()).decode()


def address(server: ScriptedServer) -> str:
    return server.address.removeprefix("https://")


def pin(server: ScriptedServer) -> str:
    assert server.certificate
    return fingerprint(server.certificate)


def yes(_: str) -> bool:
    return True


def nobody(_: str) -> bool:
    raise AssertionError("nobody needs to confirm what a token vouches for")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / ".config/lxc"


def test_first_contact_shows_the_certificate_to_judge(server: ScriptedServer) -> None:
    pem, found = first_contact(server.address)
    assert pem.strip() == (server.certificate or "").strip()
    assert found == pin(server)


def test_a_remote_that_trusts_us_already_is_only_written_down(
    server: ScriptedServer, directory: Path, tmp_path: Path
) -> None:
    server.will(friend())
    info = add_remote(directory, "s1", server.address, confirm=lambda found: found == pin(server))
    assert info.name == "s1"
    assert [request.method for request in server.heard] == ["GET"]
    added = Remotes.load({}, tmp_path).get("s1")
    assert added.address == server.address
    assert added.server_certificate == directory / "servercerts/s1.crt"
    assert added.server_certificate.read_text().strip() == (server.certificate or "").strip()


@pytest.mark.parametrize(
    ("extensions", "sent"), [((), ("password", "trust_token")), (("explicit_trust_token",), ("trust_token",))]
)
def test_a_token_vouches_for_the_server_and_opens_it(
    server: ScriptedServer, directory: Path, extensions: tuple[str, ...], sent: tuple[str, ...]
) -> None:
    token = token_of(server, NOWHERE, address(server))
    server.will(stranger(*extensions), answer({}, status=201), friend())
    add_remote(directory, "s1", confirm=nobody, token=token)
    body = server.heard[1].body
    assert (server.heard[1].method, server.heard[1].path) == ("POST", "/1.0/certificates")
    assert {key: value for key, value in body.items() if key not in ("type", "name")} == dict.fromkeys(sent, token)


def test_a_token_of_another_server_is_refused_before_it_is_shown(
    server: ScriptedServer, directory: Path, tmp_path: Path
) -> None:
    server.will(stranger())
    other = base64.b64encode(
        json.dumps({"fingerprint": fingerprint(client_certificate(tmp_path)[0].read_text()), "addresses": []}).encode()
    ).decode()
    with pytest.raises(NotTrusted, match="another certificate"):
        add_remote(directory, "s1", server.address, confirm=yes, token=other)
    assert server.heard == []


def test_a_password_opens_a_server_that_still_takes_one(server: ScriptedServer, directory: Path) -> None:
    server.will(stranger(), answer({}, status=201), friend())
    add_remote(directory, "s1", server.address, confirm=yes, password="pw")
    assert server.heard[1].body["password"] == "pw"


@pytest.mark.parametrize(
    ("answers", "password", "message"),
    [
        ([stranger()], "", "s1: does not know our certificate"),
        ([stranger(), refuse(403, "not authorized")], "wrong", "s1: not authorized"),
        ([stranger(), answer({}, status=201), stranger()], "pw", "s1: took our certificate but does not trust it"),
    ],
)
def test_a_server_that_does_not_trust_us_does_not_become_a_remote(
    server: ScriptedServer, directory: Path, answers: list[Answer], password: str, message: str
) -> None:
    server.will(*answers)
    with pytest.raises(NotTrusted, match=message):
        add_remote(directory, "s1", server.address, confirm=yes, password=password)
    assert not (directory / "config.yml").exists()


def test_a_fingerprint_that_is_not_confirmed_ends_it(server: ScriptedServer, directory: Path) -> None:
    server.will(friend())
    with pytest.raises(NotTrusted, match="was not confirmed"):
        add_remote(directory, "s1", server.address, confirm=lambda _: False)
    assert server.heard == []
    assert not directory.exists()


def test_what_the_client_has_already_is_kept(server: ScriptedServer, directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "config.yml").write_text(
        "default-remote: s9\nremotes:\n  s9: {addr: 'https://s9:8443'}\naliases: {ls: list}\n"
    )
    server.will(friend())
    add_remote(directory, "s1", server.address, confirm=yes)
    config = yaml.safe_load((directory / "config.yml").read_text())
    assert (config["default-remote"], config["aliases"]) == ("s9", {"ls": "list"})
    assert list(config["remotes"]) == ["local", "s1", "s9"]
    with pytest.raises(InputError, match="there is a remote s1"):
        add_remote(directory, "s1", server.address, confirm=yes)


@pytest.mark.parametrize("name", ["", "a:b", "../x", "a b", ".hidden"])
def test_a_name_that_cannot_be_used_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name of a remote"):
        add_remote(directory, name, NOWHERE, confirm=yes)


def test_a_server_that_does_not_answer_is_unreachable(server: ScriptedServer, directory: Path) -> None:
    with pytest.raises(ServerUnreachable):
        add_remote(directory, "s1", NOWHERE, confirm=yes)
    with pytest.raises(ServerUnreachable):
        add_remote(directory, "s1", confirm=yes, token=token_of(server, NOWHERE))


def test_without_address_and_token_there_is_nothing_to_add(directory: Path) -> None:
    with pytest.raises(InputError, match="neither an address nor a token"):
        add_remote(directory, "s1", confirm=yes)


@pytest.mark.parametrize(
    "text", ["", "not base64!", base64.b64encode(b"{}").decode(), base64.b64encode(b"[]").decode()]
)
def test_a_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a trust token"):
        Token.read(text)


def test_our_certificate_is_made_once_and_its_key_is_for_us_alone(tmp_path: Path) -> None:
    certificate, key = client_certificate(tmp_path)
    before = certificate.read_bytes(), key.read_bytes()
    assert client_certificate(tmp_path) == (certificate, key)
    assert (certificate.read_bytes(), key.read_bytes()) == before
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.unlink()
    with pytest.raises(InputError, match="belong together"):
        client_certificate(tmp_path)


def test_our_certificate_is_one_for_clients_on_p384(tmp_path: Path) -> None:
    certificate, key = client_certificate(tmp_path)
    made = x509.load_pem_x509_certificate(certificate.read_bytes())
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    private = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.curve.name == "secp384r1"
    ssl.create_default_context().load_cert_chain(certificate, key)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s1", "https://s1:8443"),
        ("s1:9443", "https://s1:9443"),
        ("https://s1", "https://s1:8443"),
        ("[fd42::1]:8443", "https://[fd42::1]:8443"),
    ],
)
def test_an_address_may_be_short(text: str, expected: str) -> None:
    assert https_address(text) == expected


@pytest.mark.parametrize("text", ["", "http://s1", "unix:///x", "s1:port", "https://:8443"])
def test_an_address_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        https_address(text)
