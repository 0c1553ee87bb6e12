"""One pass: snapshot on the source, the two requests that make it flow, and the proof that it arrived.

The target's marks are the truth about passes: ``state`` is ``receiving`` while a pass may be half-way and ``complete``
after it was seen to succeed on both servers, ``pass`` is its number. A half-made target otherwise looks like a
finished one from its first moment.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from common.domain.eligibility import wanted_pool, wanted_profiles
from common.domain.errors import (
    CutoverBroken,
    HerderError,
    IdentityMismatch,
    NotFound,
    OperationLost,
    OutOfSpace,
    PermanentError,
    ServerRefused,
    TransferFailed,
    TransferStalled,
    VerificationFailed,
)
from common.domain.generation import BACKUP, BACKUP_OF, STAGING
from common.domain.instance import BACKUP_STATE, COPY_OF, HOME, ORIGIN, PUT_BACK, Instance, is_root_disk
from common.domain.job import Outcome, Pass
from common.domain.operation import Operation, OperationRef
from common.domain.plan import Mode, identity_of
from common.lxd.migration import Offer, Transfer, receive_body, reserve_body
from workers.steps.carried_volumes import goes_as_backup
from workers.steps.context import LOOK_AGAIN, Context
from workers.steps.copies import IS_THERE, find_operation, free_name, kept_copy, remove_copy
from workers.steps.guard import guard
from workers.steps.marks import mark, marked, remembered_id, restored, snapshot_name, uuid_of_copy, wanted
from workers.steps.repair import drop_newest_snapshot, is_beyond_repair
from workers.steps.ways import choose_way, closed_way, is_closed

#: LXD 5.0.2 on btrfs tells snapshots apart by the subvolume they were received from. Those that came to the source
#: with an earlier move count as missing on the target, and the stream then has no parent.
_NO_PARENT = "cannot find parent subvolume"
#: A snapshot of a copy that was copied on its server counts as missing, and the one that comes finds its name taken.
_IN_THE_WAY = ": file exists"
#: LXD is still removing what a broken transfer has left.
_STILL_THERE = "already exists on migration target"
#: After so many refusals of this kind it does not remove it any more.
_PATIENCE_WITH_REMOVALS = 3
#: An instance's deletion was cut off by the end of its daemon; nothing of it is seen, but its name cannot be used.
_PHANTOM = "Volume exists in database but not on storage"
#: A key that the one server has given to a snapshot and the other does not know.
_UNKNOWN_KEY = "Unknown configuration key"
#: rsync's way to say that files were deleted while it read them.
_VANISHED = "exit status 24"
#: What LXD notes on a copy when it has all of it, for its first start.
_TEMPLATE = "volatile.apply_template"
#: What QEMU emulates, as Incus notes it at a start: a saved memory goes on in the same only.
_MACHINE = "volatile.vm.definition"
_KEYS = ("snapshot", "snapped", "began", "offer", "receive", "pass", "sent", "moved_at")
#: What a wait says of passes that are not pulled.
_BY = {Mode.PUSH: " by push, which cannot be cancelled", Mode.RELAY: " by relay"}
#: rsync may compare files for long without sending a byte.
_STALL_FACTOR_OF_RSYNC = 10


class RefreshImpossible(TransferFailed):
    """The servers cannot make this copy equal by a refresh; only a whole new copy helps."""

    code = "refresh_impossible"


def run_pass(ctx: Context, kind: str) -> Outcome | Pass:
    """Drive the pass at hand; an Outcome while it is under way, the Pass when it is proven complete.

    ``kind`` is ``"full"`` (the target must not exist, or be a wreck of ours), ``"refresh"`` or ``"final"``.
    """
    if "pass" not in ctx.job.evidence:
        _begin_numbering(ctx)
    if "receive" in ctx.job.evidence:
        return _follow(ctx, kind)
    found = ctx.target_instance()
    if int(ctx.job.facts.get("still_there", 0)) >= _PATIENCE_WITH_REMOVALS:
        freed = free_name(ctx, found, lambda: _reserve_name(ctx))
        if freed is not None:
            return freed
        found = None
    settled = _earlier_attempt(ctx, kind, found)
    if settled is not None:
        return settled
    source = marked(ctx, ctx.source_instance())
    waiting = thaw(ctx, source) or _snapshot(ctx, kind, source)
    if waiting is not None:
        return waiting
    begun = _begin(ctx, kind, source, found)
    return _follow(ctx, kind) if ctx.job.is_down and ctx.lingers(begun) else begun


def local_pass(ctx: Context) -> Outcome | Pass:
    """The one pass of a copy that stays on its server."""
    if "pass" not in ctx.job.evidence:
        _begin_numbering(ctx)
    if "clone" not in ctx.job.evidence:
        settled = _earlier_attempt(ctx, "full", ctx.target_instance())
        if settled is not None:
            return settled
        ctx.note(evidence={"began": ctx.now().isoformat()})
    ended = ctx.settle(
        "clone",
        lambda: ctx.on_target(ctx.target.receive(_local_body(ctx), project=ctx.move.target_project)),
        blocked_on=f"a copy on {ctx.move.target}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("clone")
    if ended is None:
        raise OperationLost(f"{ctx.move.target} forgot how the copy of {ctx.move.instance} ended")
    if not ended.succeeded:
        ctx.forget(*_KEYS)
        raise TransferFailed(f"{ctx.move.target}: copy of {ctx.move.instance}: {ended.error}")
    return _prove(ctx, "full", None)


def _local_body(ctx: Context) -> dict[str, Any]:
    """What its request does not say a copy on its server has of the original; said to be empty, it has it not."""
    instance = ctx.source_instance()
    body = _receive_body(ctx, instance, Transfer())
    unsaid = dict.fromkeys((key for key in instance.config if not key.startswith("volatile.")), "")
    source = {"type": "copy", "source": instance.name, "project": instance.project}
    return {**body, "config": {**unsaid, **body["config"]}, "source": source}


def _begin_numbering(ctx: Context) -> None:
    """A number is never used twice, so that a snapshot of a broken pass cannot be taken for a later one's."""
    number = int(ctx.job.facts.get("next_pass", 0))
    ctx.note(evidence={"pass": number}, next_pass=number + 1)


def _number(ctx: Context) -> int:
    return int(ctx.job.evidence["pass"])


def _has_snapshot(ctx: Context) -> bool:
    """Whether the pass at hand was begun with a snapshot of ours, which must then have arrived."""
    return bool(ctx.move.backup or ctx.job.evidence.get("snapped"))


def _snapshot(ctx: Context, kind: str, source: Instance) -> Outcome | None:
    """Only where pools send deltas: there only a new snapshot makes a refresh one; elsewhere it would be a full copy.

    A stopped instance that is sent whole is its own snapshot, and so is one of which no refresh follows. A backup has
    made the snapshot of its run before.
    """
    if ctx.move.backup or ctx.job.evidence.get("snapped"):
        return None
    if not ctx.job.facts.get("deltas") or (kind == "full" and (source.is_stopped or ctx.move.is_copy)):
        return None
    if ctx.move.is_refresh and ctx.move.overrides.instance_only:
        return None  # it would not be sent
    name = snapshot_name(ctx.job, _number(ctx))
    try:
        ended = ctx.settle(
            "snapshot",
            lambda: _create_snapshot(ctx, name),
            blocked_on=f"snapshot on {ctx.move.source}",
        )
        if isinstance(ended, Outcome):
            return ended
        ctx.forget("snapshot")
        error = ended.error if ended else "no trace of it"
    except ServerRefused as refused:
        error = refused.message
    if is_beyond_repair(error):
        return drop_newest_snapshot(ctx)
    # A worker that died right after the request has left the snapshot, and then LXD refuses to make it again.
    if error and name not in {s.name for s in ctx.source.snapshots(ctx.move.instance, project=ctx.move.project)}:
        raise TransferFailed(f"{ctx.move.source}: snapshot {name}: {error}")
    ctx.note(evidence={"snapped": True})
    return None


def _create_snapshot(ctx: Context, name: str) -> OperationRef:
    def take_back() -> None:
        ctx.source.wait(begun, timeout_seconds=10)
        ctx.source.delete_snapshot(ctx.move.instance, name, project=ctx.move.project)

    with ctx.taken_back_if_late(take_back):
        begun = ctx.source.create_snapshot(ctx.move.instance, name, project=ctx.move.project)
    return ctx.on_source(begun)


def thaw(ctx: Context, source: Instance) -> Outcome | None:
    """A source daemon that died while it had frozen the instance for a pass leaves it frozen."""
    if source.status != "Frozen":
        return None
    busy = find_operation(ctx.source.operations(project=ctx.move.project), ctx.move.instance)
    if ctx.move.is_copy and busy is not None:
        # Another copy of it is under way, which needs it frozen.
        return ctx.wait_for(ctx.on_source(busy.id), blocked_on=f"the end of '{busy.description}' on {ctx.move.source}")
    ended = ctx.settle(
        "thaw",
        lambda: ctx.on_source(ctx.source.unfreeze(ctx.move.instance, project=ctx.move.project)),
        blocked_on=f"{ctx.move.source}:{ctx.move.instance} to thaw",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("thaw")
    return None


def _is_inconsistent_allowed(ctx: Context, instance: Instance) -> bool:
    """Whether the source may go on while its files are read.

    Without it, LXD freezes a running container on a dir pool for the whole pass. The final pass makes up for it; but a
    guest that keeps deleting files breaks such passes, and then it has to be frozen after all. After the only pass of
    a copy nothing is made up for. Of a backup only the snapshot counts, whose files nobody writes.
    """
    if ctx.move.overrides.allow_inconsistent:
        return True
    if ctx.move.is_copy and not ctx.move.backup:
        return False
    return instance.is_running and not ctx.job.facts.get("deltas") and not ctx.job.facts.get("must_freeze")


def _begin(ctx: Context, kind: str, instance: Instance, copy: Instance | None) -> Outcome:
    """The two requests, back to back: who offers or waits gives up after 10 s, which is less than a lease."""
    source_info, target_info = ctx.source.info(), ctx.target.info()
    way = choose_way(ctx, source_info, target_info)
    if kind != "full" and not mark_receiving(ctx, copy, _number(ctx)):
        kind = "full"
    ctx.note(evidence={"began": ctx.now().isoformat(), "target_pid": target_info.pid})
    if ctx.move.is_copy:
        there = ctx.source.snapshots(ctx.move.instance, project=ctx.move.project)
        ctx.note(snapshots=[snapshot.name for snapshot in there])
    transfer = Transfer(
        address=way.address,
        certificate=(source_info if way.mode is Mode.PULL else target_info).certificate,
        refresh=kind != "full",
        instance_only=ctx.move.overrides.instance_only,
        allow_inconsistent=_is_inconsistent_allowed(ctx, instance),
    )
    begin = {Mode.PULL: _pull, Mode.PUSH: _push, Mode.RELAY: _relay}[way.mode]
    offer, receive = begin(ctx, instance, transfer)
    offered, received = ctx.on_source(offer), ctx.on_target(receive)
    return _wait(ctx, kind, {**ctx.job.evidence, "offer": offer, "receive": receive}, received, offered)


def _offered(ctx: Context, transfer: Transfer) -> Offer:
    ctx.confirm_fence()
    return ctx.source.offer(
        ctx.move.instance,
        project=ctx.move.project,
        instance_only=transfer.instance_only,
        allow_inconsistent=transfer.allow_inconsistent,
    )


def _awaited(ctx: Context, instance: Instance, transfer: Transfer) -> Offer:
    ctx.confirm_fence()
    try:
        return ctx.target.await_push(_receive_body(ctx, instance, transfer), project=ctx.move.target_project)
    except PermanentError as error:
        raise _not_received(error) from error


def _pull(ctx: Context, instance: Instance, transfer: Transfer) -> tuple[str, str]:
    """The source offers, the target takes it up: the operations of both."""
    offer = _offered(ctx, transfer)
    try:
        ctx.confirm_fence()
        body = _receive_body(ctx, instance, replace(transfer, offer=offer))
        receiving = ctx.target.receive(body, project=ctx.move.target_project)
    except PermanentError as error:
        # Refused at once: the offer would live on for its 10 s and keep the source busy.
        ctx.source.cancel(offer.operation)
        raise _not_received(error) from error
    return offer.operation, receiving


def _push(ctx: Context, instance: Instance, transfer: Transfer) -> tuple[str, str]:
    """The target waits, the source sends: the operations of both. Raises TransferFailed if it does not get through.

    The target cannot be told so: it waits out its 10 s, and the next attempt waits for that.
    """
    awaited = _awaited(ctx, instance, transfer)
    ctx.confirm_fence()
    try:
        pushing = ctx.source.push(ctx.move.instance, replace(transfer, offer=awaited), project=ctx.move.project)
    except ServerRefused as refused:
        if is_closed(refused.message):
            raise closed_way(ctx, refused.message) from refused
        raise TransferFailed(refused.message) from refused
    return pushing, awaited.operation


def _relay(ctx: Context, instance: Instance, transfer: Transfer) -> tuple[str, str]:
    """Both wait and this process dials both: the operations of both.

    To lose the lease ends no relay: whoever has the job then finds its operations, and follows or cancels them.
    """
    awaited = _awaited(ctx, instance, transfer)
    offer = _offered(ctx, transfer)
    try:
        ctx.confirm_fence()
        ctx.carry(ctx.source, offer, ctx.target, awaited, ctx.move.policy.rate)
    except HerderError as error:
        # Else it would keep the source busy for its 10 s.
        with suppress(HerderError):
            ctx.source.cancel(offer.operation)
        if isinstance(error, PermanentError):  # one of them gave up waiting before we came
            raise TransferFailed(error.message) from error
        raise
    return offer.operation, awaited.operation


def _not_received(error: PermanentError) -> Exception:
    """A name that was taken since we looked is looked at first, the next time: a run of another night may have it."""
    return TransferFailed(error.message) if IS_THERE in error.message else error


def _receive_body(ctx: Context, instance: Instance, transfer: Transfer) -> dict[str, Any]:
    kept = kept_copy(ctx) if ctx.move.is_refresh else None
    if kept is not None:
        return receive_body(
            kept,
            name=ctx.job.copy_name,
            config=_config_of_kept(ctx, kept),
            devices=kept.devices,
            profiles=kept.profiles,
            source=transfer,
        )
    return receive_body(
        replace(instance, ephemeral=ctx.move.overrides.ephemeral, stateful=False) if ctx.move.is_copy else instance,
        name=ctx.job.copy_name,
        config=_copy_config(ctx, instance),
        devices={**_devices_of_copy(ctx, instance), **guard(ctx.move.type)},
        profiles=wanted_profiles(instance, ctx.move),
        source=transfer,
    )


def _devices_of_copy(ctx: Context, instance: Instance) -> dict[str, dict[str, str]]:
    """Those of a moved instance that attach volumes which come as backups are added at its release.

    Such a volume takes the place of another one, which nobody may attach.
    """
    wanted = ctx.wanted_devices(instance)
    if ctx.move.is_copy or not goes_as_backup(ctx):
        return wanted
    coming = {(volume.target_pool, volume.target_name) for volume in ctx.move.volumes}
    return {n: device for n, device in wanted.items() if (device.get("pool"), device.get("source")) not in coming}


def _reserve_name(ctx: Context) -> None:
    instance = ctx.source_instance()
    devices = {**_devices_of_copy(ctx, instance), **guard(ctx.move.type)}
    if not any(is_root_disk(device) for device in devices.values()):
        devices["root"] = {"type": "disk", "path": "/", "pool": wanted_pool(instance, ctx.move)}
    body = reserve_body(instance, name=ctx.job.copy_name, config=_copy_config(ctx, instance), devices=devices)
    ctx.target.receive(body, project=ctx.move.target_project)


def _wait(ctx: Context, kind: str, evidence: dict[str, Any], *operations: OperationRef) -> Outcome:
    """Until these end. One that has ended, and is known to have, would wake the job at once, again and again."""
    by = _BY.get(evidence.get("mode", ""), "")
    return Outcome.wait(
        f"{kind} pass {evidence['pass']} from {ctx.move.source} to {ctx.move.target}{by}",
        retry_in=LOOK_AGAIN,
        operations=operations,
        evidence=evidence,
    )


def _copy_config(ctx: Context, instance: Instance) -> dict[str, str]:
    if ctx.move.backup:
        return _staging_config(ctx, instance)
    config = ctx.move.overrides.over({**instance.own_config, **_identity(ctx, instance)})
    config.pop("security.protection.delete", None)
    return config | {
        "boot.autostart": "false",
        mark("job"): ctx.job.id,
        mark("role"): "target",
        mark("state"): "receiving",
        mark("pass"): str(_number(ctx)),
        mark("source"): f"{ctx.move.source}:{ctx.move.instance}",
        mark("memo"): ctx.memo(ctx.job) if ctx.move.is_copy else instance.marks.get("memo", ""),
        **wanted(ctx.move.overrides.over(restored(instance))),
        **(_within_cluster(ctx, instance, config) if ctx.move.is_within_cluster else {}),
    }


def _within_cluster(ctx: Context, instance: Instance, config: Mapping[str, str]) -> dict[str, str]:
    """What a rename would take away, and LXD's own note of the evacuated member to which it belongs."""
    home = config.get(HOME, "")
    away = {ORIGIN: home} if home not in ("", ctx.move.target_member) else {}
    return {**remembered_id(instance), **away}


def _staging_config(ctx: Context, instance: Instance) -> dict[str, str]:
    """Nothing of the instance's own: what it is goes with each generation."""
    return {
        **_identity(ctx, instance),
        "boot.autostart": "false",
        BACKUP: ctx.move.order.policy,
        BACKUP_OF: ctx.move.origin,
        BACKUP_STATE: STAGING,
        mark("job"): ctx.job.id,
        mark("role"): "target",
        mark("state"): "receiving",
        mark("pass"): str(_number(ctx)),
    }


def is_received(copy: Instance) -> bool:
    """Whether all of a copy has come, once: LXD's own sign, which it bears until its first start."""
    return copy.config.get(_TEMPLATE) == "copy"


def _config_of_kept(ctx: Context, kept: Instance) -> dict[str, str]:
    """A copy that is made anew is what it was. One whose files are all new can be refreshed by LXD again."""
    config = {key: value for key, value in kept.config.items() if not key.startswith("volatile.") and key != PUT_BACK}
    marks = {mark("role"): "target", mark("state"): "receiving", mark("pass"): str(_number(ctx))}
    return {**config, **kept.identity, **marks}


def _identity(ctx: Context, instance: Instance) -> Mapping[str, str]:
    """What makes a moved instance the same machine; a copy is another one, of the same image, as with `lxc copy`."""
    if not ctx.move.is_copy:
        machine = instance.config.get(_MACHINE, "") if instance.stateful else ""
        return {**instance.identity, **({_MACHINE: machine} if machine else {})}
    kept = {key: value for key, value in instance.identity.items() if key == "volatile.base_image"}
    return {**kept, "volatile.uuid": uuid_of_copy(ctx.job), COPY_OF: identity_of(instance)}


def mark_receiving(ctx: Context, copy: Instance | None, number: int) -> bool:
    """Before a refresh: on a dir pool an interrupted one leaves a mixture of old and new data that starts happily.

    False if there is no copy. Raises CutoverBroken if it is beyond repair.
    """
    if copy is None:
        return False
    marks = {"state": "receiving", "pass": str(number)}
    if marks.items() - copy.marks.items():
        _mark_copy(ctx, copy, marks)
    return True


def _mark_copy(ctx: Context, copy: Instance, marks: Mapping[str, str]) -> None:
    """Raises CutoverBroken if the copy is beyond repair: another one is made while the source runs."""
    try:
        ctx.patch_target({mark(name): value for name, value in marks.items()}, seen=copy)
    except ServerRefused as error:
        if not is_beyond_repair(error.message):
            raise
        raise _broken(ctx, error.message) from error


def _broken(ctx: Context, text: str) -> CutoverBroken:
    ctx.note(copy_broken=True)
    return CutoverBroken(f"the copy is beyond repair, another one is made: {text}")


def _follow(ctx: Context, kind: str) -> Outcome | Pass:
    """The operations have begun: see whether they are over, and how they ended."""
    offered, received = ctx.on_source(ctx.job.evidence["offer"]), ctx.on_target(ctx.job.evidence["receive"])
    target_side, source_side = ctx.look(received), ctx.look(offered)
    if target_side is None:
        return _after_forgotten(ctx, kind)
    if not target_side.is_finished:
        _watch_for_stall(ctx, offered, source_side)
    sides = ((received, target_side), (offered, source_side))
    under_way = [ref for ref, side in sides if side is not None and not side.is_finished]
    if under_way:
        return _wait(ctx, kind, dict(ctx.job.evidence), *under_way)
    failed = next((o for o in (target_side, source_side) if o is not None and not o.succeeded), None)
    if failed is not None:
        if _VANISHED in f"{target_side.error}{source_side.error if source_side else ''}":
            vanished = int(ctx.job.facts.get("vanished", 0)) + 1
            ctx.note(vanished=vanished, must_freeze=vanished > 1)
        ctx.forget(*_KEYS)
        if is_closed(target_side.error):
            raise closed_way(ctx, target_side.error)
        raise _failure(ctx, target_side, source_side)
    return _prove(ctx, kind, offered)


def _failure(ctx: Context, target_side: Operation, source_side: Operation | None) -> Exception:
    """The error of a pass, told from both sides: on dir only the receiving server knows that its disk is full."""
    text = f"{ctx.move.target}: {target_side.error}"
    if source_side is not None and source_side.error:
        text += f" | {ctx.move.source}: {source_side.error}"
    if is_beyond_repair(text):
        return _broken(ctx, text)
    if _NO_PARENT in text or (_IN_THE_WAY in text and ctx.move.is_refresh):
        return RefreshImpossible(
            f"the servers cannot refresh a copy of snapshots that were moved or copied before: {text}"
        )
    if _UNKNOWN_KEY in text:
        return ServerRefused(
            f"a snapshot has config that {ctx.move.target} does not take: {text}",
            hint="delete that snapshot, or leave all behind with `herder move --method cold --instance-only`",
        )
    if _PHANTOM in text:
        sql = f"DELETE FROM storage_volumes WHERE type = 0 AND name = '{ctx.job.copy_name}'"  # noqa: S608 - for a person
        return ServerRefused(
            f"a deletion that broke off has left the record of a volume {ctx.job.copy_name}: {text}",
            hint=f'as root on {ctx.move.target}: `lxd sql global "{sql}"`, then `herder retry {ctx.job.id}`',
        )
    if _STILL_THERE in text:
        ctx.note(still_there=int(ctx.job.facts.get("still_there", 0)) + 1)
    pool = _target_pool(ctx)
    if "No space left" in text or (pool and pool.total and pool.free < pool.total // 100):
        return OutOfSpace(f"the pool of {ctx.move.target} is full: {text}")
    return TransferFailed(text)


def _target_pool(ctx: Context) -> Any:
    return next((p for p in ctx.target.pools() if p.name == ctx.move.pool), None)


def _watch_for_stall(ctx: Context, offered: OperationRef, source_side: Operation | None) -> None:
    """A frozen source is never noticed by the target, so we watch the bytes ourselves and cancel, if that is possible.

    A push goes on until its servers notice; what waits for it says so.
    """
    sent, _ = ctx.log.progress(offered)
    now = ctx.now()
    if sent != ctx.job.evidence.get("sent") or "moved_at" not in ctx.job.evidence:
        ctx.job = ctx.job.noted({**ctx.job.evidence, "sent": sent, "moved_at": now.isoformat()})
        return
    still_for = now - datetime.fromisoformat(ctx.job.evidence["moved_at"])
    patience = ctx.move.policy.stall * (1 if ctx.job.facts.get("deltas") else _STALL_FACTOR_OF_RSYNC)
    if still_for < patience or source_side is None or not source_side.may_cancel:
        return
    ctx.confirm_fence()
    ctx.source.cancel(offered.id)
    ctx.job = ctx.job.noted({k: v for k, v in ctx.job.evidence.items() if k != "moved_at"})
    raise TransferStalled(f"no byte has left {ctx.move.source} for {still_for.total_seconds():.0f} s; cancelled")


def _after_forgotten(ctx: Context, kind: str) -> Outcome | Pass:
    """Nobody saw the operation end. The daemon's pid and the instance tell whether it can have succeeded."""
    copy = ctx.own_copy()
    same_daemon = ctx.target.info().pid == ctx.job.evidence.get("target_pid")
    offered = ctx.on_source(ctx.job.evidence["offer"])
    if kind == "full" and copy is not None and _is_complete(ctx, copy):
        return _prove(ctx, kind, offered)
    if kind != "full" and copy is not None and not same_daemon:
        _drop_phantom_snapshot(ctx)
        if ctx.move.is_refresh and not ctx.job.facts.get("deltas"):
            ctx.forget(*_KEYS)
            raise RefreshImpossible(f"{ctx.move.target} died while it received snapshots, which rsync does not repair")
    ctx.forget(*_KEYS)
    raise OperationLost(f"{ctx.move.target} forgot the {kind} pass, and the copy does not prove it")


def _is_complete(ctx: Context, copy: Instance) -> bool:
    """Complete copies carry LXD's own sign and accept a change; wrecks, and copies that are being removed, do not."""
    if not is_received(copy):
        return False
    try:
        ctx.target.patch(copy.name, project=copy.project, config={mark("probe"): "1"})
    except (NotFound, ServerRefused):
        return False
    return True


def _drop_phantom_snapshot(ctx: Context) -> None:
    """A target that died in a refresh keeps a row for the new snapshot without its data; it must not be built upon."""
    name = snapshot_name(ctx.job, _number(ctx))
    known = {s.name for s in ctx.target.snapshots(ctx.job.copy_name, project=ctx.move.target_project)}
    if name in known:
        ctx.confirm_fence()
        ctx.target.delete_snapshot(ctx.job.copy_name, name, project=ctx.move.target_project)


def _prove(ctx: Context, kind: str, offered: OperationRef | None) -> Pass:
    """Both sides say success: check what can be checked, then advance the mark. Raises VerificationFailed."""
    copy = ctx.own_copy()
    if copy is None:
        ctx.forget(*_KEYS)
        raise OperationLost(f"{ctx.move.target}:{ctx.job.copy_name} is not there after a successful pass")
    _check_pool(ctx, copy)
    if _has_snapshot(ctx) and not ctx.move.overrides.instance_only:
        have = {s.name for s in ctx.target.snapshots(ctx.job.copy_name, project=ctx.move.target_project)}
        if snapshot_name(ctx.job, _number(ctx)) not in have:
            ctx.forget(*_KEYS)
            raise OperationLost(f"{ctx.move.target}:{ctx.job.copy_name} lacks the snapshot of the {kind} pass")
    _mark_copy(ctx, copy, {"state": "complete", "pass": str(_number(ctx)), "probe": ""})
    began = datetime.fromisoformat(ctx.job.evidence["began"])
    sent = ctx.log.progress(offered)[0] if offered else 0
    if "way" in ctx.job.evidence:
        ctx.job = ctx.job.noted(ctx.job.evidence, {"way": ctx.job.evidence["way"]})
    return Pass(number=_number(ctx), kind=kind, took=ctx.now() - began, sent=sent)


def _check_pool(ctx: Context, copy: Instance) -> None:
    pool = wanted_pool(ctx.source_instance(), ctx.move)
    if copy.root_pool != pool:
        raise VerificationFailed(
            f"{ctx.move.target} put {ctx.job.copy_name} into pool {copy.root_pool} instead of {pool}",
            hint=f"see that {ctx.move.target} has pool {pool}; `herder cancel {ctx.job.id}` removes the copy",
        )


def _earlier_attempt(ctx: Context, kind: str, found: Instance | None) -> Outcome | Pass | None:
    """What an attempt that could not tell of its end has left on the target; None means that the way is free."""
    if found is None:
        ctx.forget("remove", "rename", "aside")
        ctx.job = ctx.job.without("copy_broken")
        return None
    if found.marks.get("job") != ctx.job.id:
        raise IdentityMismatch(
            f"{ctx.move.target} has an instance {ctx.job.copy_name} that is not ours",
            hint=f"rename or delete {ctx.move.target}:{ctx.job.copy_name}, then `herder retry {ctx.job.id}`",
        )
    running = find_operation(ctx.target.operations(project=ctx.move.target_project), ctx.job.copy_name)
    if running is not None:
        blocked_on = f"an earlier pass that still runs on {ctx.move.target}"
        return ctx.wait_for(ctx.on_target(running.id), blocked_on=blocked_on, retry_in=timedelta(seconds=2))
    if ctx.job.facts.get("copy_broken"):
        return remove_copy(ctx, found) or Outcome.again(evidence=ctx.job.evidence)
    if kind == "full":
        return _accept_or_remove(ctx, found)
    if "began" in ctx.job.evidence:
        # The worker died between the request and its checkpoint: what came of it is unknown, so another pass follows.
        ctx.forget(*_KEYS)
        _begin_numbering(ctx)
    return None


def _accept_or_remove(ctx: Context, found: Instance) -> Outcome | Pass | None:
    """A full pass that is proven complete is never sent again; anything else of ours makes way for a new one.

    The mark alone proves nothing: LXD keeps a change of a wreck although it answers that it failed.
    """
    number = int(found.marks.get("pass", "-1"))
    # How long it took is lost; its whole age is an upper bound, which makes a refresh pass follow.
    age = ctx.now() - found.created_at
    is_marked = found.marks.get("state") == "complete" and is_received(found)
    if is_marked and number >= int(ctx.job.facts.get("whole_from", 0)):
        ctx.note(next_pass=max(int(ctx.job.facts["next_pass"]), number + 1))
        return Pass(number=number, kind="full", took=age)
    if "began" in ctx.job.evidence and number == _number(ctx) and _is_complete(ctx, found):
        return _prove(ctx, "full", None)
    return remove_copy(ctx, found)
