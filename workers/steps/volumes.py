"""Custom volumes: how they are sent, and what becomes of those that an instance attaches.

They go before their instance, in its job and by the same ways; ``lone_volumes`` has those that go by themselves.

They are sent once, while the instance is stopped. LXD sends a custom volume from btrfs to btrfs as a whole whatever the
other side has, and between other pools by rsync, which compares times in whole seconds: it would leave out a file that
was sent and then changed within one second without a change of its size.

The marks of a copy are the truth about it, as with instances: ``state`` is ``receiving`` while a pass may be half-way,
``complete`` after both servers have told of success; ``of`` names the stop of the source after which it was made, and
then it is the last word. No server keeps a volume from being overwritten while somebody uses it: what does is that an
offer lives for 10 s and a lease for longer, and that no pass begins after the hand-over.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from common.domain.errors import (
    CutoverBroken,
    IdentityMismatch,
    NotFound,
    OperationLost,
    OutOfSpace,
    PreconditionFailed,
    PreflightRefused,
    ServerBusy,
    ServerRefused,
    TransferFailed,
)
from common.domain.fleet import ServerInfo
from common.domain.generation import BACKUP
from common.domain.instance import COPY, KEPT
from common.domain.job import Outcome, Pass
from common.domain.operation import Operation, OperationRef
from common.domain.plan import Method, Mode, Retire
from common.domain.volume import AttachedVolume, Volume
from common.domain.volume_ways import why_as_backup
from common.lxd.client import LxdClient
from common.lxd.migration import Offer, Transfer, volume_receive_body
from workers.steps.context import LOOK_AGAIN, Context, soon_again
from workers.steps.copies import IS_THERE, remove_copy
from workers.steps.marks import mark
from workers.steps.ways import choose_way, closed_way, is_closed

Told = TypeVar("Told")

#: What a target that was killed leaves on btrfs: a record that can be deleted, and not be refreshed.
_WRECK = "Volume exists in database but not on storage"
_IN_USE = "still in use"
FINAL_STEP = "final_volumes"
_KEYS = ("volume", "offer", "receive", "pass", "began", "way", "mode", "dialled_pid")


def reserve_volumes(ctx: Context) -> Outcome:
    """Empty ones of the right names, without which the target makes no instance that attaches them."""
    for volume in ctx.move.volumes:
        copy = ours_on_target(ctx, volume)
        if copy is None:
            make_empty(ctx, volume, claimed(ctx, volume))
        elif ctx.job.facts.get("broken_volume") == str(volume):
            return _remove(ctx, volume, copy)
    return Outcome.completed()


def let_volumes_go(ctx: Context) -> Outcome:
    """The copies are their owner's; those on the source are kept or go with it, as the plan says."""
    for volume in ctx.move.volumes:
        if not ctx.move.is_copy:
            _retire(ctx, volume)
        copy = own_copy(ctx, volume)
        if copy is not None:
            patch(ctx, ctx.target, copy, unmarked)
    return Outcome.completed()


def claim_volumes(ctx: Context) -> None:
    """Say on each volume of the source whose job it belongs to; those that are copied are left as they are."""
    for volume in () if ctx.move.is_copy else ctx.move.volumes:
        claimed(ctx, volume)


def check_volumes(ctx: Context) -> None:
    """Before the hand-over: each copy holds the last word. Raises CutoverBroken."""
    for volume in ctx.move.volumes:
        copy = own_copy(ctx, volume)
        if copy is None or not is_last_word(ctx, copy):
            raise CutoverBroken(f"{ctx.move.target} has no complete copy of volume {volume}")


def differing_volumes(ctx: Context) -> list[str]:
    """A sentence for each way in which a copy is not as its source, as far as the source is still there."""
    return [sentence for volume in ctx.move.volumes for sentence in _differences(ctx, volume)]


def discard_volumes(ctx: Context) -> Outcome:
    """The copies that this job has made go; nothing else does."""
    for volume in ctx.move.volumes:
        copy = on_target(ctx, volume)
        if copy is not None and copy.marks.get("job") != ctx.job.id:
            continue
        waiting = wait_for_earlier(ctx, volume)
        if waiting is not None:
            return waiting
        if copy is not None and not delete(ctx, ctx.target, copy):
            # A wreck of the instance, which cannot be deleted either, still names it.
            place = f"{ctx.move.target}:volume {copy.pool}/{copy.name}"
            ctx.note(wrecks=list(dict.fromkeys([*ctx.job.facts.get("wrecks", ()), place])))
    return Outcome.completed()


def check_retired_volumes(ctx: Context) -> None:
    """Raises IdentityMismatch if one on the source is not as this job has left it."""
    for volume in ctx.move.volumes:
        source = find_volume(ctx.source, volume.pool, volume.name, ctx.move.project)
        if (
            source is None
            or source.marks.get("job") != ctx.job.id
            or source.other_users(ctx.source_instance().name, ctx.move.project)
        ):
            raise IdentityMismatch(
                f"{ctx.move.source}: volume {volume} is not the retired one of this job any more; left alone",
                hint="decide by hand which side shall run",
            )


def keep_volumes(ctx: Context) -> None:
    """Say on the target's volumes that they stay beside an instance which is retired there."""
    for volume in ctx.move.volumes:
        copy = on_target(ctx, volume)
        if copy is not None and copy.marks.get("job", ctx.job.id) == ctx.job.id:
            patch(ctx, ctx.target, copy, lambda _: {mark("job"): ctx.job.id, mark("state"): "retired"})


def give_volumes_back(ctx: Context) -> None:
    """Those on the source lose our marks; a copy that is kept beside its instance is marked as what it is."""
    for volume in ctx.move.volumes:
        source = find_volume(ctx.source, volume.pool, volume.name, ctx.move.project)
        if source is not None and source.marks.get("job") == ctx.job.id:
            patch(ctx, ctx.source, source, unmarked)
        copy = own_copy(ctx, volume)
        if copy is not None:
            patch(ctx, ctx.target, copy, lambda _: {mark("state"): "retired"})


def send_each(ctx: Context, is_done: Callable[[Volume], bool]) -> Outcome:
    """Drive the pass at hand, or begin that of the first volume whose copy is not done."""
    if "receive" in ctx.job.evidence:
        return follow_pass(ctx, ctx.move.volumes)
    for volume in ctx.move.volumes:
        copy = ours_on_target(ctx, volume)
        if copy is None or not is_done(copy):
            return _begin(ctx, volume, copy)
    return Outcome.completed()


def ours_on_target(ctx: Context, volume: AttachedVolume) -> Volume | None:
    """The copy, or None. Raises IdentityMismatch if there is one that others have made."""
    copy = on_target(ctx, volume)
    if copy is not None and copy.marks.get("job") != ctx.job.id:
        raise IdentityMismatch(
            f"{ctx.move.target} has a volume {copy.pool}/{copy.name} that is not ours",
            hint=f"rename or delete it, then `herder retry {ctx.job.id}`",
        )
    return copy


def make_empty(ctx: Context, volume: AttachedVolume, source: Volume) -> None:
    """Take the copy's name on the target, by an empty one that says whose it is."""
    wanted = wanted_volume(ctx, volume, source)
    empty = replace(
        wanted,
        pool=volume.target_pool,
        name=name_there(ctx, volume),
        project=ctx.move.target_project,
        config={**wanted.own_config, **marks_of_copy(ctx, source, number=0)},
    )

    def take_back() -> None:
        made = own_copy(ctx, volume)
        if made is not None and not made.used_by:
            ctx.target.delete_volume(made)

    with ctx.taken_back_if_late(take_back):
        ctx.target.create_volume(empty)


def is_complete(copy: Volume) -> bool:
    """Whether both servers have told of success."""
    return copy.marks.get("state") == "complete"


def is_last_word(ctx: Context, copy: Volume) -> bool:
    """Whether it is complete, and was made after the stop of the source."""
    return is_complete(copy) and copy.marks.get("of", "nothing") == ctx.job.facts.get("last_used")


def _begin(ctx: Context, volume: AttachedVolume, copy: Volume | None) -> Outcome:
    waiting = wait_for_earlier(ctx, volume)
    if waiting is not None:
        return waiting
    # rsync would take what a running guest has changed within the second for what was sent before.
    is_stale = copy is not None and (ctx.move.is_copy or ctx.move.is_of_volume)
    if copy is not None and (is_stale or ctx.job.facts.get("broken_volume") == str(volume)):
        return _remove(ctx, volume, copy)
    return begin_pass(ctx, volume, copy)


def begin_pass(ctx: Context, volume: AttachedVolume, copy: Volume | None = None) -> Outcome:
    """The two requests, back to back, as for an instance; on one server, a clone."""
    source = claimed(ctx, volume)
    number = int(ctx.job.facts.get("next_pass", 0))
    ctx.note(evidence={"volume": str(volume), "pass": number, "began": ctx.now().isoformat()}, next_pass=number + 1)
    if copy is not None:
        # The time makes its ETag one that never comes back.
        receiving = {"state": "receiving", "pass": str(number), "of": "", "since": ctx.now().isoformat()}
        patch(ctx, ctx.target, copy, lambda _: {mark(name): value for name, value in receiving.items()})
    if ctx.move.is_local:
        return _begin_clone(ctx, volume, source)
    source_info, target_info = ctx.source.info(), ctx.target.info()
    _refuse_if_it_crashes(ctx, source_info, target_info)
    way = choose_way(ctx, source_info, target_info)
    transfer = Transfer(
        address=way.address,
        certificate=(source_info if way.mode is Mode.PULL else target_info).certificate,
        refresh=copy is not None,
        instance_only=ctx.move.overrides.instance_only,
    )
    begin = {Mode.PULL: _pull, Mode.PUSH: _push, Mode.RELAY: _relay}[way.mode]
    offer, receive = begin(ctx, volume, source, transfer)
    ctx.note(evidence={"offer": offer, "receive": receive})
    begun = _wait(ctx, ctx.on_target(receive), ctx.on_source(offer))
    return follow_pass(ctx, ctx.move.volumes) if ctx.job.is_down and ctx.lingers(begun) else begun


def _refuse_if_it_crashes(ctx: Context, source: ServerInfo, target: ServerInfo) -> None:
    """Whatever was planned: a server may have become another version since. Raises PreflightRefused."""
    why = why_as_backup(source, target)
    if why:
        raise PreflightRefused(f"{ctx.move.target}: {why}", hint=f"`herder cancel {ctx.job.id}`, then plan again")


def _begin_clone(ctx: Context, volume: AttachedVolume, source: Volume) -> Outcome:
    """A copy on its own server takes no way."""
    wanted = wanted_volume(ctx, source=source, volume=volume)
    clone = replace(
        wanted,
        pool=volume.target_pool,
        name=name_there(ctx, volume),
        project=ctx.move.target_project,
        config=_config(ctx, source, wanted),
    )
    made = _received(ctx, lambda: ctx.target.clone_volume(clone, of=source))
    ctx.note(evidence={"offer": made, "receive": made})
    return _wait(ctx, ctx.on_target(made))


def _pull(ctx: Context, volume: AttachedVolume, source: Volume, transfer: Transfer) -> tuple[str, str]:
    offer = _offer(ctx, volume, transfer)
    body, project = _body(ctx, volume, source, replace(transfer, offer=offer)), ctx.move.target_project
    return offer.operation, _received(ctx, lambda: ctx.target.receive_volume(volume.target_pool, body, project=project))


def _push(ctx: Context, volume: AttachedVolume, source: Volume, transfer: Transfer) -> tuple[str, str]:
    awaited = _awaited(ctx, volume, source, transfer)
    ctx.confirm_fence()
    to = replace(transfer, offer=awaited)
    try:
        pushing = ctx.source.push_volume(volume.pool, volume.name, to, project=ctx.move.project)
    except ServerRefused as refused:
        if is_closed(refused.message):
            raise closed_way(ctx, refused.message) from refused
        raise TransferFailed(refused.message) from refused
    return pushing, awaited.operation


def _relay(ctx: Context, volume: AttachedVolume, source: Volume, transfer: Transfer) -> tuple[str, str]:
    awaited = _awaited(ctx, volume, source, transfer)
    offer = _offer(ctx, volume, transfer)
    ctx.confirm_fence()
    try:
        ctx.carry(ctx.source, offer, ctx.target, awaited, ctx.move.policy.rate)
    except ServerRefused as error:  # one of them gave up waiting before we came
        raise TransferFailed(error.message) from error
    return offer.operation, awaited.operation


def _offer(ctx: Context, volume: AttachedVolume, transfer: Transfer) -> Offer:
    ctx.confirm_fence()
    return ctx.source.offer_volume(
        volume.pool, volume.name, volume_only=transfer.instance_only, project=ctx.move.project
    )


def _awaited(ctx: Context, volume: AttachedVolume, source: Volume, transfer: Transfer) -> Offer:
    body, project = _body(ctx, volume, source, transfer), ctx.move.target_project
    return _received(ctx, lambda: ctx.target.await_volume(volume.target_pool, body, project=project))


def _received(ctx: Context, ask: Callable[[], Told]) -> Told:
    """Raises TransferFailed if a volume of that name has come up meanwhile: then it is looked at first."""
    ctx.confirm_fence()
    try:
        return ask()
    except ServerRefused as refused:
        if IS_THERE in refused.message:
            raise TransferFailed(refused.message) from refused
        raise


def _body(ctx: Context, volume: AttachedVolume, source: Volume, transfer: Transfer) -> dict[str, Any]:
    wanted = wanted_volume(ctx, volume, source)
    config = _config(ctx, source, wanted)
    return volume_receive_body(wanted, name=name_there(ctx, volume), config=config, source=transfer)


def _config(ctx: Context, source: Volume, wanted: Volume) -> dict[str, str]:
    """Of a new copy; one beside a generation tells of what it is a backup."""
    marks = marks_of_copy(ctx, source, number=int(ctx.job.evidence["pass"]))
    told = {key: value for key, value in source.config.items() if ctx.move.backup and key.startswith(BACKUP)}
    return {**wanted.own_config, **source.owners, **told, **marks}


def wanted_volume(ctx: Context, volume: AttachedVolume, source: Volume) -> Volume:
    """The source as its copy shall be: what replaces a volume that is there keeps the config and description of that.

    LXD's own refresh leaves them as they are, too. What is made of a backup has those of what was backed up.
    """
    if source.original is not None and not ctx.move.backup:
        was = source.original
        return replace(source, config={**was.config, **source.owners}, description=was.description)
    if ctx.move.method is not Method.VOLUME_REFRESH:
        return source
    for name in (volume.target_name, ctx.job.name_beside(KEPT)):
        there = find_volume(ctx.target, volume.target_pool, name, ctx.move.target_project)
        if there is not None:
            return replace(source, config=there.own_config, description=there.description)
    return source


def marks_of_copy(ctx: Context, source: Volume, *, number: int) -> dict[str, str]:
    """What a new copy bears."""
    marks = {
        "job": ctx.job.id,
        "role": "target",
        "state": "receiving",
        "pass": str(number),
        "source": f"{ctx.move.source}:{source.place}",
        "since": ctx.now().isoformat(),
    }
    return {mark(name): value for name, value in marks.items()} | _memo(ctx)


def _memo(ctx: Context) -> dict[str, str]:
    """What a lost record is rebuilt from; one that goes with an instance has it in that."""
    return {mark("memo"): ctx.memo(ctx.job)} if ctx.move.is_of_volume else {}


def _wait(ctx: Context, *operations: OperationRef) -> Outcome:
    """Until these end. One that has ended, and is known to have, would wake the job at once, again and again."""
    evidence = ctx.job.evidence
    return Outcome.wait(
        f"volume {evidence['volume']} from {ctx.move.source} to {ctx.move.target}, which cannot be cancelled",
        retry_in=LOOK_AGAIN,
        operations=operations,
        evidence=dict(evidence),
    )


def follow_pass(ctx: Context, going: Iterable[AttachedVolume]) -> Outcome:
    """The operations have begun: see whether they are over, and how they ended.

    A source needs up to two minutes to find out that its target was killed, and is not waited for then.
    """
    offered, received = ctx.on_source(ctx.job.evidence["offer"]), ctx.on_target(ctx.job.evidence["receive"])
    target_side, source_side = ctx.look(received), ctx.look(offered)
    name = str(ctx.job.evidence["volume"])
    volume = next(each for each in going if str(each) == name)
    if target_side is None:
        ctx.forget(*_KEYS)
        raise OperationLost(f"{ctx.move.target} forgot how the copy of volume {name} ended; it is sent again")
    sides = ((received, target_side), (offered, source_side))
    under_way = [ref for ref, side in sides if side is not None and not side.is_finished]
    if under_way:
        return _wait(ctx, *under_way)
    failed = [side for side in (target_side, source_side) if side is not None and not side.succeeded]
    if failed:
        raise _failure(ctx, volume, target_side, " | ".join(side.error for side in failed))
    return _prove(ctx, volume)


def _failure(ctx: Context, volume: AttachedVolume, target_side: Operation, text: str) -> Exception:
    error: Exception = TransferFailed(f"volume {volume}: {text}")
    if is_closed(target_side.error):
        error = closed_way(ctx, target_side.error)
    elif _WRECK in text:
        ctx.note(broken_volume=str(volume))
    elif "No space left" in text:
        error = OutOfSpace(f"pool {volume.target_pool} of {ctx.move.target} is full: {text}")
    ctx.forget(*_KEYS)
    return error


def _prove(ctx: Context, volume: AttachedVolume) -> Outcome:
    """Both sides say success: say so on the copy."""
    number, began = int(ctx.job.evidence["pass"]), datetime.fromisoformat(ctx.job.evidence["began"])
    sent = ctx.log.progress(ctx.on_source(ctx.job.evidence["offer"]))[0]
    way = ctx.job.evidence.get("way", "")
    ctx.forget(*_KEYS)
    copy = own_copy(ctx, volume)
    if copy is None:
        raise OperationLost(f"{ctx.move.target} has no volume {volume} after a successful copy")
    source = ctx.source.volume(volume.pool, volume.name, project=ctx.move.project)
    last_word = ctx.job.facts.get("last_used", "") if ctx.job.step == FINAL_STEP else ""
    marks = {"state": "complete", "pass": str(number), "of": last_word}
    changes = {**{mark(name): value for name, value in marks.items()}, **source.owners}
    patch(ctx, ctx.target, copy, lambda _: changes)
    ctx.note(way=way)
    done = Pass(number=number, kind="volume", took=ctx.now() - began, sent=sent)
    return Outcome.again(finished_pass=done, evidence=ctx.job.evidence)


def _remove(ctx: Context, volume: AttachedVolume, copy: Volume) -> Outcome:
    """Delete a copy of ours that is beyond repair, and before it the instance's copy, which needs it."""
    if ctx.move.method is Method.WARM and ctx.job.is_down:
        raise CutoverBroken(f"the copy of volume {volume} is beyond repair; another one is made while the source runs")
    instance = None if ctx.move.is_of_volume else ctx.own_copy()
    if instance is not None:
        return remove_copy(ctx, instance) or Outcome.again(evidence=ctx.job.evidence)
    if not delete(ctx, ctx.target, copy):
        raise IdentityMismatch(
            f"{ctx.move.target}: the unfinished copy of volume {volume} is in use by {', '.join(copy.used_by)}",
            hint=f"detach it there, then `herder retry {ctx.job.id}`",
        )
    ctx.note(broken_volume="")
    return Outcome.again(evidence=ctx.job.evidence)


def claimed(ctx: Context, volume: AttachedVolume) -> Volume:
    """The source's volume, which is this job's and nobody else's. Raises PreflightRefused and IdentityMismatch."""
    source = ctx.source.volume(volume.pool, volume.name, project=ctx.move.project)
    others = _in_the_way(ctx, source)
    if others:
        raise PreflightRefused(
            f"{ctx.move.source}: volume {volume} is {'' if ctx.move.is_of_volume else 'also '}attached by "
            f"{', '.join(others)} now",
            hint=f"detach it there, then `herder retry {ctx.job.id}`",
        )
    holder = source.marks.get("job", "")
    if ctx.move.is_copy or holder == ctx.job.id:
        return source
    if holder and source.marks.get("state") != "retired":
        raise IdentityMismatch(f"{ctx.move.source}: volume {volume} belongs to job {holder}")

    def take_back() -> None:
        seen = ctx.source.volume(volume.pool, volume.name, project=ctx.move.project)
        if seen.marks.get("job") == ctx.job.id:
            ctx.source.patch_volume(seen, unmarked(seen))

    with ctx.taken_back_if_late(take_back):
        claim = {mark("job"): ctx.job.id, mark("role"): "source", mark("state"): "moving", **_memo(ctx)}
        patch(ctx, ctx.source, source, lambda _: claim)
    return source


def _in_the_way(ctx: Context, source: Volume) -> tuple[str, ...]:
    """Who else attaches it, and would lose it or write into it."""
    if ctx.move.is_of_volume:
        return () if ctx.move.is_copy else source.other_users(project=ctx.move.project)
    return source.other_users(ctx.source_instance().name, ctx.move.project)


def _retire(ctx: Context, volume: AttachedVolume) -> None:
    """Keep the source's volume as the instance is kept, or delete it after the instance was deleted."""
    source = find_volume(ctx.source, volume.pool, volume.name, ctx.move.project)
    if source is None or source.marks.get("job") != ctx.job.id:
        return
    if ctx.move.policy.retire is Retire.DELETE and not source.used_by:
        if on_target(ctx, volume) is None:
            raise TransferFailed(f"{ctx.move.target} has no volume {volume}; the source's is kept")
        if delete(ctx, ctx.source, source):
            return
    patch(ctx, ctx.source, source, lambda _: {mark("state"): "retired"})


def _differences(ctx: Context, volume: AttachedVolume) -> list[str]:
    source, copy = find_volume(ctx.source, volume.pool, volume.name, ctx.move.project), on_target(ctx, volume)
    if copy is None:
        return [f"volume {volume} is not there"]
    if source is None:
        return []
    found = []
    wanted = wanted_volume(ctx, volume, source)
    if copy.own_config != wanted.own_config or copy.description != wanted.description:
        found.append(f"volume {volume} has another config or description")
    if not ctx.move.overrides.instance_only:
        lacking = ctx.source.volume_snapshots(source) - ctx.target.volume_snapshots(copy)
        lacking &= frozenset(ctx.job.facts.get("volume_snapshots", lacking))
        found += [f"volume {volume} lacks snapshot {name}" for name in sorted(lacking)]
    return found


def delete(ctx: Context, client: LxdClient, volume: Volume) -> bool:
    """Whether it is gone; not if somebody attaches it."""
    ctx.confirm_fence()
    try:
        client.delete_volume(volume)
    except NotFound:
        return True
    except ServerRefused as refused:
        if _IN_USE in refused.message:
            return False
        raise
    return True


def wait_for_earlier(ctx: Context, volume: AttachedVolume) -> Outcome | None:
    """Until nothing is going on with the copy of the volume on the target."""
    operations = ctx.target.operations(project=ctx.move.target_project)
    busy = busy_with(operations, volume.target_pool, name_there(ctx, volume))
    return _until_over(ctx, volume, ctx.on_target(busy.id), busy) if busy else None


def wait_for_source(ctx: Context, volume: AttachedVolume) -> Outcome | None:
    """Until nothing is going on with the volume on the source."""
    busy = busy_with(ctx.source.operations(project=ctx.move.project), volume.pool, volume.name)
    return _until_over(ctx, volume, ctx.on_source(busy.id), busy) if busy else None


def _until_over(ctx: Context, volume: AttachedVolume, ref: OperationRef, busy: Operation) -> Outcome:
    blocked_on = f"the end of '{busy.description}' of volume {volume} on {ref.remote}"
    return ctx.wait_for(ref, blocked_on=blocked_on, retry_in=timedelta(seconds=2))


def busy_with(operations: Iterable[Operation], pool: str, name: str) -> Operation | None:
    """What of these is going on with a volume."""
    ending = f"/{pool}/volumes/custom/{name}"
    for operation in operations:
        paths = [path for kind in operation.resources.values() for path in kind]
        if not operation.is_finished and any(path.endswith(ending) for path in paths):
            return operation
    return None


def name_there(ctx: Context, volume: AttachedVolume) -> str:
    """The copy's name: what replaces another volume is made beside that."""
    return ctx.job.name_beside(COPY) if ctx.move.method is Method.VOLUME_REFRESH else volume.target_name


def on_target(ctx: Context, volume: AttachedVolume) -> Volume | None:
    """What bears the copy's name, or None."""
    return find_volume(ctx.target, volume.target_pool, name_there(ctx, volume), ctx.move.target_project)


def own_copy(ctx: Context, volume: AttachedVolume) -> Volume | None:
    """The copy that this job has made, or None."""
    copy = on_target(ctx, volume)
    return copy if copy is not None and copy.marks.get("job") == ctx.job.id else None


def find_volume(client: LxdClient, pool: str, name: str, project: str) -> Volume | None:
    """The volume of this name, or None."""
    try:
        return client.volume(pool, name, project=project)
    except NotFound:
        return None


def unmarked(volume: Volume) -> dict[str, str]:
    """A patch that removes every mark."""
    return {mark(name): "" for name in volume.marks}


def patch(
    ctx: Context,
    client: LxdClient,
    seen: Volume,
    changes: Callable[[Volume], Mapping[str, str]],
    *,
    description: str | None = None,
) -> None:
    """Change its config now; the fence is confirmed after the reading, as for an instance."""
    for attempt in soon_again(ServerBusy, PreconditionFailed):
        with attempt:
            known = client.volume(seen.pool, seen.name, project=seen.project)
            ctx.confirm_fence()
            told = known if description is None else replace(known, description=description)
            client.patch_volume(told, changes(known))


def rename(ctx: Context, volume: Volume, new: str) -> None:
    """On the target. Raises TransferFailed if the new name has been taken meanwhile, or nothing has the old one."""
    try:
        ctx.target.rename_volume(volume, new)
    except NotFound as gone:
        raise TransferFailed(gone.message) from gone
    except ServerRefused as refused:
        if IS_THERE in refused.message:
            raise TransferFailed(refused.message) from refused
        raise
