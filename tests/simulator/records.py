"""What a simulated server's things look like as LXD's JSON."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from tests.simulator.http import Json
from tests.simulator.model import Config, Devices, Instance, Profile, Snapshot

if TYPE_CHECKING:
    from tests.simulator.server import Server

_STATUS_CODES = {"Running": 103, "Stopped": 102, "Frozen": 110, "Error": 112}
_NEVER = "1970-01-01T00:00:00Z"


def etag(*parts: Any) -> str:
    """The hash of what a thing is made of."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def instance_etag(instance: Instance) -> str:
    return etag(instance.architecture, instance.config, instance.devices, instance.ephemeral, instance.profiles)


def profile_etag(profile: Profile) -> str:
    return etag(profile.config, profile.description, profile.devices)


def expanded(server: "Server", instance: Instance) -> tuple[Config, Devices]:
    """Config and devices with those of the profiles, later ones over earlier ones, its own over all."""
    config: Config = {}
    devices: Devices = {}
    for name in instance.profiles:
        profile = server.profile(instance.project, name)
        if profile is not None:
            config.update(profile.config)
            devices.update(profile.devices)
    config.update(instance.config)
    devices.update(instance.devices)
    return config, devices


def instance_record(server: "Server", instance: Instance) -> Json:
    config, devices = expanded(server, instance)
    return {
        "name": instance.name,
        "project": instance.project,
        "type": "container",
        "status": instance.status,
        "status_code": _STATUS_CODES[instance.status],
        "architecture": instance.architecture,
        "description": instance.description,
        "ephemeral": instance.ephemeral,
        "stateful": False,
        "profiles": instance.profiles,
        "config": instance.config,
        "devices": instance.devices,
        "expanded_config": config,
        "expanded_devices": devices,
        "location": instance.location,
        "created_at": server.timestamp(instance.created_at),
        "last_used_at": _NEVER if instance.last_used_at is None else server.timestamp(instance.last_used_at),
    }


def state_record(instance: Instance) -> Json:
    return {
        "status": instance.status,
        "status_code": _STATUS_CODES[instance.status],
        "pid": 4711 if instance.is_alive else 0,
        "processes": 3 if instance.is_alive else 0,
        "disk": {},
        "memory": {},
        "network": {},
        "cpu": {"usage": 0},
    }


def snapshot_record(server: "Server", instance: Instance, snapshot: Snapshot) -> Json:
    return {
        "name": snapshot.name,
        "architecture": instance.architecture,
        "config": snapshot.config,
        "devices": snapshot.devices,
        "expanded_config": snapshot.config,
        "expanded_devices": snapshot.devices,
        "ephemeral": False,
        "stateful": False,
        # LXD keeps no profiles of a snapshot: it tells those that its instance has now.
        "profiles": instance.profiles,
        "created_at": server.timestamp(snapshot.created_at),
        "expires_at": "0001-01-01T00:00:00Z",
        "last_used_at": _NEVER,
        "size": -1,
    }


def profile_record(server: "Server", profile: Profile) -> Json:
    return {
        "name": profile.name,
        "description": profile.description,
        "config": profile.config,
        "devices": profile.devices,
        "used_by": [_url(instance) for instance in users_of(server, profile)],
    }


def users_of(server: "Server", profile: Profile) -> list[Instance]:
    """The instances that use a profile."""
    return [
        instance
        for instance in server.instances.values()
        if profile.name in instance.profiles and server.profiles_of(instance.project) == profile.project
    ]


def _url(instance: Instance) -> str:
    suffix = "" if instance.project == "default" else f"?project={instance.project}"
    return f"/1.0/instances/{instance.name}{suffix}"
