"""What a server's JSON means; the only file that knows LXD's field names.

Used by ``client`` and ``events``. Anything may be null: a server writes ``"config": null`` for an instance whose
cluster member is down, or for what a restricted certificate may not see.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from common.domain.fleet import Definition, Member, Pool, Processor, Profile, ServerInfo
from common.domain.instance import Config, Devices, Instance, Snapshot
from common.domain.operation import Operation
from common.domain.volume import Volume

#: The status of a pool or a network that is finished.
_MADE = "Created"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

Record = Mapping[str, Any]


def server_info(record: Record) -> ServerInfo:
    """From ``GET /1.0``; before we are trusted it tells nothing but ``trusted`` and ``extensions``."""
    environment = record.get("environment") or {}
    return ServerInfo(
        name=environment.get("server_name") or "",
        product=environment.get("server") or "",
        version=environment.get("server_version") or "",
        pid=environment.get("server_pid") or 0,
        trusted=record.get("auth") == "trusted",
        extensions=frozenset(record.get("api_extensions") or ()),
        architectures=tuple(environment.get("architectures") or ()),
        addresses=tuple(environment.get("addresses") or ()),
        certificate=environment.get("certificate") or "",
        clustered=bool(environment.get("server_clustered")),
        qemu=_qemu(environment),
    )


def _qemu(environment: Record) -> str:
    """``driver`` and ``driver_version`` list the same things in the same order: ``"qemu | lxc"``, ``"7.2 | 5.0"``."""
    drivers, versions = (str(environment.get(key) or "").split(" | ") for key in ("driver", "driver_version"))
    return dict(zip(drivers, versions, strict=False)).get("qemu", "")


def ovn_networks(listing: Iterable[Record]) -> frozenset[str]:
    """Names of those of OVN, from ``GET /1.0/networks?recursion=1``."""
    return frozenset(each["name"] for each in listing if each.get("type") == "ovn")


def processor(record: Record) -> Processor:
    """From ``GET /1.0/resources``; LXD 5.0.2 tells no flags."""
    sockets: Iterable[Record] = (record.get("cpu") or {}).get("sockets") or ()
    models = sorted({f"{socket.get('vendor') or ''} {socket.get('name') or ''}".strip() for socket in sockets})
    flags = [frozenset(core.get("flags") or ()) for socket in sockets for core in socket.get("cores") or ()]
    return Processor(model=", ".join(models), flags=frozenset.intersection(*flags) if flags else frozenset())


def member(record: Record, *, etag: str = "") -> Member:
    """From ``GET /1.0/cluster/members`` and ``GET /1.0/cluster/members/NAME``."""
    return Member(
        name=record["server_name"],
        address=record.get("url") or "",
        status=record.get("status") or "",
        message=record.get("message") or "",
        groups=tuple(record.get("groups") or ()),
        roles=tuple(record.get("roles") or ()),
        config=_config(record.get("config")),
        failure_domain=record.get("failure_domain") or "",
        description=record.get("description") or "",
        etag=etag,
    )


def instance(record: Record, *, etag: str = "") -> Instance:
    """From ``GET /1.0/instances/NAME`` and its listing; ``snapshots`` is None unless the record has them."""
    snapshots = record.get("snapshots")
    return Instance(
        name=record["name"],
        project=record.get("project") or "default",
        type=record.get("type") or "container",
        status=record.get("status") or "",
        architecture=record.get("architecture") or "",
        description=record.get("description") or "",
        ephemeral=bool(record.get("ephemeral")),
        stateful=bool(record.get("stateful")),
        profiles=tuple(record.get("profiles") or ()),
        config=_config(record.get("config")),
        devices=_devices(record.get("devices")),
        expanded_config=_config(record.get("expanded_config")),
        expanded_devices=_devices(record.get("expanded_devices")),
        location=_location(record),
        created_at=_moment(record.get("created_at")),
        last_used_at=_moment(record.get("last_used_at")),
        snapshots=None if snapshots is None else tuple(snapshot(each) for each in snapshots),
        etag=etag,
    )


def changeable(before: Instance, *, config: Config, devices: Devices) -> dict[str, Any]:
    """Body of a PUT that leaves all but config and devices as it was."""
    return {
        "architecture": before.architecture,
        "description": before.description,
        "ephemeral": before.ephemeral,
        "stateful": before.stateful,
        "profiles": list(before.profiles),
        "config": dict(config),
        "devices": {name: dict(device) for name, device in devices.items()},
    }


def snapshot(record: Record) -> Snapshot:
    """From ``GET /1.0/instances/NAME/snapshots``; its name there may be ``INSTANCE/SNAPSHOT``."""
    return Snapshot(
        name=str(record["name"]).rpartition("/")[2],
        created_at=_moment(record.get("created_at")),
        stateful=bool(record.get("stateful")),
        profiles=tuple(record.get("profiles") or ()),
    )


def pool(record: Record, resources: Record) -> Pool:
    """From ``GET /1.0/storage-pools`` and the pool's ``/resources``."""
    space = resources.get("space") or {}
    return Pool(
        name=record["name"],
        driver=record.get("driver") or "",
        total=space.get("total") or 0,
        used=space.get("used") or 0,
    )


def definition(record: Record) -> Definition:
    """From ``GET /1.0/storage-pools``, ``GET /1.0/networks`` and ``GET /1.0/projects``."""
    return Definition(
        driver=record.get("driver") or record.get("type") or "",
        description=record.get("description") or "",
        config=_config(record.get("config")),
        is_made=record.get("status", _MADE) == _MADE,
    )


def profile(record: Record, *, etag: str = "") -> Profile:
    """From ``GET /1.0/profiles`` or ``/1.0/profiles/NAME``."""
    return Profile(
        name=record["name"],
        description=record.get("description") or "",
        config=_config(record.get("config")),
        devices=_devices(record.get("devices")),
        etag=etag,
    )


def volume(record: Record, *, pool: str, project: str, etag: str = "") -> Volume:
    """From ``GET /1.0/storage-pools/POOL/volumes/custom/NAME`` and its listing."""
    return Volume(
        pool=pool,
        name=record["name"],
        project=project,
        config=_config(record.get("config")),
        description=record.get("description") or "",
        content_type=record.get("content_type") or "filesystem",
        used_by=tuple(record.get("used_by") or ()),
        member=location if (location := record.get("location") or "none") != "none" else "",
        etag=etag,
    )


def operation(record: Record) -> Operation:
    """From ``GET /1.0/operations/ID``, its listing and the event stream.

    ``resources`` keeps paths like ``/1.0/instances/c1``, without the ``?project=``: a listing shows one project only.
    """
    resources: Mapping[str, Iterable[str]] = record.get("resources") or {}
    return Operation(
        id=record["id"],
        status_code=record["status_code"],
        description=record.get("description") or "",
        error=record.get("err") or "",
        may_cancel=bool(record.get("may_cancel")),
        resources={kind: tuple(urlsplit(url).path for url in urls) for kind, urls in resources.items()},
        metadata=record.get("metadata") or {},
        created_at=_moment(record.get("created_at")),
        location=_location(record),
    )


def operations(record: Mapping[str, Iterable[Record]]) -> tuple[Operation, ...]:
    """From ``GET /1.0/operations?recursion=1``, which groups them by status."""
    return tuple(operation(each) for group in record.values() for each in group)


def names(urls: Iterable[str]) -> frozenset[str]:
    """The last part of each URL in a listing."""
    return frozenset(unquote(urlsplit(url).path.rpartition("/")[2]) for url in urls)


def moment(text: str) -> datetime:
    """A time as the server writes it, nanoseconds and all."""
    return datetime.fromisoformat(text)


def _moment(text: str | None) -> datetime:
    return moment(text) if text else _LONG_AGO


def _config(record: Mapping[str, str] | None) -> Config:
    return dict(record or {})


def _devices(record: Mapping[str, Mapping[str, str] | None] | None) -> Devices:
    return {name: dict(device or {}) for name, device in (record or {}).items()}


def _location(record: Record) -> str:
    """The cluster member, ``""`` for a server that stands alone and calls itself ``none``."""
    location = record.get("location") or ""
    return "" if location == "none" else location
