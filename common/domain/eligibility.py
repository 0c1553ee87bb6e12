"""Can this instance move to this server? Pure; asked by the planner for a whole plan and by preflight for one job.

All findings are returned at once, each with what to do. On LXD 5.0.2 most of them would otherwise surface after the
bytes have moved, or never: a missing pool is silently replaced by that of a profile, a missing bridge fails the start.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from common.domain.archive import Manifest
from common.domain.fleet import Profile, Room, Server, sends_deltas
from common.domain.generation import BACKUP_DEFINITION, COMPLETE
from common.domain.instance import BACKUP_STATE, COPY_OF, FAILED_OVER, GUARD_DEVICE, Devices, Instance, is_root_disk
from common.domain.machine import Case, obstacles
from common.domain.plan import Finding, Method, Move, NameMap, Retire, Thing, identity_of
from common.domain.units import render_size
from common.domain.volume import AttachedVolume, Volume
from common.domain.volume_ways import VOLUME_BACKUP_EXTENSIONS, why_as_backup

#: Room that a move leaves free in the target's pool, in bytes; a full pool can no longer even delete.
POOL_RESERVE = 256 * 1024**2
#: What both servers must know.
REQUIRED_EXTENSIONS = frozenset({"container_incremental_copy", "instances", "projects"})
#: What both servers must have for a custom volume to go along.
VOLUME_EXTENSIONS = frozenset({"custom_volume_refresh", "storage_api_remote_volume_handling"})


#: The servers that herder knows, as they call themselves; one that does not trust us does not say.
PRODUCTS = frozenset({"lxd", "incus", ""})
#: A server that has it gives every snapshot a key that one without it does not know.
_SNAPSHOTS_HAVE_GENERATION = "instance_generation_id"


def findings(
    instance: Instance, move: Move, source: Server, target: Server, *, own_job: str = ""
) -> tuple[Finding, ...]:
    """Everything that stands in the way of this move, refusals and warnings. ``own_job`` may already hold it."""
    down = tuple(_about_home(move, source))
    if down:
        return down  # nothing else is known of it
    if move.backup:
        return tuple(_about_backing_up(instance, move, source, target, own_job))
    if move.method is Method.DRILL:
        return tuple(_about_drilling(instance, move, target))
    return (
        *_about_servers(move, source, target),
        *_about_same_server(move, source, target),
        *_about_member(instance, move, target),
        *_about_instance(instance, move, own_job),
        *(_about_refresh if move.is_refresh else _about_new)(instance, move, target, own_job),
        *_about_volumes(instance, move, source, target, own_job),
        *_about_differences(instance, move, source, target),
        *(_about_machine(instance, move, source, target) if instance.is_virtual_machine else ()),
        *(_about_copying(instance, move, source) if move.is_copy else _about_warm(instance, move, source, target)),
    )


def _about_backing_up(
    instance: Instance, move: Move, source: Server, target: Server, own_job: str
) -> Iterator[Finding]:
    """A target needs little for a backup: its copies have no profiles and one device, the root disk."""
    yield from _about_servers(move, source, target)
    yield from _about_same_server(move, source, target)
    yield from _about_instance(instance, move, own_job)
    there = target.instance(move.target_project, move.name)
    if there is None or not there.is_backup:
        yield from _about_name(move, target, own_job)
    yield from _about_pool(instance, move, target)
    networks = target.networks.get(move.target_project, frozenset())
    for name, device in instance.own_devices.items():
        network = device.get("network", "") if device.get("type") == "nic" else ""
        if network and network not in networks:
            yield _refuse(
                "network",
                f"its own device {name} is of network {network}, and {target.remote} only takes snapshots of instances "
                "whose networks it has by name",
                f"`lxc network create {target.remote}:{network} ipv4.address=none ipv6.address=none`: it need not lead "
                "anywhere",
            )
    for volume in move.volumes:
        yield from _about_volume(volume, move, source.volumes.get((volume.pool, move.project, volume.name)), own_job)
        yield from _about_pool_of(volume, target)
    if move.order.volumes:
        yield from _about_left_volumes(instance, _why_left(source, target), going=move.volumes)


def backed_volumes(instance: Instance, move: Move, source: Server, target: Server) -> tuple[AttachedVolume, ...]:
    """The custom volumes of its own devices that are backed up with it, in order.

    Others write into one that they attach too, at other moments; nobody could put it back without harm to them.
    """
    if not move.order.volumes or source.info.clustered or any(_about_ways_of_volumes(source, target)):
        return ()
    found = (source.volumes.get((pool, move.project, name)) for pool, name in _attached(instance))
    return tuple(
        AttachedVolume(pool=each.pool, name=each.name, target_pool=move.overrides.storage or each.pool)
        for each in found
        if each is not None and each.content_type == "filesystem" and not each.other_users(instance.name, move.project)
    )


def _attached(instance: Instance) -> list[tuple[str, str]]:
    """Pool and name of the custom volumes of its own devices."""
    devices = [d for d in instance.own_devices.values() if d.get("type") == "disk" and not is_root_disk(d)]
    return sorted({(d["pool"], d["source"]) for d in devices if d.get("pool") and d.get("source")})


def _why_left(source: Server, target: Server) -> str:
    if source.info.clustered:
        return "each member of a cluster has its own, and may have some of the same names"
    lacking = next((each.message for each in _about_ways_of_volumes(source, target) if each.is_refusal), "")
    only = "only those go along that hold files and that nobody else attaches"
    return why_as_backup(source.info, target.info) or lacking or only


def _about_left_volumes(instance: Instance, why: str, going: Iterable[AttachedVolume] = ()) -> Iterator[Finding]:
    """Nobody should find that out when they need them."""
    gone = {(each.pool, each.name) for each in going}
    left = [f"{pool}/{name}" for pool, name in _attached(instance) if (pool, name) not in gone]
    if left:
        yield Finding(
            code="volume",
            message=f"its custom volumes {', '.join(left)} are not backed up with it: {why}",
            hint="`herder volume copy` copies them by themselves",
            is_refusal=False,
        )


def _about_drilling(generation: Instance, move: Move, server: Server) -> Iterator[Finding]:
    """The clone has only files, and needs nothing but its generation and what is beside it, complete and as made."""
    yield from _about_servers(move, server)
    is_as_made = generation.is_stopped and generation.is_guarded and not generation.profiles
    if generation.config.get(BACKUP_STATE) != COMPLETE or not is_as_made:
        what = f"it is {generation.status}, and its state is {generation.config.get(BACKUP_STATE, 'none')}"
        yield _refuse("backup", f"it is no stopped, guarded, complete generation: {what}", "`herder backup list`")
    try:
        definition = json.loads(generation.config.get(BACKUP_DEFINITION, ""))
        devices = definition["expanded_devices"].values()
        kept = {(each["pool"], each["name"]) for each in definition.get("volumes", ())}
    except (ValueError, KeyError):
        yield _refuse("definition", "it bears no definition", "the next run makes a whole generation")
        return
    needed = {(d["pool"], d.get("source", "")) for d in devices if d.get("pool") and not is_root_disk(d)}
    if needed - kept:
        volumes = ", ".join(sorted("/".join(place) for place in needed - kept))
        yield _refuse(
            "volume",
            f"its instance needs the custom volumes {volumes}, which are not backed up with it",
            f"`herder backup restore {move.source}:{generation.name} --as NAME` makes an instance to try by hand",
        )


def import_findings(
    manifest: Manifest, move: Move, target: Server, room: Room | None, *, may_be_there: bool = False
) -> tuple[Finding, ...]:
    """Everything that stands in the way of this import. ``may_be_there``: its name may be taken, by what it has made.

    What is bound to a host is only warned of: the server takes it, and may be the host that it is bound to.
    """
    instance = manifest.as_instance()
    return (
        *_about_servers(move, target),
        *(() if may_be_there else _about_name(move, target, "")),
        *(
            replace(finding, is_refusal=finding.code not in ("device", "host_path"))
            for finding in _about_resources(instance, move, target)
        ),
        *_about_backup(manifest, move, target, room),
    )


def _about_backup(manifest: Manifest, move: Move, target: Server, room: Room | None) -> Iterator[Finding]:
    pool = target.pools.get(move.pool)
    if manifest.format.optimized and pool is not None and pool.driver != manifest.format.driver:
        yield _refuse(
            "optimized",
            f"{manifest.file} is optimized for {manifest.format.driver}, and pool {pool.name} of {target.remote} is "
            f"{pool.driver}",
            f"--storage with a {manifest.format.driver} pool, or export it once more without --optimized",
        )
    places = [(f"pool {pool.name}", pool.free)] if pool is not None and pool.total else []
    places += [(room.place, room.free)] if room is not None and room.place not in dict(places) else []
    for place, free in places:
        if free < manifest.size + POOL_RESERVE:
            yield _refuse(
                "space",
                f"{place} of {target.remote} has {render_size(free)} free; {manifest.file} needs "
                f"{render_size(manifest.size)}",
                f"free or add space in {place} of {target.remote}",
            )


def export_findings(instance: Instance, move: Move, room: Room | None, needed: int) -> tuple[Finding, ...]:
    """Everything that stands in the way of this export; ``needed`` bytes at most for the backup, 0 if not known."""
    return tuple(_about_exporting(instance, move, room, needed))


def _about_exporting(instance: Instance, move: Move, room: Room | None, needed: int) -> Iterator[Finding]:
    if instance.is_guarded:
        holder = instance.marks.get("job", "")
        yield _refuse("claimed", f"it is held by job {holder} and no instance of its own", "export the other one")
    if move.backup and move.order.volumes:
        yield from _about_left_volumes(instance, "a file holds no volumes")
    if room is None:
        yield Finding(
            code="space",
            message=f"{move.source} does not tell how much room it has for backups"
            + (f"; this one takes up to {render_size(needed)}" if needed else ""),
            hint="its server stops with an error if there is too little",
            is_refusal=False,
        )
    elif room.free < needed + POOL_RESERVE:
        yield _refuse(
            "space",
            f"the backup is written on {move.source} first, and needs {render_size(needed + POOL_RESERVE)} in "
            f"{room.place}, which has {render_size(room.free)} free",
            f"free or add space there, or set storage.backups_volume on {move.source} to a volume that has it",
        )


#: Of a virtual machine; which processor its own member has is not known when it is planned.
COLD_WITHIN_CLUSTER = "it is a virtual machine, which moves cold within a cluster"
#: Drivers of pools whose volumes all members of a cluster see.
_SHARED_BY_MEMBERS = frozenset({"ceph", "cephfs"})
#: What a cluster can be the source or the target of.
_WITH_CLUSTERS = frozenset({Method.WARM, Method.COLD, Method.STATEFUL, Method.LIVE, Method.COPY, Method.REFRESH})


def _refuse(code: str, message: str, hint: str) -> Finding:
    return Finding(code=code, message=message, hint=hint)


def _about_servers(move: Move, *servers: Server) -> Iterator[Finding]:
    for server in servers:
        if not server.info.trusted:
            yield _refuse(
                "not_trusted",
                f"{server.remote} does not trust our certificate",
                f"`herder remote add {server.remote} ADDRESS` with a token made on it",
            )
        if server.info.product not in PRODUCTS:
            message = f"{server.remote} is {server.info.product}; only servers of LXD and Incus are supported"
            yield _refuse("server_kind", message, "another server")
        elif server.info.clustered and not _is_tried_with_clusters(move, server):
            message = f"{server.remote} is a cluster, and {_untried(move)} a cluster have not been tried"
            yield _refuse("server_kind", message, "take a server that stands alone")
        missing = sorted(REQUIRED_EXTENSIONS - server.info.extensions)
        if missing:
            yield _refuse("extension", f"{server.remote} lacks the API extensions {', '.join(missing)}", "upgrade it")


def _about_same_server(move: Move, source: Server, target: Server) -> Iterator[Finding]:
    if source.info.certificate == target.info.certificate and not (move.is_within_cluster or move.is_local):
        yield _refuse(
            "same_server", f"{source.remote} and {target.remote} are the same server", "choose another target"
        )


def _is_tried_with_clusters(move: Move, server: Server) -> bool:
    """Whether a cluster can be this side of it; one that is backed up is only read."""
    return move.method in _WITH_CLUSTERS or (move.method is Method.BACKUP and server.remote == move.source)


def _untried(move: Move) -> str:
    if move.is_of_volume:
        return "volumes that go by themselves from or to"
    return {Method.DRILL: "drills in", Method.IMPORT: "imports into"}.get(move.method, "backups onto")


def _about_home(move: Move, source: Server) -> Iterator[Finding]:
    home = source.members.get(move.source_member)
    if home is not None and home.status == "Offline":
        message = f"member {home.name} of {source.remote}, which it is on, is Offline: {home.message}"
        yield _refuse("member", message, f"start {home.name}, then make the plan again")


def _about_member(instance: Instance, move: Move, target: Server) -> Iterator[Finding]:
    """Whether the member can take it, and whether the instance can leave its own."""
    if not move.target_member:
        return
    member = target.members.get(move.target_member)
    if member is None:
        have = f"its members are {', '.join(sorted(target.members))}" if target.members else "it is no cluster"
        message = f"{target.remote} has no member {move.target_member}; {have}"
        yield _refuse("member", message, "choose another --target")
    elif member.status != "Online":
        yield _refuse(
            "member",
            f"member {member.name} of {target.remote} is {member.status}: {member.message}",
            f"choose another --target, or see `lxc cluster show {target.remote}:{member.name}`",
        )
    if move.is_within_cluster:
        yield from _about_changing_member(instance, move, target)


def _about_changing_member(instance: Instance, move: Move, target: Server) -> Iterator[Finding]:
    if instance.location == move.target_member:
        yield _refuse("member", f"it is on member {move.target_member} already", "choose another --target")
    pool = target.pools.get(wanted_pool(instance, move))
    if pool is not None and pool.driver in _SHARED_BY_MEMBERS:
        yield _refuse(
            "shared_pool",
            f"pool {pool.name} ({pool.driver}) is shared by all members, so there is nothing to copy",
            f"`lxc move {target.remote}:{instance.name} --target {move.target_member}`",
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
    for setting in sorted(move.overrides.over(instance.own_config).items()):
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
    if BACKUP_STATE in move.overrides.over(instance.config):
        what = f"it belongs to a backup, whose state is {instance.config[BACKUP_STATE]}"
        yield _refuse("backup", what, f"`herder backup restore {move.source}:{instance.name}` makes an instance of one")
    is_ours_frozen = instance.status == "Frozen" and holder == own_job and bool(holder)
    # What is copied from a dir pool is frozen meanwhile, perhaps by a backup onto another target.
    may_be_frozen = is_ours_frozen or bool(move.backup)
    if instance.status not in ("Running", "Stopped") and not (instance.status == "Frozen" and may_be_frozen):
        yield _refuse("status", f"its status is {instance.status}", "unfreeze, start or stop it first")
    if instance.ephemeral and instance.is_running and not move.is_copy:
        yield _refuse(
            "ephemeral", "it is ephemeral: stopping it would delete the source", "make it non-ephemeral first"
        )
    if move.method is Method.LIVE and not instance.is_virtual_machine:
        yield _refuse(
            "live",
            "it is a container: when a live move of one breaks, it hangs on its server, and may run on both",
            "leave `--method` out: a warm move copies while it runs, and restarts the guest",
        )
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


def _about_machine(instance: Instance, move: Move, source: Server, target: Server) -> Iterator[Finding]:
    if move.is_of_cluster and not move.is_within_cluster:
        member = f" --target {move.target_member}" if move.target_member else ""
        hint = f"`lxc move {move.source}:{instance.name} {move.target}:{member}` for now"
        yield _refuse(
            "virtual_machine", "it is a virtual machine, and goes neither into a cluster nor out of one", hint
        )
    if move.is_within_cluster and move.method in (Method.LIVE, Method.STATEFUL):
        yield _refuse("virtual_machine", COLD_WITHIN_CLUSTER, "leave `--method` out")
        return
    if move.method is Method.WARM:
        yield _refuse(
            "virtual_machine",
            "it is a virtual machine, which does not move warm",
            "leave `--method` out: it moves stateful or cold, whichever is possible",
        )
    method = Method.COLD if move.method in (Method.WARM, Method.COPY, Method.FAILOVER) else move.method
    # A copy leaves behind the memory with which a machine was stopped.
    moved = replace(instance, stateful=instance.stateful and not move.is_copy)
    yield from obstacles(machine_case(moved, move, source, target), method)


def machine_case(instance: Instance, move: Move, source: Server, target: Server) -> Case:
    """A virtual machine as it would be on the target."""
    profiles = target.profiles.get(move.target_project, {})
    return Case(
        instance=instance,
        source=source,
        target=target,
        devices=expanded_on_target(instance, move, profiles),
        pool=wanted_pool(instance, move),
        project=move.target_project,
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
    has_its_own = move.is_refresh or move.method is Method.FAILOVER
    for name, device in ({} if has_its_own else wanted_devices(instance, move)).items():
        inherits = name not in move.overrides.devices
        if inherits and device.get("type") == "nic" and "hwaddr" in device:
            yield Finding(
                code="same_address",
                message=f"device {name} has a fixed address, {device['hwaddr']}, which the copy would have too",
                hint=f"--device {name},hwaddr=ADDRESS gives the copy one of its own",
                is_refusal=False,
            )


def risk_of_warm(instance: Instance, move: Move, source: Server, target: Server) -> str:
    """What a warm move could lose between the pools of these servers, or nothing.

    LXD's rsync takes a file for unchanged if its size and the second of its last change are. So one that a pass has
    sent, and that changes afterwards within that second and never again, is left out of the final pass.
    """
    ends = source.pools.get(instance.root_pool), target.pools.get(wanted_pool(instance, move))
    drivers = [pool.driver for pool in ends if pool is not None]
    if len(drivers) < len(ends) or sends_deltas(*drivers):
        return ""
    return f"from {drivers[0]} to {drivers[1]} LXD tells files apart by size and second, and could leave a change out"


def _about_warm(instance: Instance, move: Move, source: Server, target: Server) -> Iterator[Finding]:
    risk = risk_of_warm(instance, move, source, target) if move.policy.method is Method.WARM else ""
    if risk and instance.is_running and not instance.is_virtual_machine:
        hint = "leave --method out if that must not be: it then moves cold"
        yield Finding(code="rsync", message=f"it moves warm as you ask: {risk}", hint=hint, is_refusal=False)


def _about_new(instance: Instance, move: Move, target: Server, own_job: str) -> Iterator[Finding]:
    """What has to be free and there for an instance that the target does not have yet."""
    yield from _about_name(move, target, own_job)
    yield from _about_resources(instance, move, target)


def _about_refresh(instance: Instance, move: Move, target: Server, own_job: str) -> Iterator[Finding]:
    """Whether what bears the name is a copy of this instance, and at rest."""
    where = f"{target.remote}:{move.name}"
    there = target.instance(move.target_project, move.name)
    if there is None:
        yield _refuse("no_copy", f"{where} is not there any more", "make the plan again; it will be a new copy")
        return
    holder = there.marks.get("job", "")
    if holder and holder == own_job:
        return
    if holder:
        yield _refuse(
            "claimed", f"{where} belongs to job {holder}", f"`herder retry {holder}` or `herder cancel {holder}`"
        )
    if not there.is_stopped:
        message = f"{where} is {there.status}, and a refresh overwrites its files"
        yield _refuse("copy_runs", message, f"`lxc stop {where}`, or copy under another name")
    known, identity = there.config.get(COPY_OF, ""), identity_of(instance)
    if not known:
        hint = f"if it is one, say so: `lxc config set {where} {COPY_OF}={identity}`; else copy under another name"
        yield _refuse("not_a_copy", f"{where} does not tell whose copy it is", hint)
    elif known != identity:
        message = f"{where} is the copy of another instance, with the uuid {known}"
        yield _refuse("not_a_copy", message, "copy under another name")
    if move.target_member and there.location != move.target_member:
        message = f"{where} is on member {there.location}, and is refreshed where it is"
        yield _refuse("member", message, "leave --target out")
    yield from _about_pool(instance, move, target)


def _about_name(move: Move, target: Server, own_job: str) -> Iterator[Finding]:
    if move.target_project not in target.projects:
        hint = f"`lxc project create {target.remote}:{move.target_project}`"
        if move.policy.method not in (Method.IMPORT, Method.REFRESH, Method.BACKUP):
            hint += ", or --create project"
        yield _refuse("project", f"{target.remote} has no project {move.target_project}", hint)
        return
    there = None if move.is_within_cluster else target.instance(move.target_project, move.name)
    if there is None or (own_job and there.marks.get("job") == own_job):
        return
    if move.goes_home and there.is_stale:
        return  # it makes way
    if move.failover and there.config.get(FAILED_OVER) == move.failover.source and not there.is_retired:
        yield _refuse(
            "failed_over",
            f"{target.remote}:{move.name} has taken the place of {move.failover} already",
            f"`herder backup home {target.remote}:{move.name}` brings it home",
        )
    elif there.is_retired:
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
            copy = f"`lxc profile copy {move.source}:{name} {target.remote}:`, or --create profile"
            hint = f"`lxc profile create {target.remote}:{name}`" if move.archive else copy
            yield _refuse("profile", f"{target.remote} has no profile {name}", hint)
    yield from _about_pool(instance, move, target)
    coming = () if move.is_within_cluster else attached_volumes(instance, move)
    there = {(each.target_pool, each.target_name) for each in coming}
    devices = {
        name: device
        for name, device in expanded_on_target(instance, move, profiles).items()
        if (device.get("pool"), device.get("source")) not in there
    }
    yield from _about_devices(devices, move, target)


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
    A backup has the root disk alone.
    """
    if move.backup:
        return {"root": {"type": "disk", "path": "/", "pool": wanted_pool(instance, move), **_room(instance)}}
    names = move.overrides.map
    devices = {name: on_target(device, names) for name, device in instance.own_devices.items()}
    for name, device in move.overrides.devices.items():
        # A mask is only the word: LXD refuses every other key beside it.
        inherited = {} if device.get("type") == "none" else on_target(instance.expanded_devices.get(name, {}), names)
        devices[name] = {**inherited, **device}
    if root_from_profile:
        return devices
    root = next((n for n, d in instance.expanded_devices.items() if is_root_disk(d)), "root")
    devices[root] = {**instance.expanded_devices.get(root, {}), **devices.get(root, {})}
    devices[root] |= {"type": "disk", "path": "/", "pool": wanted_pool(instance, move)}
    return devices


def _room(instance: Instance) -> dict[str, str]:
    """How large a virtual machine's root disk has to be; of a container it is a quota, which its copy does without."""
    root = next((d for d in instance.expanded_devices.values() if is_root_disk(d)), {})
    return {"size": root["size"]} if instance.is_virtual_machine and "size" in root else {}


def on_target(device: Mapping[str, str], names: NameMap) -> dict[str, str]:
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
        hint = "choose one with --storage, or " + _or_made(target, Thing.POOL, "`lxc storage create` it")
        yield _refuse("pool", f"{target.remote} has no pool {name}; it has {have}", hint)
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
            _or_made(target, Thing.NETWORK, "`lxc network create` it")
            + f", or override it with --device {name},network=NAME",
        )


def _or_made(target: Server, thing: Thing, by_hand: str) -> str:
    """How it comes onto the target; each member of a cluster has its own part, of which a definition says nothing."""
    return f"{by_hand} on all members of {target.remote}" if target.info.clustered else f"--create {thing}"


def _about_disk(name: str, device: Mapping[str, str], move: Move, target: Server) -> Iterator[Finding]:
    pool = device.get("pool")
    if pool and move.is_within_cluster:
        yield _refuse(
            "volume",
            f"device {name} needs the custom volume {pool}/{device.get('source')}, which stays on its member",
            f"remove it, or mask it with --device {name},type=none",
        )
    elif not pool:
        yield _refuse(
            "host_path",
            f"device {name} shares the path {device.get('source')} of the source's host",
            f"remove it, or mask it with --device {name},type=none",
        )
    elif (pool, move.target_project, device.get("source", "")) not in target.volumes:
        yield _refuse(
            "volume",
            f"device {name} needs the custom volume {pool}/{device.get('source')}, which {target.remote} does not have",
            "attach it to the instance itself, and it goes along; or make one there",
        )


def attached_volumes(instance: Instance, move: Move) -> tuple[AttachedVolume, ...]:
    """The custom volumes that travel with the instance, in order: those of its own devices.

    A device whose ``source`` is overridden names one that is on the target already. A refresh leaves those of the copy.
    Of a backup, and of what is made of one, the plan says which; a generation attaches none.
    """
    if move.backup or instance.is_backup:
        return move.volumes
    if move.is_refresh:
        return ()
    wanted = wanted_devices(instance, move)
    found = {
        AttachedVolume(pool=device["pool"], name=device["source"], target_pool=wanted[name]["pool"])
        for name, device in instance.own_devices.items()
        if device.get("type") == "disk" and device.get("pool") and device.get("source") and not is_root_disk(device)
        if wanted[name].get("type") == "disk" and "source" not in move.overrides.devices.get(name, {})
    }
    return tuple(sorted(found, key=str))


def _about_volumes(instance: Instance, move: Move, source: Server, target: Server, own_job: str) -> Iterator[Finding]:
    volumes = () if move.is_within_cluster else attached_volumes(instance, move)
    if not volumes:
        return
    if move.is_of_cluster:
        yield _refuse(
            "volume",
            f"it attaches {_listed(volumes)}, and custom volumes do not go into a cluster or out of one",
            "detach it, or mask it with --device NAME,type=none; --device NAME,source=VOLUME attaches one that is "
            "there",
        )
        return
    yield from _about_ways_of_volumes(source, target, f"its custom volumes {_listed(volumes)} go as backups")
    for volume in volumes:
        seen = source.volumes.get((volume.pool, move.project, volume.name))
        yield from _about_sharing(volume, instance, move, seen)
        yield from _about_volume(volume, move, seen, own_job)
        yield from _about_pool_of(volume, target)
        yield from _about_its_place(volume, volumes, move, target, own_job)


def _about_ways_of_volumes(source: Server, target: Server, what: str = "") -> Iterator[Finding]:
    """Whether and how these two servers can send custom volumes to each other."""
    why = why_as_backup(source.info, target.info)
    needed = VOLUME_BACKUP_EXTENSIONS if why else VOLUME_EXTENSIONS
    lacking = sorted(needed - (source.info.extensions & target.info.extensions))
    if lacking:
        yield _refuse("extension", f"volumes need the API extensions {', '.join(lacking)}", "upgrade both servers")
    elif why:
        yield Finding(
            code="volume_as_backup",
            message=f"{what}, carried by a worker: {why}",
            hint=f"see that {source.remote} and {target.remote} have room where they keep backups",
            is_refusal=False,
        )


def volume_findings(move: Move, source: Server, target: Server, *, own_job: str = "") -> tuple[Finding, ...]:
    """Everything that stands in the way of a volume that goes by itself."""
    (volume,) = move.volumes
    seen = source.volumes.get((volume.pool, move.project, volume.name))
    there = target.volumes.get((volume.target_pool, move.target_project, volume.target_name))
    about_place = _about_replaced if move.method is Method.VOLUME_REFRESH else _about_free_name
    return (
        *_about_servers(move, source, target),
        *_about_same_server(move, source, target),
        *_about_ways_of_volumes(source, target, "it goes as a backup"),
        *_about_lone(volume, move, seen, source, own_job),
        *_about_pool_of(volume, target),
        *about_place(volume, move, there, target, own_job),
    )


def _about_lone(
    volume: AttachedVolume, move: Move, seen: Volume | None, source: Server, own_job: str
) -> Iterator[Finding]:
    """Whether it can leave the source, or be copied from there as it is."""
    yield from _about_volume(volume, move, seen, own_job)
    users = () if seen is None else seen.other_users(project=move.project)
    if users and not move.is_copy:
        yield _refuse(
            "in_use",
            f"{volume} is attached by {', '.join(users)}, which would lose it",
            "detach it first; or move the instance, and it goes along",
        )
    pool = source.pools.get(volume.pool)
    at_rest = {each.name for each in source.instances if each.project == move.project and each.is_stopped}
    writers = [user for user in users if user not in at_rest]
    if writers and move.is_copy and pool is not None and not sends_deltas(pool.driver, pool.driver):
        yield Finding(
            code="inconsistent",
            message=f"{volume} is attached by {', '.join(writers)}, and a pool of {pool.driver} sends files while they "
            "are written",
            hint="stop who writes into it if the copy must be of one moment",
            is_refusal=False,
        )


def _about_free_name(
    volume: AttachedVolume, move: Move, there: Volume | None, target: Server, own_job: str
) -> Iterator[Finding]:
    if move.target_project not in target.projects:
        hint = f"`lxc project create {target.remote}:{move.target_project}`"
        yield _refuse("project", f"{target.remote} has no project {move.target_project}", hint)
    if there is None or (own_job and there.marks.get("job") == own_job):
        return
    whose = f", the retired one of job {there.marks['job']}" if there.marks.get("state") == "retired" else ""
    yield _refuse(
        "volume_taken",
        f"{target.remote} has a custom volume {there.place} already{whose}",
        f"rename or delete it there, give {volume} another name, or `herder volume refresh` to replace it",
    )


def _about_replaced(
    volume: AttachedVolume, move: Move, there: Volume | None, target: Server, own_job: str
) -> Iterator[Finding]:
    """Whether the volume that is there may be replaced by a copy of this one."""
    if there is None:
        where = f"{target.remote}:{volume.target_pool}/{volume.target_name}"
        yield _refuse("no_copy", f"{where} is not there any more", "make the plan again; it will be a new copy")
        return
    place, holder = f"{target.remote}:{there.place}", there.marks.get("job", "")
    users = there.other_users(project=move.target_project)
    if users:
        yield _refuse(
            "in_use",
            f"{place} is attached by {', '.join(users)}, which would lose it",
            "detach it there, and attach it again afterwards",
        )
    if there.content_type != "filesystem":
        yield _refuse("volume", f"{place} is a {there.content_type} volume", "copy it under another name")
    if holder and there.marks.get("state") == "retired":
        yield _refuse(
            "retired", f"{place} is the retired one of job {holder}", "delete it there, or copy it under another name"
        )
    elif holder not in ("", own_job):
        yield _refuse("claimed", f"{place} belongs to job {holder}", f"`herder retry {holder}` or cancel it")


def _listed(volumes: Iterable[AttachedVolume]) -> str:
    return ", ".join(map(str, volumes))


def _about_sharing(volume: AttachedVolume, instance: Instance, move: Move, seen: Volume | None) -> Iterator[Finding]:
    others = () if seen is None else seen.other_users(instance.name, move.project)
    if others:
        yield _refuse(
            "shared_volume",
            f"its custom volume {volume} is also attached by {', '.join(others)}, which would lose it",
            "detach it from the others first, or mask it with --device NAME,type=none",
        )


def _about_volume(volume: AttachedVolume, move: Move, seen: Volume | None, own_job: str) -> Iterator[Finding]:
    """Whether it can leave the source."""
    if seen is None:
        yield _refuse("volume", f"{move.source} has no custom volume {volume}", "make the plan again")
        return
    if seen.content_type != "filesystem":
        way = "`lxc storage volume copy` it" if move.is_of_volume else "mask it with --device NAME,type=none"
        yield _refuse("volume", f"custom volume {volume} is a {seen.content_type} one", way)
    holder = seen.marks.get("job", "")
    if holder not in ("", own_job) and seen.marks.get("state") != "retired":
        yield _refuse(
            "claimed",
            f"custom volume {volume} belongs to job {holder}",
            f"`herder retry {holder}` or `herder cancel {holder}`",
        )


def _about_pool_of(volume: AttachedVolume, target: Server) -> Iterator[Finding]:
    pool = target.pools.get(volume.target_pool)
    if pool is None:
        yield _refuse(
            "pool",
            f"{target.remote} has no pool {volume.target_pool} for the custom volume {volume}",
            f"--map pool:{volume.target_pool}=NAME",
        )
    elif pool.total and pool.free < POOL_RESERVE:
        yield _refuse(
            "space",
            f"pool {pool.name} of {target.remote} has only {pool.free // 1024**2} MiB free for {volume}",
            f"free or add space in pool {pool.name} of {target.remote}",
        )


def _about_its_place(
    volume: AttachedVolume, volumes: Iterable[AttachedVolume], move: Move, target: Server, own_job: str
) -> Iterator[Finding]:
    """Whether its name is free on the target."""
    place = (volume.target_pool, volume.target_name)
    rivals = [v for v in volumes if v != volume and (v.target_pool, v.target_name) == place]
    if rivals:
        yield _refuse(
            "volume_taken",
            f"its custom volumes {volume} and {_listed(rivals)} would both be {'/'.join(place)}",
            "map their pools to different ones",
        )
    there = target.volumes.get((volume.target_pool, move.target_project, volume.target_name))
    if there is None or (own_job and there.marks.get("job") == own_job):
        return
    at_home = target.instance(move.target_project, move.name) if move.goes_home else None
    is_stale = at_home is not None and at_home.is_stale
    if is_stale and there.used_by and not there.other_users(move.name, move.target_project):
        return  # it makes way with what the failover has left
    whose = f", the retired one of job {there.marks['job']}" if there.marks.get("state") == "retired" else ""
    yield _refuse(
        "volume_taken",
        f"{target.remote} has a custom volume {'/'.join(place)} already{whose}",
        "rename or delete it there; or, to attach that one instead, --device NAME,source=" + volume.target_name,
    )
