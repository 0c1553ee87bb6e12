"""``/1.0/instances``: list, look, change, rename, delete, make; what comes by migration is in ``migration``."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.simulator import breakage, creation, migration, records, snapshots, validation
from tests.simulator.http import Json, Refused, Request, Response, answer, begun
from tests.simulator.model import Data, Devices, Instance, Snapshot
from tests.simulator.profiles import backup_missing, check_etag
from tests.simulator.router import router

if TYPE_CHECKING:
    from tests.simulator.server import Server

_BUSY = 'Failed to create instance {} operation: Instance is busy running a "{}" operation'
_CREATE, _RENAME, _DELETE, _PUT = 0.06, 0.03, 0.05, 0.018
#: Bytes per second: of a clone on a dir pool, which is a copy of every file, and of a deletion.
_CLONE_RATE = 400 * 1024**2
_DELETE_RATE = 4 * 1024**3


@router.on("GET", "instances")
def list_instances(server: "Server", request: Request) -> Response:
    """Of one project, or of all that the client may see. Filters are not simulated, so they are not ignored either."""
    if "filter" in request.query:
        raise Refused(501, "the simulator evaluates no filters")
    if request.query.get("all-projects") == "true":
        wanted = {each for each in server.projects if server.may_see(request.client, each)}
    else:
        wanted = {request.project}
    found = [instance for instance in server.instances.values() if instance.project in wanted]
    if request.is_recursive:
        return answer([_record(server, each, request.query["recursion"] == "2") for each in found])
    return answer([f"/1.0/instances/{each.name}" for each in found])


def _record(server: "Server", instance: Instance, with_all: bool) -> Json:
    record = records.instance_record(server, instance)
    if with_all:
        snapshots = [records.snapshot_record(server, instance, each) for each in instance.snapshots.values()]
        record |= {"snapshots": snapshots, "backups": [], "state": records.state_record(instance)}
    return record


@router.on("GET", "instances/*")
def get_instance(server: "Server", request: Request, name: str) -> Response:
    instance = server.instance(request.project, name)
    record = _record(server, instance, request.is_recursive)
    return answer(record, etag=records.instance_etag(instance))


@router.on("PATCH", "instances/*")
def patch_instance(server: "Server", request: Request, name: str) -> Response:
    """Change it at once. What is left out stays, but for the description, which LXD 5.0.2 empties."""
    instance = server.instance(request.project, name)
    check_etag(request, records.instance_etag(instance))
    body = request.json
    changes = {
        "description": body.get("description") or "",
        "config": _merged(instance.config, body.get("config") or {}),
        "devices": {**instance.devices, **(body.get("devices") or {})},
        "profiles": instance.profiles if body.get("profiles") is None else body["profiles"],
        "ephemeral": body.get("ephemeral", instance.ephemeral),
    }
    _update(server, instance, changes)
    return answer({})


@router.on("PUT", "instances/*")
def put_instance(server: "Server", request: Request, name: str) -> Response:
    """Begin to write it as a whole; the ETag is compared at once."""
    instance = server.instance(request.project, name)
    check_etag(request, records.instance_etag(instance))
    body = request.json
    operation = server.operations.begin("Updating instance", request.project, name, location=instance.location)

    def done() -> None:
        changes = {
            "description": body.get("description") or "",
            "config": {key: value for key, value in (body.get("config") or {}).items() if value != ""},
            "devices": body.get("devices") or {},
            "profiles": body.get("profiles") if body.get("profiles") is not None else ["default"],
            "ephemeral": body.get("ephemeral", False),
        }
        try:
            _update(server, instance, changes)
        except Refused as refusal:
            server.operations.end(operation, refusal.text)
        else:
            server.operations.end(operation)

    server.later(_PUT, done)
    return begun(operation.record())


@router.on("POST", "instances/*")
def post_instance(server: "Server", request: Request, name: str) -> Response:
    """Offer it to another server, or rename it."""
    instance = server.instance(request.project, name)
    if request.json.get("migration"):
        return migration.offer(server, request, instance)
    return _rename(server, request, instance, str(request.json.get("name") or ""))


@router.on("DELETE", "instances/*")
def delete_instance(server: "Server", request: Request, name: str) -> Response:
    """Begin to delete it with its snapshots. Raises Refused if it runs."""
    instance = server.instance(request.project, name)
    if instance.is_alive:
        raise Refused(400, "Instance is running")
    operation = server.operations.begin("Deleting instance", request.project, name, location=instance.location)
    problem = _undeletable(server, instance)
    if problem:
        server.later(0.02, lambda: server.operations.end(operation, problem))
        return begun(operation.record())
    size = instance.data.size if instance.data else 0
    instance.busy = "delete"
    instance.data = None  # a daemon that dies from now on leaves a record without a file system
    instance.snapshots.clear()

    def done() -> None:
        creation.forget(server, instance)
        server.operations.end(operation)

    server.later(_DELETE + size / _DELETE_RATE, done)
    return begun(operation.record())


@router.on("POST", "instances")
def create_instance(server: "Server", request: Request) -> Response:
    """Make one from an image or from nothing, or receive one. Raises Refused for what is missing."""
    _known(server, request.project)
    source = request.json.get("source") or {}
    if source.get("type") == "migration":
        return migration.receive(server, request)
    if source.get("type") == "copy":
        name, _, snapshot = str(source.get("source") or "").partition("/")
        original = server.instance(request.project, name)
        if not snapshot:
            return _clone(server, request, original)
        return _clone(server, request, _as_it_was(original, snapshots.find(original, snapshot), request))
    alias = str(source.get("alias") or "")
    if source.get("type") == "image" and alias not in server.images:
        raise Refused(404, "Image not found")
    instance = creation.new_record(server, request)
    operation = server.operations.begin("Creating instance", request.project, instance.name)
    instance.busy = "create"

    def done() -> None:
        image = server.images.get(alias)
        size = image.size if image else 0
        instance.data = Data(server.fleet.new_generation(), 0, size)
        if image:
            instance.guest = image.guest
        instance.config |= {"volatile.apply_template": "create", "volatile.last_state.idmap": "[]"}
        instance.busy = ""
        server.note("written", instance, token=instance.data.token)
        server.operations.end(operation)

    server.work(_CREATE, done)
    return begun(operation.record())


def _as_it_was(instance: Instance, snapshot: Snapshot, request: Request) -> Instance:
    """The instance of a snapshot; the devices of it that the request does not name come along too."""
    request.json["devices"] = {**snapshot.devices, **(request.json.get("devices") or {})}
    was = replace(instance, config=dict(snapshot.config), data=snapshot.data, snapshots={})
    was.has_lost_root = False
    return was


@router.on("GET", "instances/*/files")
def get_files(server: "Server", request: Request, name: str) -> Response:
    """What its root directory has, which is nothing that matters. Raises Refused if it has none."""
    instance = server.instance(request.project, name)
    if instance.data is None or instance.has_lost_root:
        raise Refused(404, 'Failed expanding symlinks of "": lstat: no such file or directory')
    return answer([])


def _clone(server: "Server", request: Request, original: Instance) -> Response:
    """Copy one on its own server with its snapshots; what the request's config does not say is the original's."""
    name = str(request.json.get("name") or "")
    if (request.project, name) in server.instances:
        operation = server.operations.begin("Creating instance", request.project, name)
        server.later(0.01, lambda: server.operations.end(operation, creation.TAKEN))
        return begun(operation.record())
    kept = {key: value for key, value in original.config.items() if not key.startswith("volatile.")}
    request.json["config"] = {**kept, **(request.json.get("config") or {})}
    clone = creation.new_record(server, request)
    operation = server.operations.begin("Creating instance", request.project, clone.name)
    clone.busy, clone.guest = "create", original.guest
    volumes = [original.data, *(each.data for each in original.snapshots.values())]
    copies = 0.0 if server.pools[clone.pool].sends_deltas else sum(data.size for data in volumes if data) / _CLONE_RATE

    def done() -> None:
        clone.busy = ""
        if original.data is None or original.has_lost_root:
            creation.forget(server, clone)
            server.operations.end(operation, f"Create instance from copy: Volume of {original.name} does not exist")
            return
        clone.data = original.data
        for each in original.snapshots.values():
            clone.snapshots[each.name] = replace(each, config=dict(each.config), received=False)
        clone.config |= {"volatile.apply_template": "copy", "volatile.last_state.idmap": "[]"}
        server.note("written", clone, token=clone.data.token)
        server.operations.end(operation)

    server.work(_CREATE + copies, done)
    return begun(operation.record())


def _update(server: "Server", instance: Instance, changes: dict[str, Any]) -> None:
    """Take all changes or none. Raises Refused."""
    if instance.busy:
        raise Refused(500, _BUSY.format("update", instance.busy))
    validation.check_config(changes["config"])
    validation.check_profiles(server, instance.project, changes["profiles"])
    before = records.expanded(server, instance)[1]
    old = (instance.description, instance.config, instance.devices, instance.profiles, instance.ephemeral)
    instance.description, instance.ephemeral = changes["description"], changes["ephemeral"]
    instance.config, instance.devices, instance.profiles = changes["config"], changes["devices"], changes["profiles"]
    after = records.expanded(server, instance)[1]
    try:
        _check_new_devices(server, instance, validation.added(before, after))
    except Refused:
        instance.description, instance.config, instance.devices, instance.profiles, instance.ephemeral = old
        raise
    validation.fill_addresses(server, instance.config, after)
    if (instance.config, instance.devices, instance.profiles) != old[1:4]:
        note_config(server, instance)
    # The database has the change, although it is refused.
    if instance.is_unusable:
        raise Refused(404, backup_missing(instance))
    if instance.is_uneven:
        raise Refused(500, f"Failed to write backup file: {breakage.UNEVEN}")
    server.events.tell_lifecycle("instance-updated", instance.project, f"instances/{instance.name}")


def _check_new_devices(server: "Server", instance: Instance, new: Devices) -> None:
    validation.check_devices(server, instance.project, new)
    problem = validation.unpluggable(server, new) if instance.is_alive else ""
    if problem:
        raise Refused(500, problem)


def note_config(server: "Server", instance: Instance) -> None:
    """Write what it is made of into the history."""
    server.note(
        "configured",
        instance,
        config=dict(instance.config),
        devices=sorted(instance.devices),
        profiles=list(instance.profiles),
    )


def _rename(server: "Server", request: Request, instance: Instance, new: str) -> Response:
    validation.check_name(new)
    if (instance.project, new) in server.instances:
        raise Refused(409, f'Name "{new}" already in use')
    old = instance.name
    operation = server.operations.begin("Renaming instance", request.project, old, location=instance.location)

    def done() -> None:
        problem = "Renaming of running instance not allowed" if instance.is_alive else ""
        if instance.busy:
            problem = _BUSY.format("rename", instance.busy)
        if not problem and (instance.project, new) in server.instances:
            problem = f'Name "{new}" already in use'
        if not problem:
            del server.instances[instance.project, old]
            instance.name = new
            ownerless = server.pools[instance.pool].ownerless
            if (instance.project, old) in ownerless:
                ownerless.remove((instance.project, old))
                instance.orphans.add("unknown")
            server.instances[instance.project, new] = instance
            server.note("renamed", instance, old=old)
            server.events.tell_lifecycle("instance-renamed", instance.project, f"instances/{new}", {"old_name": old})
            problem = breakage.UNEVEN if instance.is_uneven else ""
        server.operations.end(operation, problem)

    server.later(_RENAME, done)
    return begun(operation.record())


def _undeletable(server: "Server", instance: Instance) -> str:
    """Why it cannot be deleted, ``""`` if it can."""
    if records.expanded(server, instance)[0].get("security.protection.delete") == "true":
        return "Container is protected"
    if instance.transfer is not None and instance.is_unusable and instance.snapshots:
        return "Cannot remove an instance volume that has snapshots"
    if instance.busy:
        return _BUSY.format("delete", instance.busy)
    if instance.orphans:
        return "Error deleting storage volume: Cannot remove a volume that has snapshots"
    is_wreck = instance.is_unusable and instance.snapshots and server.pools[instance.pool].driver == "btrfs"
    if is_wreck or instance.has_lost_root:
        return f"Error deleting storage volume: {breakage.NO_SUBVOLUME.format(instance.name)}"
    return ""


def _merged(config: dict[str, str], changes: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in {**config, **changes}.items() if value != ""}


def _known(server: "Server", project: str) -> str:
    if project not in server.projects:
        raise Refused(404, "Project not found")
    return project
