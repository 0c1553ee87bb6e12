"""Can this instance move to this server? Pure; asked by the planner for a whole plan and by preflight for one job.

All findings are returned at once, each with what to do. On LXD 5.0.2 most of them would otherwise surface after the
bytes have moved, or never: a missing pool is silently replaced by that of a profile, a missing bridge fails the start.
"""

from collections.abc import Iterable, Iterator, Mapping

from common.domain.fleet import Profile, Server
from common.domain.instance import GUARD_DEVICE, Devices, Instance, is_root_disk
from common.domain.plan import Finding, Method, Mode, Move, NameMap, Retire

#: Room that a move leaves free in the target's pool, in bytes; a full pool can no longer even delete.
POOL_RESERVE = 256 * 1024**2
#: What both servers must know.
REQUIRED_EXTENSIONS = frozenset({"container_incremental_copy", "instances", "projects"})


#: The servers that herder knows, as they call themselves; one that does not trust us does not say.
PRODUCTS = frozenset({"lxd", "incus", ""})
#: A server that has it gives every snapshot a key that one without it does not know.
_SNAPSHOTS_HAVE_GENERATION = "instance_generation_id"


def findings(
    instance: Instance, move: Move, source: Server, target: Server, *, own_job: str = ""
) -> tuple[Finding, ...]:
    """Everything that stands in the way of this move, refusals and warnings. ``own_job`` may already hold it."""
    return (
        *_about_servers(source, target),
        *_about_instance(instance, move, own_job),
        *_about_name(move, target, own_job),
        *_about_resources(instance, move, target),
        *_about_differences(instance, move, source, target),
        *(_about_copying(instance, move, source) if move.is_copy else ()),
    )


def _refuse(code: str, message: str, hint: str) -> Finding:
    return Finding(code=code, message=message, hint=hint)


def _about_servers(source: Server, target: Server) -> Iterator[Finding]:
    for server in (source, target):
        if not server.info.trusted:
            yield _refuse(
                "not_trusted",
                f"{server.remote} does not trust our certificate",
                f"`herder remote add {server.remote} ADDRESS` with a token made on it",
            )
        if server.info.clustered or server.info.product not in PRODUCTS:
            what = "a cluster" if server.info.clustered else server.info.product
            yield _refuse(
                "server_kind",
                f"{server.remote} is {what}; only standalone servers of LXD and Incus are supported",
                "another server",
            )
        missing = sorted(REQUIRED_EXTENSIONS - server.info.extensions)
        if missing:
            yield _refuse("extension", f"{server.remote} lacks the API extensions {', '.join(missing)}", "upgrade it")
    if source.info.certificate == target.info.certificate:
        yield _refuse(
            "same_server", f"{source.remote} and {target.remote} are the same server", "choose another target"
        )


def _about_differences(instance: Instance, move: Move, source: Server, target: Server) -> Iterator[Finding]:
    """What the one server has and the other does not know; all that is sent must be known."""
    sends_generation = _SNAPSHOTS_HAVE_GENERATION in source.info.extensions - target.info.extensions
    if sends_generation and not move.overrides.instance_only:
        yield _refuse(
            "snapshots",
            f"{target.remote} ({target.info.product} {target.info.version}) cannot take snapshots from {source.remote} "
            f"({source.info.product} {source.info.version}): it does not know volatile.uuid.generation",
            "leave the snapshots behind with `herder move --method cold --instance-only`, or choose another target",
        )
    for setting in sorted({**instance.own_config, **move.overrides.config}.items()):
        if setting in target.refused_config:
            yield _refuse(
                "config",
                f"{target.remote} does not take its config {setting[0]}={setting[1]}: {target.refused_config[setting]}",
                f"`lxc config unset {move.source}:{instance.name} {setting[0]}`, and set what {target.remote} "
                "has instead after the move",
            )


def _about_instance(instance: Instance, move: Move, own_job: str) -> Iterator[Finding]:
    holder = instance.marks.get("job", "")
    if instance.is_retired and holder != own_job:
        revive = f"`lxc config device remove {move.source}:{instance.name} {GUARD_DEVICE}`"
        hint = f"delete it; or, once the moved one is gone, bring it back to life with {revive}"
        yield _refuse("retired", f"job {holder} has moved it away; this is the retired source", hint)
    elif holder and holder != own_job and instance.marks.get("state") != "retired":
        hint = f"`herder retry {holder}` or `herder cancel {holder}`"
        yield _refuse("claimed", f"it belongs to job {holder}", hint)
    is_ours_frozen = instance.status == "Frozen" and holder == own_job and bool(holder)
    if instance.status not in ("Running", "Stopped") and not is_ours_frozen:
        yield _refuse("status", f"its status is {instance.status}", "unfreeze, start or stop it first")
    if instance.is_virtual_machine:
        yield _refuse("virtual_machine", "it is a virtual machine", "stop it and move it with `lxc move` for now")
    if instance.ephemeral and instance.is_running and not move.is_copy:
        yield _refuse(
            "ephemeral", "it is ephemeral: stopping it would delete the source", "make it non-ephemeral first"
        )
    if move.policy.mode is Mode.RELAY:
        yield _refuse("mode", "mode relay is not supported", "use auto, pull or push")
    if move.method is Method.WARM and move.overrides.instance_only:
        yield _refuse("instance_only", "a warm move needs its snapshots", "use `method: cold` with instance-only")
    if (
        not move.is_copy
        and move.policy.retire is Retire.DELETE
        and instance.expanded_config.get("security.protection.delete") == "true"
    ):
        yield _refuse(
            "protected", "security.protection.delete keeps the source from being deleted", "use `retire: stop`"
        )


def _about_copying(instance: Instance, move: Move, source: Server) -> Iterator[Finding]:
    """Warnings: what a copy does to a source that goes on, and what both would have."""
    pool = source.pools.get(instance.root_pool)
    if instance.is_running and pool is not None and pool.driver == "dir" and not move.overrides.allow_inconsistent:
        yield Finding(
            code="freezes",
            message=f"LXD freezes it while it is copied, because its pool {pool.name} is a dir one",
            hint="--allow-inconsistent lets it go on, and may copy files that belong to different moments",
            is_refusal=False,
        )
    for name, device in wanted_devices(instance, move).items():
        inherits = name not in move.overrides.devices
        if inherits and device.get("type") == "nic" and "hwaddr" in device:
            yield Finding(
                code="same_address",
                message=f"device {name} has a fixed address, {device['hwaddr']}, which the copy would have too",
                hint=f"--device {name},hwaddr=ADDRESS gives the copy one of its own",
                is_refusal=False,
            )


def _about_name(move: Move, target: Server, own_job: str) -> Iterator[Finding]:
    if move.target_project not in target.projects:
        hint = f"`lxc project create {target.remote}:{move.target_project}`"
        yield _refuse("project", f"{target.remote} has no project {move.target_project}", hint)
        return
    there = target.instance(move.target_project, move.name)
    if there is None or (own_job and there.marks.get("job") == own_job):
        return
    if there.is_retired:
        yield _refuse(
            "name_taken",
            f"{target.remote}:{move.name} is the retired source of job {there.marks.get('job')}",
            f"`lxc delete {target.remote}:{move.name}` if it is not needed any more, or move under another name",
        )
    else:
        yield _refuse(
            "name_taken",
            f"{target.remote} has an instance {move.name} already",
            f"rename or delete {target.remote}:{move.name}, or move under another name",
        )


def _about_resources(instance: Instance, move: Move, target: Server) -> Iterator[Finding]:
    if instance.architecture not in target.info.architectures:
        known = ", ".join(target.info.architectures)
        yield _refuse(
            "architecture", f"{target.remote} cannot run {instance.architecture}, only {known}", "another target"
        )
    profiles = target.profiles.get(move.target_project, {})
    for name in wanted_profiles(instance, move):
        if name not in profiles:
            hint = f"`lxc profile copy {move.source}:{name} {target.remote}:`"
            yield _refuse("profile", f"{target.remote} has no profile {name}", hint)
    yield from _about_pool(instance, move, target)
    yield from _about_devices(expanded_on_target(instance, move, profiles), move, target)


def wanted_profiles(instance: Instance, move: Move) -> tuple[str, ...]:
    """The profiles that the copy will have."""
    if move.overrides.profiles is not None:
        return move.overrides.profiles
    mapped = move.overrides.map.profiles
    return tuple(mapped.get(name, name) for name in instance.own_profiles)


def wanted_pool(instance: Instance, move: Move) -> str:
    """The pool that the copy's root disk will be in."""
    overridden = next((d["pool"] for d in move.overrides.devices.values() if is_root_disk(d)), "")
    mapped = move.overrides.map.pools.get(instance.root_pool, instance.root_pool)
    return move.overrides.storage or overridden or mapped


def inherits_root(instance: Instance, move: Move, profiles: Mapping[str, Profile]) -> bool:
    """Whether the copy can get its root disk from a profile, as the source does, and in the wanted pool."""
    overridden = [{**instance.expanded_devices.get(n, {}), **d} for n, d in move.overrides.devices.items()]
    local = (*instance.own_devices.values(), *overridden)
    inherited = [
        device
        for name in wanted_profiles(instance, move)
        if name in profiles
        for device in profiles[name].devices.values()
        if is_root_disk(device)
    ]
    return not any(is_root_disk(device) for device in local) and [d["pool"] for d in inherited] == [
        wanted_pool(instance, move)
    ]


def wanted_devices(instance: Instance, move: Move, *, root_from_profile: bool = False) -> dict[str, dict[str, str]]:
    """The copy's local devices: the source's, the overrides, and an explicit root disk unless a profile has it.

    A server replaces a pool that it does not have by that of a profile, so what is not inherited must be explicit.
    """
    names = move.overrides.map
    devices = {name: _mapped(device, names) for name, device in instance.own_devices.items()}
    for name, device in move.overrides.devices.items():
        # A mask is only the word: LXD refuses every other key beside it.
        inherited = {} if device.get("type") == "none" else _mapped(instance.expanded_devices.get(name, {}), names)
        devices[name] = {**inherited, **device}
    if root_from_profile:
        return devices
    root = next((n for n, d in instance.expanded_devices.items() if is_root_disk(d)), "root")
    devices[root] = {**instance.expanded_devices.get(root, {}), **devices.get(root, {})}
    devices[root] |= {"type": "disk", "path": "/", "pool": wanted_pool(instance, move)}
    return devices


def _mapped(device: Mapping[str, str], names: NameMap) -> dict[str, str]:
    """The device as the target names what it refers to."""
    kinds = {"nic": {"network": names.networks, "parent": names.networks}, "disk": {"pool": names.pools}}
    known = kinds.get(device.get("type", ""), {})
    return {key: known.get(key, {}).get(value, value) for key, value in device.items()}


def expanded_on_target(instance: Instance, move: Move, profiles: Mapping[str, Profile]) -> Devices:
    """The devices that the copy will have on the target, those of the target's profiles included."""
    inherited = {
        name: device
        for profile in wanted_profiles(instance, move)
        if profile in profiles
        for name, device in profiles[profile].devices.items()
    }
    return {**inherited, **wanted_devices(instance, move)}


def _about_pool(instance: Instance, move: Move, target: Server) -> Iterator[Finding]:
    name = wanted_pool(instance, move)
    pool = target.pools.get(name)
    if pool is None:
        have = ", ".join(sorted(target.pools)) or "none"
        yield _refuse("pool", f"{target.remote} has no pool {name}; it has {have}", "choose one with --storage")
        return
    if pool.total and pool.free < POOL_RESERVE:
        hint = f"free or add space in pool {name} of {target.remote}"
        yield _refuse("space", f"pool {name} of {target.remote} has only {pool.free // 1024**2} MiB free", hint)


def _about_devices(devices: Devices, move: Move, target: Server) -> Iterator[Finding]:
    networks = target.networks.get(move.target_project, frozenset())
    for name, device in devices.items():
        kind = device.get("type")
        if kind == "nic":
            yield from _about_nic(name, device, networks, target)
        elif kind == "disk" and not is_root_disk(device):
            yield from _about_disk(name, device, move, target)
        elif kind not in ("disk", "none", "proxy"):
            yield _refuse(
                "device",
                f"device {name} ({kind}) is bound to the source's hardware or host",
                f"remove it, or mask it with --device {name},type=none",
            )


def _about_nic(name: str, device: Mapping[str, str], networks: Iterable[str], target: Server) -> Iterator[Finding]:
    network = device.get("network") or device.get("parent")
    if network and network not in networks:
        yield _refuse(
            "network",
            f"device {name} needs network {network}, which {target.remote} does not have",
            f"create it there, or override it with --device {name},network=NAME",
        )


def _about_disk(name: str, device: Mapping[str, str], move: Move, target: Server) -> Iterator[Finding]:
    pool = device.get("pool")
    if not pool:
        yield _refuse(
            "host_path",
            f"device {name} shares the path {device.get('source')} of the source's host",
            f"remove it, or mask it with --device {name},type=none",
        )
    elif (pool, move.target_project, device.get("source", "")) not in target.volumes:
        yield _refuse(
            "volume",
            f"device {name} needs the custom volume {pool}/{device.get('source')}, which {target.remote} does not have",
            f"`lxc storage volume copy {move.source}:{pool}/{device.get('source')} {target.remote}:{pool}/…` first",
        )
