"""An import: this process carries a backup file from the archive to the server, which makes an instance of it.

The last piece of the file is held back until its checksum is known, so that of a broken one nothing is ever made.
"""

from datetime import timedelta

from common.archive.stream import verified
from common.domain.archive import Manifest
from common.domain.eligibility import import_findings
from common.domain.errors import (
    ArchiveRefused,
    IdentityMismatch,
    NotFound,
    OutOfSpace,
    PreflightRefused,
    ServerRefused,
    TransferFailed,
    VerificationFailed,
)
from common.domain.instance import IMPORTED, INSTANCE_ID, MARK_PREFIX, Instance, is_root_disk
from common.domain.job import Outcome
from common.domain.operation import OperationRef
from common.lxd.survey import survey
from workers.steps.context import Context
from workers.steps.copies import find_operation
from workers.steps.marks import mark, unmarked
from workers.steps.streams import CancelledMeanwhile, kept_alive, permit, sent, wait_for_permit

_FULL = "no space left on device"
#: A server that was killed while it restored has left a volume without a record, which no request reaches:
#: it has the name of that try, and the next one has another.
_STILL_THERE = "already exists on target"
_NAME_KEPT = 30
_TEMPLATE = "volatile.apply_template"
_LAST_POWER = "volatile.last_state.power"


def check_import(ctx: Context) -> Outcome:
    """The export is as it was planned, and the server can take it under a name that is free."""
    manifest = _manifest(ctx)
    size = ctx.archive.size(manifest.file)
    if size != manifest.size:
        raise VerificationFailed(
            f"{ctx.archive.where}: {manifest.file} has {size or 0} bytes; its manifest says {manifest.size}",
            hint="it was damaged or changed after the export; import another one of this instance",
        )
    server = survey(ctx.target, projects=(ctx.move.target_project,), only=ctx.move.name)
    room = ctx.target.room_for_backups()
    found = import_findings(manifest, ctx.move, server, room, may_be_there=_is_named(ctx))
    refused = [finding for finding in found if finding.is_refusal]
    if refused:
        raise PreflightRefused(
            f"{ctx.move.instance}: " + "; ".join(finding.message for finding in refused),
            hint="; ".join(finding.hint for finding in refused),
        )
    return Outcome.completed()


def _manifest(ctx: Context) -> Manifest:
    manifest = ctx.archive.manifest(ctx.move.file)
    if manifest is None:
        raise ArchiveRefused(
            f"{ctx.archive.where} has no export {ctx.move.file}, as seen by a worker",
            hint="every host with workers must see the archive at this place; then `herder retry`",
        )
    if manifest.sha256 != ctx.move.identity:
        raise IdentityMismatch(
            f"{ctx.archive.where}: {ctx.move.file} is not the export that was planned", hint="plan the import again"
        )
    return manifest


def send_backup(ctx: Context) -> Outcome:
    """The server has made an instance of it, under a name of this job's."""
    if "restore" in ctx.job.evidence:
        return _restored(ctx)
    if _is_named(ctx):
        return Outcome.completed()
    running = find_operation(ctx.target.operations(project=ctx.move.target_project), _name(ctx))
    if running is not None:
        return _follow(ctx, ctx.on_target(running.id))
    manifest, made = _manifest(ctx), _made(ctx)
    if made is None:
        return _begin(ctx, manifest)
    if _missing_snapshots(ctx, made, manifest):
        return _remove(ctx, made)  # its server died while it was at it
    since = str(ctx.job.evidence.get("since", ""))
    return Outcome.completed(finished_pass=sent("import", manifest.size, since, ctx.now()))


def _name(ctx: Context) -> str:
    return IMPORTED.format(ctx.move.name[:_NAME_KEPT], ctx.job.id, ctx.job.facts.get("tries", 1))


def _find(ctx: Context, name: str) -> Instance | None:
    try:
        return ctx.target.instance(name, project=ctx.move.target_project)
    except NotFound:
        return None


def _made(ctx: Context) -> Instance | None:
    """What the server has made of the backup, before it has its name."""
    return _find(ctx, _name(ctx))


def _is_named(ctx: Context) -> bool:
    """Whether it has got its name, and so the commit point lies behind."""
    return ctx.own_copy() is not None


def _begin(ctx: Context, manifest: Manifest) -> Outcome:
    with permit(ctx) as may_carry:
        if not may_carry:
            return wait_for_permit(ctx)
        ctx.note(evidence={"since": ctx.now().isoformat()})
        try:
            return _follow(ctx, ctx.on_target(_send(ctx, manifest)))
        except CancelledMeanwhile:
            return Outcome.again(evidence=ctx.job.evidence)


def _follow(ctx: Context, ref: OperationRef) -> Outcome:
    ctx.note(evidence={"restore": {"remote": ref.remote, "id": ref.id, "project": ref.project}})
    return ctx.wait_for(ref, blocked_on=f"the restore of the backup on {ctx.move.target}")


def _send(ctx: Context, manifest: Manifest) -> str:
    pieces = verified(ctx.archive.read(manifest.file), manifest, on_piece=kept_alive(ctx))
    ctx.confirm_fence()
    try:
        return ctx.target.restore_backup(_name(ctx), pieces, pool=ctx.move.pool, project=ctx.move.target_project)
    except ServerRefused as refused:
        if _FULL in refused.message.lower():
            raise _no_room(ctx, refused.message) from refused
        raise


def _no_room(ctx: Context, message: str) -> OutOfSpace:
    return OutOfSpace(
        message,
        hint=f"{ctx.move.target} needs room for the file where it keeps backups, and for the instance in pool "
        f"{ctx.move.pool}; then `herder retry`",
    )


def _restored(ctx: Context) -> Outcome:
    ref = OperationRef(**ctx.job.evidence["restore"])
    ended = ctx.look(ref)
    if ended is not None and not ended.is_finished:
        return ctx.wait_for(ref, blocked_on=f"the restore of the backup on {ctx.move.target}")
    ctx.forget("restore")
    if ended is None or ended.succeeded:
        # A success is seen at the next run, and so is what became of one that the server has forgotten.
        return Outcome.again(evidence=ctx.job.evidence)
    if _FULL in ended.error.lower():
        raise _no_room(ctx, f"{ctx.move.target}: {ended.error}")
    if _STILL_THERE in ended.error and _made(ctx) is None:
        left = f"{ctx.move.target}:{_name(ctx)}"
        ctx.note(tries=ctx.job.facts.get("tries", 1) + 1, wrecks=[*ctx.job.facts.get("wrecks", ()), left])
        return Outcome.again(evidence=ctx.job.evidence)
    raise TransferFailed(f"{ctx.move.target}: restore of {ctx.move.name}: {ended.error}")


def verify_import(ctx: Context) -> Outcome:
    """It is what the manifest says.

    The backup of an instance that ran says so, and its server would start what it has made at its next boot, though
    the original may run still: that is mended first.
    """
    if _is_named(ctx):
        return Outcome.completed()
    manifest, made = _manifest(ctx), _there(ctx)
    power = {_LAST_POWER: "STOPPED"} if made.config.get(_LAST_POWER) == "RUNNING" else {}
    marks = {mark("job"): ctx.job.id, mark("role"): "target", mark("state"): "receiving"}
    ctx.patch_target({**power, **marks}, seen=made, look=lambda: _there(ctx))
    if manifest.of_snapshot:
        mended = _make_as_told(ctx, manifest)
        if mended is not None:
            return mended
        made = _there(ctx)
    missing = _missing_snapshots(ctx, made, manifest)
    kept = {key: value for key, value in manifest.config.items() if not key.startswith("volatile.")}
    changed = sorted(key for key, value in kept.items() if made.config.get(key) != value)
    if missing or changed:
        differs = f"lacks the snapshots {', '.join(missing)}" if missing else f"differs in {', '.join(changed)}"
        raise VerificationFailed(
            f"{ctx.move.target}: what was made of {manifest.file} {differs}",
            hint="see the server's log; `herder retry` imports it once more",
        )
    return Outcome.completed()


def _make_as_told(ctx: Context, manifest: Manifest) -> Outcome | None:
    """None when what was a clone of a snapshot is the instance of which its manifest tells.

    Addresses that shall be others it never has: those of the original may be in use beside it.
    """
    made = _there(ctx)
    others = {key for key in ctx.move.overrides.config if key.startswith("volatile.")}
    told = {key: value for key, value in manifest.config.items() if key not in others}
    if not made.is_guarded and "mend" not in ctx.job.evidence:
        # Servers forget the address of a device that is put in place of another one of its name.
        wrong = {key: value for key, value in told.items() if made.config.get(key) != value}
        if wrong:
            ctx.patch_target(wrong, look=lambda: _there(ctx))
        return None
    root = {name: device for name, device in made.devices.items() if is_root_disk(device)}
    kept = {key: value for key, value in made.config.items() if key.startswith(("volatile.", MARK_PREFIX))}
    ended = ctx.settle(
        "mend",
        lambda: ctx.on_target(ctx.target.replace(made, config={**kept, **told}, devices={**manifest.devices, **root})),
        blocked_on=f"{made.name} on {ctx.move.target} to be what it was",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("mend")
    if ended is not None and not ended.succeeded:
        raise TransferFailed(f"{ctx.move.target}: {made.name} cannot be made what it was: {ended.error}")
    return Outcome.again(evidence=ctx.job.evidence)


def _missing_snapshots(ctx: Context, made: Instance, manifest: Manifest) -> list[str]:
    has = {snapshot.name for snapshot in ctx.target.snapshots(made.name, project=made.project)}
    return sorted(set(manifest.snapshots) - has)


def _there(ctx: Context) -> Instance:
    made = _made(ctx)
    if made is None:
        raise NotFound(f"{ctx.move.target}: there is no {_name(ctx)} any more", hint="`herder retry` imports it again")
    return made


def name_import(ctx: Context) -> Outcome:
    """The commit point: it takes its name, unless somebody else has got it meanwhile."""
    if _is_named(ctx):
        return Outcome.completed()
    made = _there(ctx)
    if ctx.target_instance() is not None:
        raise IdentityMismatch(
            f"{ctx.move.target}:{ctx.move.name} is there, and was not made by this job; left alone",
            hint="rename or delete it, then `herder retry`; or import under another name",
        )
    ended = ctx.settle(
        "rename",
        lambda: ctx.on_target(ctx.target.rename(made.name, ctx.move.name, project=made.project)),
        blocked_on=f"{made.name} to be renamed to {ctx.move.name} on {ctx.move.target}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("rename")
    if ended is not None and not ended.succeeded:
        raise TransferFailed(f"{ctx.move.target}: {made.name} was not renamed to {ctx.move.name}: {ended.error}")
    return Outcome.again(evidence=ctx.job.evidence)


def settle_import(ctx: Context) -> Outcome:
    """What LXD notes at a rename goes: under its old name it is the machine that it was. Then it is its owner's.

    What shall differ is changed in the same request, for its job is the only one that ever knows it.
    """
    found = ctx.own_copy()
    if found is None:
        return Outcome.completed()
    was = _manifest(ctx).config.get(INSTANCE_ID)
    same_machine = {_TEMPLATE: "", **({INSTANCE_ID: was} if was else {})}
    kept = same_machine if ctx.move.name == ctx.move.instance else {}
    ctx.patch_target({**unmarked(found), **kept, **ctx.move.overrides.config}, seen=found)
    return Outcome.completed()


def discard_import(ctx: Context) -> Outcome:
    """What the server has made of the backup goes. A restore cannot be cancelled, and is waited for."""
    if _is_named(ctx):
        return Outcome.goes_forward()
    running = find_operation(ctx.target.operations(project=ctx.move.target_project), _name(ctx))
    if running is not None and "remove" not in ctx.job.evidence:
        blocked_on = f"the end of '{running.description}' on {ctx.move.target}, which cannot be cancelled"
        return ctx.wait_for(ctx.on_target(running.id), blocked_on=blocked_on, retry_in=timedelta(seconds=1))
    made = _made(ctx)
    return Outcome.completed() if made is None else _remove(ctx, made)


def _remove(ctx: Context, made: Instance) -> Outcome:
    """Delete what the server has made, and look again."""
    if not made.is_stopped:
        raise IdentityMismatch(
            f"{ctx.move.target}:{made.name} was started before the import had ended; left alone",
            hint="stop it, then `herder cancel` again, or keep it",
        )
    ended = ctx.settle(
        "remove",
        lambda: ctx.on_target(ctx.target.delete(made.name, project=made.project)),
        blocked_on=f"the removal of the unfinished import on {ctx.move.target}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("remove")
    if ended is not None and not ended.succeeded:
        raise TransferFailed(f"{ctx.move.target}: removal of {made.name}: {ended.error}")
    return Outcome.again(evidence=ctx.job.evidence)
