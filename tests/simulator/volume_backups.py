"""Backups of custom volumes: made, sent, dropped, and made volumes of. What is sent is the backup's number."""

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.simulator.http import Refused, Request, Response, answer, begun
from tests.simulator.model import Volume
from tests.simulator.operations import Operation
from tests.simulator.router import router
from tests.simulator.storage import find

if TYPE_CHECKING:
    from tests.simulator.server import Server

CONTENT = "application/octet-stream"
_BACKUPS = "storage-pools/*/volumes/custom/*/backups"
#: Bytes per second that a server packs and unpacks.
_RATE = 200e6


@router.on("POST", _BACKUPS)
def create(server: "Server", request: Request, pool: str, name: str) -> Response:
    """There from the first moment, and whole at its end. Raises Refused for a name that is taken."""
    volume, backup = server.volume(request.project, pool, name), str(request.json["name"])
    if backup in volume.backups:
        raise Refused(409, f'Backup "{backup}" already exists')
    volume.backups[backup] = None
    operation = _begin(server, "Backing up storage volume", volume)

    def end() -> None:
        server.settle(volume)
        snapshots = {} if request.json.get("volume_only") else dict(volume.snapshots)
        content = replace(volume, config=dict(volume.config), snapshots=snapshots, backups={}, transfer=None)
        volume.backups[backup] = server.fleet.keep(content)
        server.operations.end(operation)

    server.later(_seconds(volume), end)
    return begun(operation.record())


@router.on("GET", _BACKUPS)
def listing(server: "Server", request: Request, pool: str, name: str) -> Response:
    path = f"/1.0/storage-pools/{pool}/volumes/custom/{name}/backups"
    return answer([f"{path}/{each}" for each in server.volume(request.project, pool, name).backups])


@router.on("GET", f"{_BACKUPS}/*/export")
def export(server: "Server", request: Request, pool: str, name: str, backup: str) -> Response:
    """Half of one, if its daemon died while it made it."""
    found = _backup(server.volume(request.project, pool, name), backup)
    text = "half of it" if found is None else str(found)
    return Response(status=200, body=text, headers={"Content-Length": str(len(text))})


@router.on("DELETE", f"{_BACKUPS}/*")
def drop(server: "Server", request: Request, pool: str, name: str, backup: str) -> Response:
    volume = server.volume(request.project, pool, name)
    _backup(volume, backup)
    operation = _begin(server, "Removing storage volume backup", volume)

    def end() -> None:
        volume.backups.pop(backup, None)
        server.operations.end(operation)

    server.later(0.02, end)
    return begun(operation.record())


def _backup(volume: Volume, backup: str) -> int | None:
    """Raises Refused."""
    if backup not in volume.backups:
        raise Refused(404, "Storage volume backup not found")
    return volume.backups[backup]


def restore(server: "Server", request: Request, pool: str) -> Response:
    """Its record is there before its data. Raises Refused for what is no whole backup."""
    there, body = find(server, pool).volumes, request.body.decode()
    if not body.isdigit():
        raise Refused(400, "Error starting unpack: Unexpected EOF in archive")
    content = server.fleet.kept(int(body))
    assert isinstance(content, Volume)
    name = request.headers.get("x-incus-name" if server.product == "incus" else "x-lxd-name") or content.name
    volume = Volume(
        name,
        request.project,
        pool,
        config=dict(content.config),
        description=content.description,
        content_type=content.content_type,
        guest=content.guest,
        snapshots=dict(content.snapshots),
    )
    operation = _begin(server, "Restoring storage volume backup", volume)
    if (request.project, name) in there:
        error = f'Create custom volume from backup: Volume "{name}" already exists in pool "{pool}"'
        server.later(0.01, lambda: server.operations.end(operation, error))
        return begun(operation.record())
    there[request.project, name] = volume
    server.note_volume("volume-created", volume)

    def end() -> None:
        volume.data = content.data
        server.note_volume("volume-received", volume)
        server.operations.end(operation)

    server.later(_seconds(content), end)
    return begun(operation.record())


def _seconds(volume: Volume) -> float:
    parts = [data.size for data in (volume.data, *volume.snapshots.values()) if data is not None]
    return 0.05 + sum(parts) / _RATE


def _begin(server: "Server", description: str, volume: Volume) -> Operation:
    operation = server.operations.begin(description, volume.project)
    path = f"/1.0/storage-pools/{volume.pool}/volumes/custom/{volume.name}"
    operation.resources = {"storage_volumes": [path]}
    return operation
