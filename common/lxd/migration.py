"""The bodies of the two requests that make a copy on another server.

The source offers (``offer_body``), then the target receives (``receive_body``). In pull mode the target dials the
source: the transfer belongs to the two servers, survives the death of whoever asked for it, and can be cancelled on the
source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.domain.errors import InputError
from common.domain.instance import Config, Devices, Instance
from common.domain.plan import Mode
from common.lxd import records


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A source that waits for its target: LXD's for 10 s, Incus's for 30 s. ``secrets`` open its websockets."""

    operation: str
    secrets: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Where a copy comes from.

    ``address`` is the source's HTTPS address as the target reaches it, ``certificate`` the PEM that the target finds
    there. A ``refresh`` makes an existing copy equal to the source; with ``instance_only`` it deletes the copy's
    snapshots.
    """

    address: str
    certificate: str
    offer: Offer
    mode: Mode = Mode.PULL
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
    ``instance_refresh_config``. Raises InputError for a mode other than pull.
    """
    return {
        **records.changeable(instance, config=config, devices=devices),
        "name": name,
        "type": instance.type,
        "profiles": list(profiles),
        "stateful": False,
        "source": _source(source, base_image=instance.config.get("volatile.base_image", "")),
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


def _source(transfer: Transfer, *, base_image: str) -> dict[str, Any]:
    if transfer.mode is not Mode.PULL:
        raise InputError(f"transfer mode {transfer.mode} is not supported", hint="use pull")
    return {
        "type": "migration",
        "mode": transfer.mode.value,
        "operation": f"{transfer.address}/1.0/operations/{transfer.offer.operation}",
        "certificate": transfer.certificate,
        "secrets": dict(transfer.offer.secrets),
        "base-image": base_image,
        "live": False,
        "refresh": transfer.refresh,
        "instance_only": transfer.instance_only,
        "allow_inconsistent": transfer.allow_inconsistent,
    }
