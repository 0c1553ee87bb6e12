"""A policy and a due moment -> the plans of that run; and the generations that the targets tell of.

Called by ``herder backup`` and the scheduler. What a run does on the servers is in ``workers.steps.backing_up``.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from common.config import Settings
from common.domain.backup import BackupPolicy, BackupTarget
from common.domain.generation import BACKUP_DEFINITION, BackupOrder, Generation
from common.domain.plan import Method, Overrides, Plan, Policy, Request
from common.lxd.connect import connect
from common.lxd.remotes import Remotes
from producer.inventory import take_inventory
from producer.planner import make_plan
from producer.submit import ID_ALPHABET

_ID_LENGTH = 10


def plans_for(policy: BackupPolicy, at: datetime, remotes: Remotes, settings: Settings) -> tuple[Plan, ...]:
    """One plan for each target of a policy's run that is due at ``at``; the same ids whenever it is asked.

    Raises InputError, UnknownRemote and ServerUnreachable, as ``take_inventory`` does.
    """
    requests = [(request_for(policy, target, at), plan_id(policy.name, at, target.remote)) for target in policy.targets]
    return tuple(
        make_plan(request, take_inventory(request, remotes, settings), plan_id=name) for request, name in requests
    )


def plan_id(policy: str, at: datetime, place: str) -> str:
    """The id of the plan of a run onto one target, by which a run that was submitted already is known."""
    number = int.from_bytes(hashlib.sha256(f"{policy} {at.timestamp()} {place}".encode()).digest())
    letters = []
    for _ in range(_ID_LENGTH):
        number, letter = divmod(number, len(ID_ALPHABET))
        letters.append(ID_ALPHABET[letter])
    return "".join(letters)


def generations(places: Iterable[str], remotes: Remotes, settings: Settings) -> tuple[Generation, ...]:
    """All complete generations on these remotes, in whatever project, the newest first.

    Raises UnknownRemote and ServerUnreachable.
    """

    def look(name: str) -> list[Generation]:
        client = connect(
            remotes.get(name), connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout
        )
        found = (Generation.of(each, name) for each in client.instances(None))
        return [each for each in found if each is not None]

    names = tuple(dict.fromkeys(remotes.get(place).name for place in places))
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        found = [each for on_one in pool.map(look, names) for each in on_one]
    return in_order(found)


def in_order(found: Iterable[Generation]) -> tuple[Generation, ...]:
    """The newest first; of one moment by remote and source."""
    return tuple(sorted(found, key=lambda each: (-each.at.timestamp(), each.remote, each.source)))


def definition_of(generation: Generation, remotes: Remotes, settings: Settings) -> Mapping[str, Any]:
    """What the instance was made of when it was backed up. Raises NotFound."""
    client = connect(
        remotes.get(generation.remote), connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout
    )
    record = client.instance(generation.name, project=generation.project)
    found: Mapping[str, Any] = json.loads(record.config[BACKUP_DEFINITION])
    return found


def request_for(policy: BackupPolicy, target: BackupTarget, at: datetime) -> Request:
    """What a run asks of one target."""
    return Request(
        name=f"backup {policy.name} to {target.remote}",
        select=policy.select,
        targets=(target.remote,),
        target_project=target.project,
        policy=Policy(method=Method.BACKUP, mode=policy.mode, rate=policy.rate, stall=policy.stall),
        limits=policy.limits,
        overrides=Overrides(profiles=(), storage=target.storage),
        backup=BackupOrder(
            policy=policy.name,
            at=at,
            zone=policy.schedule.zone,
            keep=policy.keep,
            keep_on_target=target.keep,
            hook=policy.hook,
        ),
    )
