"""The bodies of the two requests that make a copy on another server.

Pull: the source offers (``offer_body``), then the target receives (``receive_body``) and dials the source. Push: the
target waits (``receive_body`` without an offer), then the source sends (``push_body``) and dials the target. Either way
the transfer belongs to the two servers and survives the death of whoever asked for it. Only a pull can be cancelled, on
the source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.domain.instance import Config, Devices, Instance
from common.domain.volume import Volume
from common.lxd import records


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A server that waits for the other one to dial: LXD for 10 s, Incus for 30 s. ``secrets`` open its websockets."""

    operation: str
    secrets: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How a copy is sent.

    ``offer`` is what waits for the dialling server at ``address``, the HTTPS address as that server reaches it, with
    ``certificate``, the PEM that it finds there. Without an offer the target waits for its source to push. A
    ``refresh`` makes an existing copy equal to the source; with ``instance_only`` it deletes the copy's snapshots.
    """

    offer: Offer | None = None
    address: str = ""
    certificate: str = ""
    refresh: bool = False
    instance_only: bool = False
    allow_inconsistent: bool = False


def offer_body(name: str, *, instance_only: bool, allow_inconsistent: bool) -> dict[str, Any]:
    """Body of the source's ``POST /1.0/instances/NAME``."""
    return {
        "name": name,
        "migration": True,
        # Left out, LXD takes it for true and tries to move the memory of a running container.
        "live": False,
        "instance_only": instance_only,
        "allow_inconsistent": allow_inconsistent,
    }


def push_body(name: str, to: Transfer) -> dict[str, Any]:
    """Body of the source's ``POST /1.0/instances/NAME`` to a target that waits."""
    body = offer_body(name, instance_only=to.instance_only, allow_inconsistent=to.allow_inconsistent)
    return body | {"target": _peer(to)}


def receive_body(
    instance: Instance,
    *,
    name: str,
    config: Config,
    devices: Devices,
    profiles: Sequence[str],
    source: Transfer,
) -> dict[str, Any]:
    """Body of the target's ``POST /1.0/instances``.

    The copy gets exactly this config, these devices and profiles; a server ignores them in a refresh, unless it knows
    ``instance_refresh_config``.
    """
    return {
        **records.changeable(instance, config=config, devices=devices),
        "name": name,
        "type": instance.type,
        "profiles": list(profiles),
        # Of a virtual machine: its memory is among the files that come, and its next start goes on with it.
        "stateful": instance.stateful and instance.is_virtual_machine,
        "source": _source(source, base_image=instance.config.get("volatile.base_image", "")),
    }


def clone_body(instance: Instance, *, name: str, config: Config) -> dict[str, Any]:
    """Body of a ``POST /1.0/instances`` that copies a stopped instance on its own server, with its snapshots.

    The clone gets this config, and the source's where it says nothing; volatile keys that are left out are made anew.
    """
    return {
        **records.changeable(instance, config=config, devices=instance.devices),
        "name": name,
        "type": instance.type,
        "stateful": False,
        "source": {"type": "copy", "source": instance.name, "project": instance.project},
    }


def generation_body(
    name: str, *, of: Instance, config: Config, devices: Devices, snapshot: str = "", profiles: Sequence[str] = ()
) -> dict[str, Any]:
    """Body of a ``POST /1.0/instances`` that makes an instance of a snapshot of ``of`` on its own server.

    What config and devices do not say is as in the snapshot. Without one it is a clone of ``of``.
    """
    return {
        "name": name,
        "type": of.type,
        "architecture": of.architecture,
        "description": of.description,
        "profiles": list(profiles),
        "config": dict(config),
        "devices": {device: dict(keys) for device, keys in devices.items()},
        "source": {"type": "copy", "source": f"{of.name}/{snapshot}".rstrip("/"), "project": of.project},
    }


def reserve_body(instance: Instance, *, name: str, config: Config, devices: Devices) -> dict[str, Any]:
    """Body of a ``POST /1.0/instances`` that waits for a source which never comes: LXD makes the record at once.

    It takes it back after 10 s, unless the record has another name by then.
    """
    return {
        **records.changeable(instance, config=config, devices=devices),
        "name": name,
        "type": instance.type,
        "profiles": [],
        "stateful": False,
        "source": {"type": "migration", "mode": "push"},
    }


def volume_offer_body(pool: str, name: str, *, volume_only: bool) -> dict[str, Any]:
    """Body of the source's ``POST /1.0/storage-pools/POOL/volumes/custom/NAME``."""
    return {"name": name, "pool": pool, "migration": True, "volume_only": volume_only}


def volume_push_body(pool: str, name: str, to: Transfer) -> dict[str, Any]:
    """The same to a target that waits."""
    return volume_offer_body(pool, name, volume_only=to.instance_only) | {"target": _peer(to)}


def volume_receive_body(volume: Volume, *, config: Config, source: Transfer, name: str = "") -> dict[str, Any]:
    """Body of the target's ``POST /1.0/storage-pools/POOL/volumes/custom``; a refresh ignores the config.

    The copy has the same ``name`` if it is left out.
    """
    return {
        "name": name or volume.name,
        "type": "custom",
        "content_type": volume.content_type,
        "description": volume.description,
        "config": dict(config),
        "source": {
            "type": "migration",
            "mode": "pull" if source.offer else "push",
            "name": volume.name,
            "pool": volume.pool,
            **_peer(source),
            "refresh": source.refresh,
            "volume_only": source.instance_only,
        },
    }


def _source(transfer: Transfer, *, base_image: str) -> dict[str, Any]:
    return {
        "type": "migration",
        "mode": "pull" if transfer.offer else "push",
        **_peer(transfer),
        "base-image": base_image,
        "live": False,
        "refresh": transfer.refresh,
        "instance_only": transfer.instance_only,
        "allow_inconsistent": transfer.allow_inconsistent,
    }


def _peer(transfer: Transfer) -> dict[str, Any]:
    """Whom to dial, and how it knows the caller."""
    if transfer.offer is None:
        return {}
    return {
        "operation": f"{transfer.address}/1.0/operations/{transfer.offer.operation}",
        "certificate": transfer.certificate,
        "secrets": dict(transfer.offer.secrets),
    }
