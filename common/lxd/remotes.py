"""The servers that the ``lxc`` and ``incus`` clients of this user know; herder keeps no list of its own.

Reads ``config.yml``, ``servercerts/NAME.crt``, ``client.crt`` and ``client.key``; ``trust`` writes them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.domain.errors import InputError, UnknownRemote

CONFIG_FILE = "config.yml"
_LOCAL = "local"
_ADD_HINT = "`herder remote add NAME ADDRESS` adds one, and so does `lxc remote add`"


@dataclass(frozen=True, kw_only=True)
class Remote:
    """One server by the name that the client gave to it; the paths are None if there are no such files.

    ``project`` is the one that this user works in. A public one only gives out images.
    """

    name: str
    address: str
    protocol: str
    project: str
    server_certificate: Path | None
    client_certificate: Path | None
    client_key: Path | None
    directory: Path
    is_public: bool

    @property
    def has_instances(self) -> bool:
        """Whether it is a server that runs instances, not one of images."""
        return not self.is_public and self.protocol in ("lxd", "incus")


@dataclass(frozen=True, kw_only=True)
class _Product:
    """Where a product's client and its local server keep their things."""

    protocol: str
    conf_variable: str
    conf_paths: tuple[str, ...]
    socket_variables: tuple[tuple[str, str], ...]
    socket_paths: tuple[str, ...]

    def directories(self, environ: Mapping[str, str], home: Path) -> list[Path]:
        """Of the client's configuration, existing or not."""
        chosen = environ.get(self.conf_variable)
        return [Path(chosen)] if chosen else [home / path for path in self.conf_paths]

    def socket(self, environ: Mapping[str, str]) -> Path:
        """Of the local server; the usual place if there is none."""
        chosen = [Path(environ[name]) / below for name, below in self.socket_variables if environ.get(name)]
        usual = [Path(path) for path in self.socket_paths]
        return (chosen or [path for path in usual if path.exists()] or usual)[0]


_PRODUCTS = (
    _Product(
        protocol="lxd",
        conf_variable="LXD_CONF",
        conf_paths=(".config/lxc", "snap/lxd/common/config"),
        socket_variables=(("LXD_SOCKET", ""), ("LXD_DIR", "unix.socket")),
        socket_paths=("/var/snap/lxd/common/lxd/unix.socket", "/var/lib/lxd/unix.socket"),
    ),
    _Product(
        protocol="incus",
        conf_variable="INCUS_CONF",
        conf_paths=(".config/incus",),
        socket_variables=(("INCUS_SOCKET", ""), ("INCUS_DIR", "unix.socket")),
        socket_paths=("/var/lib/incus/unix.socket",),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Remotes:
    """All remotes by name. ``shadowed`` are names that a later directory has too: the first one counts."""

    known: Mapping[str, Remote]
    default: str = _LOCAL
    shadowed: tuple[str, ...] = ()

    @classmethod
    def load(cls, environ: Mapping[str, str], home: Path) -> "Remotes":
        """What the clients' directories say, LXD's first. Raises InputError that names the file and the line."""
        known: dict[str, Remote] = {}
        shadowed: list[str] = []
        default = ""
        for product in _PRODUCTS:
            local = f"unix://{product.socket(environ)}"
            for directory in product.directories(environ, home):
                if not (directory / CONFIG_FILE).is_file():
                    continue
                file = _ConfigFile.read(directory / CONFIG_FILE)
                default = default or file.default
                for name, keys in file.remotes.items():
                    remote = _remote(name, keys, directory, product.protocol, local)
                    if name not in known:
                        known[name] = remote
                    elif remote.has_instances:
                        shadowed.append(name)
        known.setdefault(_LOCAL, _local(environ, home))
        return cls(known=known, default=default or _LOCAL, shadowed=tuple(shadowed))

    def get(self, name: str) -> Remote:
        """The remote of this name. Raises UnknownRemote, also for one that only gives out images."""
        remote = self.known.get(name)
        if remote is None:
            names = ", ".join(each.name for each in self) or "none"
            raise UnknownRemote(f"no remote {name!r}; known: {names}", hint=_ADD_HINT)
        if not remote.has_instances:
            raise UnknownRemote(f"remote {name!r} ({remote.address}) gives out images and runs no instances")
        return remote

    def __iter__(self) -> Iterator[Remote]:
        """The servers that run instances, by name."""
        return (self.known[name] for name in sorted(self.known) if self.known[name].has_instances)


def configuration_directory(environ: Mapping[str, str], home: Path) -> Path:
    """Where ``lxc`` would write a new remote: the first of its directories that is there, or its usual one."""
    places = _PRODUCTS[0].directories(environ, home)
    return next((place for place in places if place.is_dir()), places[0])


def split_name(text: str, default: str = "") -> tuple[str, str]:
    """``s1:c1`` as ("s1", "c1"), and ``c1`` with the default remote."""
    remote, colon, name = text.partition(":")
    return (remote, name) if colon else (default, text)


@dataclass(frozen=True)
class _ConfigFile:
    """A ``config.yml``, checked."""

    default: str
    remotes: Mapping[str, Mapping[str, str]]

    @classmethod
    def read(cls, path: Path) -> "_ConfigFile":
        try:
            root = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise InputError(f"{path}:{line}: {error.problem}") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {error}") from error
        entries = _entries(path, root) if root else {}
        remotes = _entries(path, entries["remotes"]) if "remotes" in entries else {}
        default = entries.get("default-remote")
        return cls(
            default=_text(path, default) if default else "",
            remotes={name: _remote_keys(path, node) for name, node in remotes.items()},
        )


def _remote_keys(path: Path, node: Any) -> dict[str, str]:
    keys = {key: _text(path, value) for key, value in _entries(path, node).items() if _is_plain(value)}
    if not keys.get("addr"):
        raise InputError(f"{path}:{node.start_mark.line + 1}: a remote needs an addr")
    return keys


def _is_plain(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _entries(path: Path, node: Any) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path}:{node.start_mark.line + 1}: expected names with values")
    return {_text(path, key): value for key, value in node.value}


def _text(path: Path, node: Any) -> str:
    if not _is_plain(node):
        raise InputError(f"{path}:{node.start_mark.line + 1}: expected a plain value")
    return str(node.value)


def _remote(name: str, keys: Mapping[str, str], directory: Path, protocol: str, local: str) -> Remote:
    address = keys["addr"]
    return Remote(
        name=name,
        address=_socket_address(address, local) if address.startswith("unix:") else address,
        protocol=keys.get("protocol") or protocol,
        project=keys.get("project") or "default",
        server_certificate=_if_there(directory / "servercerts" / f"{name}.crt"),
        client_certificate=_if_there(directory / "client.crt"),
        client_key=_if_there(directory / "client.key"),
        directory=directory,
        is_public=keys.get("public") == "true",
    )


def _socket_address(address: str, local: str) -> str:
    path = address.removeprefix("unix:").removeprefix("//")
    return f"unix://{path}" if path else local


def _local(environ: Mapping[str, str], home: Path) -> Remote:
    """The server of this machine: the first product whose socket is there."""
    product = next((each for each in _PRODUCTS if each.socket(environ).exists()), _PRODUCTS[0])
    directory = product.directories(environ, home)[0]
    return _remote(_LOCAL, {"addr": "unix:"}, directory, product.protocol, f"unix://{product.socket(environ)}")


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None
