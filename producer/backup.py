"""A policy and a due moment -> the plans of that run; and the generations that the targets tell of.

Called by ``herder backup`` and the scheduler. What a run does on the servers is in ``workers.steps.backing_up``.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any

from common.archive.place import is_archive, open_archive
from common.config import Settings
from common.domain.archive import Manifest, generation_in
from common.domain.backup import BackupPolicy, BackupTarget
from common.domain.errors import ArchiveRefused, InputError, NotFound, OutOfSpace
from common.domain.generation import BACKUP_DEFINITION, BackupOrder, Generation
from common.domain.plan import Method, Overrides, Plan, Policy, Request
from common.lxd.connect import connect
from common.lxd.remotes import Remotes
from common.store.codec import to_plain
from producer.archiving import plan_export, selected
from producer.inventory import backup_needs, take_inventory
from producer.planner import make_plan
from producer.submit import ID_ALPHABET

_ID_LENGTH = 10


def plans_for(policy: BackupPolicy, at: datetime, remotes: Remotes, settings: Settings) -> tuple[Plan, ...]:
    """One plan for each target of a policy's run that is due at ``at``; the same ids whenever it is asked.

    Raises InputError, UnknownRemote and ServerUnreachable, as ``take_inventory`` does.
    """
    check_archives(policy)
    requests = [(request_for(policy, target, at), plan_id(policy.name, at, target.place)) for target in policy.targets]
    return tuple(_planned(request, name, remotes, settings) for request, name in requests)


def check_archives(policy: BackupPolicy) -> None:
    """Raises InputError, with file and line, for an archive that cannot be written to, and ArchiveUnreachable."""
    for target in policy.targets:
        if target.archive:
            try:
                open_archive(target.archive).check_writable()
            except (ArchiveRefused, OutOfSpace) as error:
                raise InputError(f"{target.written}: {error.message}", hint=error.hint) from error


def _planned(request: Request, name: str, remotes: Remotes, settings: Settings) -> Plan:
    fleet = take_inventory(request, remotes, settings)
    if not request.archive:
        return make_plan(request, fleet, plan_id=name)
    wanted = selected(request, fleet)
    room, needs = backup_needs(wanted, request.select.source, remotes, settings)
    return plan_export(request, wanted, fleet, room, needs, plan_id=name)


def plan_id(policy: str, at: datetime, place: str) -> str:
    """The id of the plan of a run onto one target, by which a run that was submitted already is known."""
    number = int.from_bytes(hashlib.sha256(f"{policy} {at.timestamp()} {place}".encode()).digest())
    letters = []
    for _ in range(_ID_LENGTH):
        number, letter = divmod(number, len(ID_ALPHABET))
        letters.append(ID_ALPHABET[letter])
    return "".join(letters)


def generations(places: Iterable[str], remotes: Remotes, settings: Settings) -> tuple[Generation, ...]:
    """All complete generations on these remotes and in these archives, in whatever project, the newest first.

    Raises UnknownRemote, ServerUnreachable, ArchiveRefused and ArchiveUnreachable.
    """

    def look(name: str) -> list[Generation]:
        if is_archive(name):
            return archived(name)
        client = connect(
            remotes.get(name), connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout
        )
        found = (Generation.of(each, name) for each in client.instances(None))
        return [each for each in found if each is not None]

    names = tuple(dict.fromkeys(place if is_archive(place) else remotes.get(place).name for place in places))
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        found = [each for on_one in pool.map(look, names) for each in on_one]
    return in_order(found)


def archived(where: str) -> list[Generation]:
    """The generations in an archive whose files are there as their manifests say."""
    archive = open_archive(where)
    sizes = archive.sizes()
    whole = (each for each in archive.manifests() if sizes.get(each.file) == each.size)
    return [found for each in whole if (found := generation_in(where, each)) is not None]


def manifest_of(generation: Generation) -> Manifest:
    """The manifest of a generation in an archive. Raises NotFound."""
    found = open_archive(generation.archive).manifest(generation.name)
    if found is None:
        raise NotFound(f"{generation.place} is not there any more")
    return found


def in_order(found: Iterable[Generation]) -> tuple[Generation, ...]:
    """The newest first; of one moment by target and source."""
    return tuple(sorted(found, key=lambda each: (-each.at.timestamp(), each.target, each.source)))


def definition_of(generation: Generation, remotes: Remotes, settings: Settings) -> Mapping[str, Any]:
    """What the instance was made of when it was backed up; of one in an archive, its manifest. Raises NotFound."""
    if generation.archive:
        told: Mapping[str, Any] = to_plain(manifest_of(generation))
        return told
    client = connect(
        remotes.get(generation.remote), connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout
    )
    record = client.instance(generation.name, project=generation.project)
    found: Mapping[str, Any] = json.loads(record.config[BACKUP_DEFINITION])
    return found


def request_for(policy: BackupPolicy, target: BackupTarget, at: datetime) -> Request:
    """What a run asks of one target."""
    order = BackupOrder(
        policy=policy.name,
        at=at,
        zone=policy.schedule.zone,
        keep=policy.keep,
        keep_on_target=target.keep,
        hook=policy.hook,
        volumes=policy.volumes,
    )
    request = Request(
        name=f"backup {policy.name} to {target.place}", select=policy.select, limits=policy.limits, backup=order
    )
    if target.archive:
        # As a generation elsewhere, it is the instance of one moment: each snapshot would be in it in full.
        return replace(
            request,
            archive=target.archive,
            policy=Policy(method=Method.ARCHIVE, compression=target.compression),
            overrides=Overrides(instance_only=True),
        )
    return replace(
        request,
        targets=(target.remote,),
        target_project=target.project,
        policy=Policy(method=Method.BACKUP, mode=policy.mode, rate=policy.rate, stall=policy.stall),
        overrides=Overrides(profiles=(), storage=target.storage),
    )
