"""Backups of instances: made, sent and dropped. What is sent is the number of what the backup holds."""

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.simulator.http import Refused, Request, Response, answer, begun
from tests.simulator.model import Instance
from tests.simulator.operations import Operation
from tests.simulator.router import router

if TYPE_CHECKING:
    from tests.simulator.server import Server

_BACKUPS = "instances/*/backups"
#: Bytes per second that a server packs.
_RATE = 200e6


@router.on("POST", _BACKUPS)
def create(server: "Server", request: Request, name: str) -> Response:
    """There from the first moment, and whole at its end; what a running guest writes until then is in it."""
    instance, backup = server.instance(request.project, name), str(request.json["name"])
    if backup in instance.backups:
        raise Refused(409, f'Backup "{backup}" already exists')
    instance.backups[backup] = None
    operation = _begin(server, "Backing up instance", instance, backup)

    def end() -> None:
        instance.settle_writes(server.clock.now())
        content = replace(instance, config=dict(instance.config), devices=dict(instance.devices), backups={})
        instance.backups[backup] = server.fleet.keep(content)
        server.operations.end(operation)

    server.later(0.05 + (instance.data.size if instance.data else 0) / _RATE, end)
    return begun(operation.record())


@router.on("GET", f"{_BACKUPS}/*")
def look(server: "Server", request: Request, name: str, backup: str) -> Response:
    _backup(server.instance(request.project, name), backup)
    return answer({"name": backup})


@router.on("GET", f"{_BACKUPS}/*/export")
def export(server: "Server", request: Request, name: str, backup: str) -> Response:
    """Half of one, if its daemon died while it made it."""
    found = _backup(server.instance(request.project, name), backup)
    text = "half of it" if found is None else str(found)
    return Response(status=200, body=text, headers={"Content-Length": str(len(text))})


@router.on("DELETE", f"{_BACKUPS}/*")
def drop(server: "Server", request: Request, name: str, backup: str) -> Response:
    instance = server.instance(request.project, name)
    _backup(instance, backup)
    operation = _begin(server, "Removing backup for instance", instance, backup)

    def end() -> None:
        instance.backups.pop(backup, None)
        server.operations.end(operation)

    server.later(0.02, end)
    return begun(operation.record())


def _backup(instance: Instance, backup: str) -> int | None:
    """Raises Refused."""
    if backup not in instance.backups:
        raise Refused(404, "Instance backup not found")
    return instance.backups[backup]


def _begin(server: "Server", description: str, instance: Instance, backup: str) -> Operation:
    operation = server.operations.begin(description, instance.project, instance.name)
    operation.resources["backups"] = [f"/1.0/backups/{backup}"]
    return operation
