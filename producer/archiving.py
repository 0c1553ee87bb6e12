"""Request + Fleet -> Plan for exports and imports, where one side is an archive. Pure, as ``planner`` is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from common.domain.archive import Manifest, file_name, generation_file, room_needed
from common.domain.eligibility import export_findings, import_findings, wanted_pool
from common.domain.errors import InputError
from common.domain.fleet import Fleet, Room
from common.domain.generation import Generation
from common.domain.instance import Instance
from common.domain.plan import (
    Compression,
    Method,
    Move,
    Overrides,
    Own,
    Plan,
    Policy,
    Request,
    Selection,
    identity_of,
)
from producer.decided import Decided
from producer.planner import select

#: By project and name: bytes used, and the number of snapshots.
Needs = Mapping[tuple[str, str], tuple[int, int]]


def check_format(policy: Policy) -> None:
    """Raises InputError for a format that a server cannot take back."""
    if policy.optimized and policy.compression is Compression.ZSTD:
        raise InputError(
            "--optimized and --compression zstd exclude each other: LXD 5.0.2 never ends the import of such a backup",
            hint="--compression none or gzip",
        )


def selected(request: Request, fleet: Fleet) -> tuple[Instance, ...]:
    """The instances to export. Raises InputError."""
    source = fleet.servers[request.select.source]
    if not request.select.all_projects and request.select.project not in source.projects:
        raise InputError(f"{source.remote} has no project {request.select.project}")
    return select(source.instances, request.select, fleet.matching)


def plan_export(
    request: Request,
    instances: Sequence[Instance],
    fleet: Fleet,
    room: Room | None,
    needs: Needs,
    *,
    plan_id: str,
) -> Plan:
    """Decide for every selected instance; what it makes is a generation if a run asks for it. Raises InputError."""
    check_format(request.policy)
    decided = Decided(request)
    for instance in instances:
        used, snapshots = needs[instance.project, instance.name]
        move = Move(
            instance=instance.name,
            source=request.select.source,
            target=request.archive,
            name=instance.name,
            project=instance.project,
            target_project=instance.project,
            type=instance.type,
            identity=identity_of(instance),
            method=request.policy.method or Method.EXPORT,
            pool=instance.root_pool,
            policy=request.policy,
            overrides=request.overrides,
            file=file_name(instance, fleet.seen_at, request.policy.compression),
            backup=request.backup,
        )
        if move.backup:
            file = generation_file(move.backup, move.origin, request.policy.compression)
            move = replace(move, file=file)
        kept = 0 if request.overrides.instance_only else snapshots
        needed = room_needed(used, kept, optimized=request.policy.optimized)
        decided.take(replace(move, reason=move.file), export_findings(instance, move, room, needed), name=move.file)
    return decided.plan(fleet, plan_id)


def restore_requests(
    found: Iterable[tuple[Generation, Manifest]], wanted: Request, *, keeps_addresses: bool
) -> list[tuple[Request, tuple[Manifest, ...]]]:
    """Requests that import generations, one for each archive and target, each with its exports.

    ``wanted`` says how; where it names no target, each goes to the remote that it was on.
    """
    groups: dict[tuple[str, str], list[Manifest]] = {}
    for generation, manifest in found:
        target = wanted.targets[0] if wanted.targets else manifest.source
        groups.setdefault((generation.archive, target), []).append(manifest)
    return [
        (
            replace(
                wanted,
                name=f"restore {', '.join(each.instance for each in group[:3])}{' and others' if group[3:] else ''} "
                f"from {archive}",
                select=Selection(source=archive, instances=tuple(each.instance for each in group)),
                targets=(target,),
                archive=archive,
                each={} if keeps_addresses else {each.instance: Own(overrides=_new_addresses(each)) for each in group},
            ),
            tuple(group),
        )
        for (archive, target), group in groups.items()
    ]


def _new_addresses(manifest: Manifest) -> Overrides:
    """The original may be there still, and an address twice in one network reaches neither."""
    addresses = [key for key in manifest.config if key.startswith("volatile.") and key.endswith(".hwaddr")]
    return Overrides(config=dict.fromkeys(addresses, ""))


def plan_import(
    request: Request, manifests: Sequence[Manifest], fleet: Fleet, room: Room | None, *, plan_id: str
) -> Plan:
    """Decide for every chosen export. Raises InputError."""
    if request.rename and len(manifests) != 1:
        raise InputError(f"a new name needs exactly one export; {len(manifests)} are selected")
    (target,) = request.targets
    server = fleet.servers[target]
    decided = Decided(request)
    for manifest in manifests:
        move = Move(
            instance=manifest.instance,
            source=request.archive,
            target=target,
            name=request.rename or manifest.instance,
            project=manifest.project,
            target_project=request.project_on_target(manifest.project),
            type=manifest.type,
            identity=manifest.sha256,
            method=Method.IMPORT,
            policy=request.policy,
            overrides=request.overrides_of(manifest.instance),
            file=manifest.file,
        )
        move = replace(move, pool=wanted_pool(manifest.as_instance(), move), reason=move.file)
        taken = f"{move.target_project}:{move.name}"
        decided.take(move, import_findings(manifest, move, server, room), name=taken)
    return decided.plan(fleet, plan_id)
