"""What was failed over comes home: what the failover has left there makes way for it, and is kept beside it.

It is renamed with its volumes, and nothing else of it changes: it stays stopped, guarded, and whole. Then the instance
moves as any other. A refresh of what is there would be no cheaper and less safe: the two have no snapshot in common, so
that LXD sends everything between btrfs pools, and its rsync between others tells files apart by size and second.
"""

import json
from collections.abc import Callable

from common.domain.errors import IdentityMismatch, NotFound, PreconditionFailed, TransferFailed
from common.domain.instance import INSTANCE_ID_MARK, STALE, Config, Devices, Instance, is_root_disk
from common.domain.job import Outcome
from common.domain.volume import Volume
from workers.steps.context import Context
from workers.steps.marks import id_of_mark, mark, remembered_id

#: So much of an instance's name fits with the ending into the 63 characters that it may have; volumes have more room.
_LONGEST = 40
#: On what was set aside: its cards with fixed addresses, as they were, and the addresses of its other ones.
_CARDS, _ADDRESSES = mark("cards"), mark("addresses")


def set_stale_aside(ctx: Context) -> Outcome:
    """The instance's name is free at home, and those of its volumes; or there is the copy of this job already."""
    found, ending = ctx.target_instance(), _ending(ctx)
    if found is not None and found.is_stale and ("mask" in ctx.job.evidence or _CARDS not in found.config):
        return _mask(ctx, found)
    if "rename" in ctx.job.evidence or (found is not None and found.marks.get("job") != ctx.job.id):
        waiting = _rename(ctx, found, ctx.move.name, _aside(ctx), lambda name: f"{name.removesuffix(ending)}{ending}")
        if waiting is not None:
            return waiting
    return Outcome.completed()


def put_stale_back(ctx: Context) -> Outcome | None:
    """None when it is what it was, after the copy of this job is gone."""
    aside, ending = _aside(ctx), _ending(ctx)
    try:
        found: Instance | None = ctx.target.instance(aside, project=ctx.move.target_project)
    except NotFound:
        found = None
    if found is not None or "rename" in ctx.job.evidence:
        waiting = _rename(ctx, found, aside, ctx.move.name, lambda name: name.removesuffix(ending))
        if waiting is not None:
            return waiting
    stale = ctx.target_instance()
    if stale is not None and stale.is_stale:
        _rename_volumes(ctx, stale, lambda name: name.removesuffix(ending))  # its own turn may not have come
        stale = ctx.target_instance()
    if stale is not None and stale.is_stale and ("mask" in ctx.job.evidence or _CARDS in stale.config):
        return _unmask(ctx, stale)
    return None


def _mask(ctx: Context, stale: Instance) -> Outcome:
    """No other instance with an address of it starts while a card of this one has it, although this one cannot start.

    LXD looks at fixed addresses only, Incus at all.

    What is changed is remembered in its marks, with the id for cloud-init, which a new name changes.
    """
    cards = {name: device for name, device in stale.expanded_devices.items() if device.get("type") == "nic"}
    fixed = [name for name, device in cards.items() if "hwaddr" in device]
    were = {name: dict(stale.devices[name]) if name in stale.devices else None for name in fixed}
    others = {f"volatile.{name}.hwaddr" for name in cards if name not in fixed} & stale.config.keys()
    told = {_CARDS: json.dumps(were), _ADDRESSES: json.dumps({key: stale.config[key] for key in sorted(others)})}
    kept = {key: value for key, value in stale.config.items() if key not in others}
    return _change(
        ctx,
        stale,
        {**kept, **remembered_id(stale), **told},
        {**stale.devices, **{name: {"type": "none"} for name in fixed}},
    )


def _unmask(ctx: Context, stale: Instance) -> Outcome:
    were = json.loads(stale.config.get(_CARDS, "{}"))
    devices = {name: device for name, device in stale.devices.items() if name not in were}
    config = {k: v for k, v in stale.config.items() if k not in (_CARDS, _ADDRESSES, INSTANCE_ID_MARK)}
    config |= {**id_of_mark(stale), **json.loads(stale.config.get(_ADDRESSES, "{}"))}
    return _change(ctx, stale, config, {**devices, **{name: device for name, device in were.items() if device}})


def _change(ctx: Context, stale: Instance, config: Config, devices: Devices) -> Outcome:
    try:
        ended = ctx.settle(
            "mask",
            lambda: ctx.on_target(ctx.target.replace(stale, config=config, devices=devices)),
            blocked_on=f"a change of {ctx.move.target}:{stale.name}",
        )
    except PreconditionFailed as error:
        raise TransferFailed(f"{ctx.move.target}:{stale.name} changed meanwhile: {error}") from error
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("mask")
    if ended is not None and not ended.succeeded:
        raise TransferFailed(f"{ctx.move.target}: change of {stale.name}: {ended.error}")
    return Outcome.again(evidence=ctx.job.evidence)


def _aside(ctx: Context) -> str:
    return STALE.format(ctx.move.name[:_LONGEST], ctx.job.id)


def _ending(ctx: Context) -> str:
    return STALE.format("", ctx.job.id)


def _rename(ctx: Context, found: Instance | None, name: str, new: str, renamed: Callable[[str], str]) -> Outcome | None:
    """None when it has the new name. Raises IdentityMismatch for anything but what a failover has left."""
    if "rename" not in ctx.job.evidence:
        if found is None:
            return None
        if not found.is_stale:
            raise IdentityMismatch(
                f"{ctx.move.target}:{name} is not what a failover has left there, stopped and guarded; left alone",
                hint=f"rename or delete it, then `herder retry {ctx.job.id}`",
            )
        _rename_volumes(ctx, found, renamed)
    ended = ctx.settle(
        "rename",
        lambda: ctx.on_target(ctx.target.rename(name, new, project=ctx.move.target_project)),
        blocked_on=f"{name} on {ctx.move.target} to be renamed to {new}",
    )
    if isinstance(ended, Outcome):
        return ended
    ctx.forget("rename")
    if ended is None:
        return Outcome.again(evidence=ctx.job.evidence)
    if not ended.succeeded:
        raise TransferFailed(f"{ctx.move.target}: {name} was not renamed to {new}: {ended.error}")
    ctx.note(stale_kept=f"{ctx.move.target}:{new}")
    return None


def _rename_volumes(ctx: Context, stale: Instance, renamed: Callable[[str], str]) -> None:
    for volume in _volumes(ctx, stale):
        if renamed(volume.name) != volume.name:
            ctx.confirm_fence()
            ctx.target.rename_volume(volume, renamed(volume.name))


def _volumes(ctx: Context, stale: Instance) -> list[Volume]:
    """The custom volumes that it alone attaches itself."""
    places = {
        (device["pool"], device["source"])
        for device in stale.own_devices.values()
        if device.get("type") == "disk" and device.get("pool") and device.get("source") and not is_root_disk(device)
    }
    there = ctx.target.volumes(project=ctx.move.target_project)
    return [each for each in there if (each.pool, each.name) in places and not each.other_users(stale.name)]
