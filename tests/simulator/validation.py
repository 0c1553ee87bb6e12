"""What LXD 5.0.2 refuses in an instance's config, devices and profiles, when it is made, changed and started."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tests.simulator.http import Refused
from tests.simulator.model import Config, Devices, Instance

if TYPE_CHECKING:
    from tests.simulator.server import Server

_INITIALISING = "Failed creating instance record: Failed initialising instance"
NO_PATH = "The required device path doesn't exist and the major and minor settings are not specified"
_KNOWN_KEY = re.compile(
    r"(user|image|limits|boot|security|environment|linux|migration|raw|nvidia|cloud-init|snapshots)\..+"
    r"|cluster\.evacuate"
    r"|volatile\.(uuid|base_image|apply_template|apply_nvram|apply_quota|cloud-init\.instance-id|evacuate\.origin"
    r"|idmap\.(base|current|next)|last_state\.(idmap|power)"
    r"|.+\.(hwaddr|host_name|name|apply_quota|last_state\.[a-z.]+))"
)
_DEVICE_TYPES = frozenset(
    {
        "none",
        "nic",
        "disk",
        "unix-char",
        "unix-block",
        "usb",
        "gpu",
        "infiniband",
        "proxy",
        "unix-hotplug",
        "tpm",
        "pci",
    }
)
_ARCHITECTURES = frozenset({"x86_64", "i686", "aarch64", "armv7l", "ppc64le", "s390x", "riscv64"})
_HERE = frozenset({"x86_64", "i686"})
_NAME = re.compile(r"[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")


def check_name(name: str) -> None:
    """Raises Refused."""
    if not _NAME.fullmatch(name):
        raise Refused(400, f"Invalid instance name: {name!r}")


def check_architecture(architecture: str) -> None:
    """Raises Refused."""
    if architecture not in _ARCHITECTURES:
        raise Refused(400, f"Architecture isn't supported: {architecture}")
    if architecture not in _HERE:
        raise Refused(500, "Failed creating instance record: Requested architecture isn't supported by this host")


def check_config(config: Mapping[str, str]) -> None:
    """Raises Refused."""
    for key in config:
        if not _KNOWN_KEY.fullmatch(key):
            raise Refused(500, f"Failed creating instance record: Unknown configuration key: {key}")


def check_profiles(server: "Server", project: str, profiles: Iterable[str]) -> None:
    """Raises Refused."""
    for name in profiles:
        if server.profile(project, name) is None:
            raise Refused(500, f'Requested profile "{name}" doesn\'t exist')


def check_devices(server: "Server", project: str, devices: Devices) -> None:
    """What is checked when a device is added, whether the instance runs or not. Raises Refused."""
    for name, device in devices.items():
        kind = device.get("type", "")
        if kind not in _DEVICE_TYPES:
            raise Refused(500, f'Device validation failed for "{name}": Invalid device type {kind}')
        problem = ""
        if kind == "none" and len(device) > 1:
            problem = f"Invalid device option {next(key for key in device if key != 'type')!r}"
        elif kind == "nic" and device.get("network") and device["network"] not in networks(server, project):
            problem = f'Failed to load network "{device["network"]}" for project "{project}": Network not found'
        elif kind == "disk" and device.get("path") != "/":
            problem = _disk_problem(server, project, name, device)
        if problem:
            raise Refused(500, f'{_INITIALISING}: Failed add validation for device "{name}": {problem}')


def _disk_problem(server: "Server", project: str, name: str, device: Mapping[str, str]) -> str:
    pool, source = device.get("pool"), device.get("source", "")
    if not pool:
        return "" if source in server.host_paths else f'Missing source path "{source}" for disk "{name}"'
    if pool not in server.pools or (project, source) not in server.pools[pool].volumes:
        return "Failed loading custom volume: Storage volume not found"
    return ""


def networks(server: "Server", project: str) -> set[str]:
    """The networks that NICs of a project may use."""
    return server.networks.get(project) or server.networks["default"]


def unpluggable(server: "Server", devices: Devices) -> str:
    """Why these devices cannot be given to a container that runs or starts; ``""`` if they can."""
    for name, device in devices.items():
        source = device.get("source") or device.get("path", "")
        is_char = device.get("type") in ("unix-char", "unix-block")
        if is_char and device.get("required", "true") == "true" and source not in server.host_paths:
            return f'Failed to start device "{name}": {NO_PATH}'
        parent = device.get("parent")
        if device.get("type") == "nic" and parent and parent not in server.networks["default"]:
            return f'Failed to start device "{name}": Parent device "{parent}" doesn\'t exist'
    return ""


def added(before: Devices, after: Devices) -> Devices:
    """Devices that are new or others."""
    return {name: device for name, device in after.items() if before.get(name) != device}


def fill_volatile(server: "Server", instance: Instance, devices: Devices) -> None:
    """The keys that LXD gives to every new instance: its uuid and the addresses of its NICs."""
    config: Config = instance.config
    config.setdefault("volatile.uuid", server.new_id())
    config.setdefault("volatile.cloud-init.instance-id", server.new_id())
    fill_addresses(server, config, devices)


def fill_addresses(server: "Server", config: Config, devices: Devices) -> None:
    """A MAC address for each NIC that has none."""
    for name, device in devices.items():
        if device.get("type") == "nic" and "hwaddr" not in device:
            config.setdefault(f"volatile.{name}.hwaddr", server.fleet.new_mac())
