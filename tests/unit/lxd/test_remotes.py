"""Reading what the lxc and incus clients know."""

from pathlib import Path

import pytest

from common.domain.errors import InputError, UnknownRemote
from common.lxd.remotes import Remotes, configuration_directory, split_name

CONFIG = """
default-remote: s1
remotes:
  s1:
    addr: https://10.0.0.1:8443
    auth_type: tls
    project: p2
    protocol: lxd
    public: false
  images:
    addr: https://images.linuxcontainers.org
    protocol: simplestreams
    public: true
  local:
    addr: unix://
    public: false
aliases: {}
"""


def write(directory: Path, config: str, *names: str) -> Path:
    """A client's directory with this config.yml and empty files of these names."""
    (directory / "servercerts").mkdir(parents=True)
    (directory / "config.yml").write_text(config)
    for name in names:
        (directory / name).touch()
    return directory


def remote(address: str) -> str:
    return f"remotes:\n  s1:\n    addr: {address}\n"


def test_a_remote_has_its_address_project_and_certificates(tmp_path: Path) -> None:
    directory = write(tmp_path / ".config/lxc", CONFIG, "servercerts/s1.crt", "client.crt", "client.key")
    remotes = Remotes.load({}, tmp_path)
    s1 = remotes.get("s1")
    assert (s1.address, s1.project, s1.protocol) == ("https://10.0.0.1:8443", "p2", "lxd")
    assert s1.server_certificate == directory / "servercerts/s1.crt"
    assert (s1.client_certificate, s1.client_key) == (directory / "client.crt", directory / "client.key")
    assert remotes.default == "s1"


def test_files_that_are_not_there_are_none(tmp_path: Path) -> None:
    write(tmp_path / ".config/lxc", CONFIG)
    s1 = Remotes.load({}, tmp_path).get("s1")
    assert (s1.server_certificate, s1.client_certificate, s1.client_key) == (None, None, None)


def test_an_unknown_remote_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    write(tmp_path / ".config/lxc", CONFIG)
    with pytest.raises(UnknownRemote, match="no remote 's2'; known: local, s1") as raised:
        Remotes.load({}, tmp_path).get("s2")
    assert "remote add" in raised.value.hint


def test_a_remote_of_images_runs_no_instances(tmp_path: Path) -> None:
    write(tmp_path / ".config/lxc", CONFIG)
    remotes = Remotes.load({}, tmp_path)
    assert [each.name for each in remotes] == ["local", "s1"]
    with pytest.raises(UnknownRemote, match="gives out images"):
        remotes.get("images")


def test_lxd_comes_before_incus_and_the_second_of_a_name_is_shadowed(tmp_path: Path) -> None:
    write(tmp_path / ".config/lxc", CONFIG)
    write(tmp_path / "snap/lxd/common/config", remote("https://10.0.0.2:8443"))
    write(
        tmp_path / ".config/incus",
        "default-remote: i1\nremotes:\n"
        "  s1: {addr: 'https://10.0.0.3:8443'}\n"
        "  i1: {addr: 'https://10.0.0.4:8443', protocol: incus}\n"
        "  images: {addr: 'https://images.linuxcontainers.org', protocol: simplestreams, public: true}\n",
    )
    remotes = Remotes.load({}, tmp_path)
    assert remotes.get("s1").address == "https://10.0.0.1:8443"
    assert remotes.get("i1").protocol == "incus"
    assert remotes.default == "s1"
    assert remotes.shadowed == ("s1", "s1")


def test_variables_say_where_the_configuration_is(tmp_path: Path) -> None:
    write(tmp_path / ".config/lxc", CONFIG)
    write(tmp_path / "other", remote("https://10.0.0.9:8443"))
    write(tmp_path / "incus", "remotes:\n  i1:\n    addr: https://10.0.0.4:8443\n")
    environ = {"LXD_CONF": str(tmp_path / "other"), "INCUS_CONF": str(tmp_path / "incus")}
    remotes = Remotes.load(environ, tmp_path)
    assert remotes.get("s1").address == "https://10.0.0.9:8443"
    assert (remotes.get("i1").protocol, remotes.get("s1").protocol) == ("incus", "lxd")
    assert remotes.default == "local"


@pytest.mark.parametrize(
    ("environ", "path"),
    [({"LXD_DIR": "/d"}, "/d/unix.socket"), ({"LXD_DIR": "/d", "LXD_SOCKET": "/x.socket"}, "/x.socket")],
)
def test_the_local_server_is_found_by_its_socket(tmp_path: Path, environ: dict[str, str], path: str) -> None:
    write(tmp_path / ".config/lxc", CONFIG)
    assert Remotes.load(environ, tmp_path).get("local").address == f"unix://{path}"


def test_the_local_server_of_incus_counts_where_there_is_no_lxd(tmp_path: Path) -> None:
    (tmp_path / "unix.socket").touch()
    local = Remotes.load({"LXD_DIR": "/nowhere", "INCUS_DIR": str(tmp_path)}, tmp_path).get("local")
    assert (local.address, local.protocol) == (f"unix://{tmp_path}/unix.socket", "incus")


def test_without_any_configuration_there_is_the_local_server(tmp_path: Path) -> None:
    remotes = Remotes.load({"LXD_DIR": "/d"}, tmp_path)
    assert [each.name for each in remotes] == ["local"]
    assert remotes.default == "local"


def test_a_socket_elsewhere_keeps_its_path(tmp_path: Path) -> None:
    write(tmp_path / ".config/lxc", remote("unix:///srv/lxd/unix.socket"))
    assert Remotes.load({}, tmp_path).get("s1").address == "unix:///srv/lxd/unix.socket"


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ("remotes:\n  s1: [\n", 3),
        ("remotes:\n  s1:\n    protocol: lxd\n", 3),
        ("remotes:\n  s1: https://10.0.0.1\n", 2),
        ("remotes: [s1]\n", 1),
        ("- s1\n", 1),
        ("remotes: {}\ndefault-remote: [s1]\n", 2),
    ],
)
def test_a_broken_file_is_named_with_the_line(tmp_path: Path, config: str, line: int) -> None:
    directory = write(tmp_path / ".config/lxc", config)
    with pytest.raises(InputError) as raised:
        Remotes.load({}, tmp_path)
    assert raised.value.message.startswith(f"{directory}/config.yml:{line}: ")


def test_an_empty_file_has_no_remotes(tmp_path: Path) -> None:
    write(tmp_path / ".config/lxc", "")
    assert [each.name for each in Remotes.load({}, tmp_path)] == ["local"]


def test_a_new_remote_goes_where_lxc_would_write_it(tmp_path: Path) -> None:
    assert configuration_directory({}, tmp_path) == tmp_path / ".config/lxc"
    (tmp_path / "snap/lxd/common/config").mkdir(parents=True)
    assert configuration_directory({}, tmp_path) == tmp_path / "snap/lxd/common/config"
    assert configuration_directory({"LXD_CONF": "/c"}, tmp_path) == Path("/c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("s1:c1", ("s1", "c1")), ("s1:", ("s1", "")), ("c1", ("local", "c1")), ("s1:a:b", ("s1", "a:b"))],
)
def test_a_name_may_say_its_remote(text: str, expected: tuple[str, str]) -> None:
    assert split_name(text, default="local") == expected
