"""Records of instances: made by a create request of whatever kind, and forgotten."""

from typing import TYPE_CHECKING

from tests.simulator import records, validation
from tests.simulator.http import Refused, Request
from tests.simulator.model import Instance

if TYPE_CHECKING:
    from tests.simulator.server import Server

TAKEN = 'Failed creating instance record: Add instance info to the database: This "instances" entry already exists'


def new_record(server: "Server", request: Request) -> Instance:
    """Check a create request and make its record, which is there at once. Raises Refused."""
    body, project = request.json, request.project
    name = str(body.get("name") or "")
    validation.check_name(name)
    validation.check_architecture(str(body.get("architecture") or "x86_64"))
    profiles = ["default"] if body.get("profiles") is None else list(body["profiles"])
    validation.check_profiles(server, project, profiles)
    instance = Instance(
        name=name,
        project=project,
        config={key: value for key, value in (body.get("config") or {}).items() if value != ""},
        devices={key: dict(device) for key, device in (body.get("devices") or {}).items()},
        profiles=profiles,
        pool="",
        created_at=server.clock.now(),
        description=str(body.get("description") or ""),
        ephemeral=bool(body.get("ephemeral")),
        location=request.query.get("target") or server.location,
    )
    instance.pool = _pool(server, instance)
    if (project, name) in server.instances:
        raise Refused(500, TAKEN)
    validation.check_config(instance.config)
    devices = records.expanded(server, instance)[1]
    validation.check_devices(server, project, devices)
    validation.fill_volatile(server, instance, devices)
    server.instances[project, name] = instance
    server.note("created", instance, config=dict(instance.config), devices=sorted(devices))
    server.events.tell_lifecycle("instance-created", project, f"instances/{name}", {"storage-pool": instance.pool})
    return instance


def _pool(server: "Server", instance: Instance) -> str:
    """Where its root disk goes. A pool that is not there is silently replaced by that of a profile."""
    devices = records.expanded(server, instance)[1]
    for name, device in devices.items():
        if device.get("type") != "disk" or device.get("path") != "/":
            continue
        if device.get("pool") in server.pools:
            return device["pool"]
        inherited = _pool_of_profiles(server, instance)
        if inherited:
            instance.devices[name] = {**device, "pool": inherited}
            return inherited
    raise Refused(400, "Can't find a storage pool for the instance to use")


def _pool_of_profiles(server: "Server", instance: Instance) -> str:
    for name in reversed(instance.profiles):
        profile = server.profile(instance.project, name)
        for device in profile.devices.values() if profile else ():
            if device.get("path") == "/" and device.get("pool") in server.pools:
                return device["pool"]
    return ""


def forget(server: "Server", instance: Instance) -> None:
    """Its record goes."""
    server.instances.pop((instance.project, instance.name), None)
    server.note("deleted", instance)
    server.events.tell_lifecycle("instance-deleted", instance.project, f"instances/{instance.name}")
