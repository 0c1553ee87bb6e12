"""``/1.0/instances/NAME/snapshots``."""

from typing import TYPE_CHECKING

from tests.simulator import breakage, records
from tests.simulator.http import Refused, Request, Response, answer, begun
from tests.simulator.model import Instance, Snapshot
from tests.simulator.router import router

if TYPE_CHECKING:
    from tests.simulator.server import Server

_ON_BTRFS = 0.05
#: A snapshot on a dir pool is a full copy: bytes per second.
_COPY_RATE = 400 * 1024**2
_DELETE = 0.03
_TAKEN = (
    'Failed creating instance snapshot record "{}": Add snapshot info to the database: '
    'This "instances_snapshots" entry already exists'
)


@router.on("GET", "instances/*/snapshots")
def list_snapshots(server: "Server", request: Request, name: str) -> Response:
    instance = server.instance(request.project, name)
    found = instance.snapshots.values()
    if request.is_recursive:
        return answer([records.snapshot_record(server, instance, each) for each in found])
    return answer([f"/1.0/instances/{name}/snapshots/{each.name}" for each in found])


@router.on("GET", "instances/*/snapshots/*")
def get_snapshot(server: "Server", request: Request, name: str, snapshot: str) -> Response:
    instance = server.instance(request.project, name)
    return answer(records.snapshot_record(server, instance, find(instance, snapshot)))


@router.on("POST", "instances/*/snapshots")
def create_snapshot(server: "Server", request: Request, name: str) -> Response:
    """Begin; a name that is taken shows in the operation."""
    instance = server.instance(request.project, name)
    snapshot = str(request.json.get("name") or f"snap{len(instance.snapshots)}")
    operation = server.operations.begin("Snapshotting instance", request.project, name, location=instance.location)
    data = instance.data
    copies = 0.0 if server.pools[instance.pool].sends_deltas or data is None else data.size / _COPY_RATE
    began = server.clock.now()
    instance.snapshotting = snapshot

    def done() -> None:
        instance.snapshotting = ""
        if instance.is_uneven:
            error = breakage.UNEVEN
        elif instance.data is None:
            error = f"Create instance snapshot: Volume of {name} does not exist"
        elif snapshot in instance.snapshots:
            error = _TAKEN.format(snapshot)
        else:
            error = ""
            config = {key: value for key, value in instance.config.items() if key != "volatile.apply_template"}
            devices = {key: dict(device) for key, device in instance.devices.items()}
            instance.snapshots[snapshot] = Snapshot(snapshot, began, config, devices, data)
            server.note("snapshot-created", instance, snapshot=snapshot, token=data.token if data else "")
            path = f"instances/{name}/snapshots/{snapshot}"
            server.events.tell_lifecycle("instance-snapshot-created", instance.project, path)
        server.operations.end(operation, error)

    server.later(_ON_BTRFS + copies, done)
    return begun(operation.record())


@router.on("DELETE", "instances/*/snapshots/*")
def delete_snapshot(server: "Server", request: Request, name: str, snapshot: str) -> Response:
    """Begin. Raises Refused if it is not there."""
    instance = server.instance(request.project, name)
    find(instance, snapshot)
    operation = server.operations.begin(
        "Deleting snapshot", request.project, f"{name}/{snapshot}", location=instance.location
    )

    def done() -> None:
        if instance.transfer is not None and instance.transfer.sends(instance):
            server.operations.end(operation, "Failed to delete snapshot: Operation not permitted")
            return
        instance.snapshots.pop(snapshot, None)
        instance.phantoms.discard(snapshot)
        server.note("snapshot-deleted", instance, snapshot=snapshot)
        server.operations.end(operation)

    server.later(_DELETE, done)
    return begun(operation.record())


def find(instance: Instance, snapshot: str) -> Snapshot:
    """Raises Refused."""
    found = instance.snapshots.get(snapshot)
    if found is None:
        where = f'of instance "{instance.name}" in project "{instance.project}"'
        raise Refused(404, f'Failed to fetch snapshot "{snapshot}" {where}: InstanceSnapshot not found')
    return found
