"""``herder volume copy|move|refresh REMOTE:POOL/NAME... REMOTE:[POOL[/NAME]]``: custom volumes by themselves.

The words are those of `lxc storage volume`; also in bulk.
"""

from typing import Annotated

import typer

from common.config import load_settings
from common.domain.errors import InputError
from common.domain.plan import Limits, Method, Mode, Overrides, Policy, Request, Retire, Selection
from common.lxd.remotes import Remotes, split_name
from producer.cli import exits, flow, options
from producer.cli.exits import reports_errors
from producer.inventory import take_inventory
from producer.session import load_remotes
from producer.volumes import plan_volumes

app = typer.Typer(no_args_is_help=True, help="Custom storage volumes by themselves.")

Volumes = Annotated[
    list[str],
    typer.Argument(
        metavar="[SOURCE:]POOL/VOLUME...",
        help="The default remote's if SOURCE is left out; SOURCE: alone with --all or --pool.",
    ),
]
Target = Annotated[
    str, typer.Argument(metavar="TARGET:[POOL[/NAME]]", help="The same pool and the same name if left out.")
]
All = Annotated[bool, typer.Option("--all", help="All volumes of the source's project.")]
Pools = Annotated[
    list[str] | None,
    typer.Option("--pool", metavar="POOL", help="All volumes of the project in this pool of the source."),
]
VolumeOnly = Annotated[bool, typer.Option("--volume-only", help="Without its snapshots.")]
Detach = Annotated[bool, typer.Option("--detach", help="Submit only; workers elsewhere carry it out.")]


@reports_errors
def copy(
    volumes: Volumes,
    target: Target,
    everything: All = False,
    pools: Pools = None,
    volume_only: VolumeOnly = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Make copies that are there equal to their sources.")
    ] = False,
    mode: options.ModeOption = Mode.AUTO,
    limit: options.Limit = "",
    project: options.Project = None,
    target_project: options.TargetProject = "",
    transfers: options.PerServer = Limits.per_source,
    skip_refused: options.SkipRefused = False,
    detach: Detach = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Copy custom volumes to another server, with their snapshots. The sources go on as they are."""
    method = Method.VOLUME_REFRESH if refresh else Method.VOLUME_COPY
    policy = Policy(method=method, mode=mode, rate=options.rate(limit))
    _carry_out(
        volumes,
        target,
        policy,
        everything=everything,
        pools=pools or [],
        volume_only=volume_only,
        project=project,
        target_project=target_project,
        transfers=transfers,
        skip_refused=skip_refused,
        detach=detach,
        yes=yes,
        as_json=as_json,
    )


@reports_errors
def refresh(
    volumes: Volumes,
    target: Target,
    everything: All = False,
    pools: Pools = None,
    volume_only: VolumeOnly = False,
    mode: options.ModeOption = Mode.AUTO,
    limit: options.Limit = "",
    project: options.Project = None,
    target_project: options.TargetProject = "",
    transfers: options.PerServer = Limits.per_source,
    skip_refused: options.SkipRefused = False,
    detach: Detach = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Make volumes on another server equal to their sources; those that are not there are made.

    What is there keeps its config, and is replaced when its new copy has been verified.
    """
    copy(
        volumes, target, everything, pools, volume_only, True, mode, limit,
        project, target_project, transfers, skip_refused, detach, yes, as_json,
    )  # fmt: skip


@reports_errors
def move(
    volumes: Volumes,
    target: Target,
    everything: All = False,
    pools: Pools = None,
    volume_only: VolumeOnly = False,
    retire: options.RetireOption = Retire.STOP,
    mode: options.ModeOption = Mode.AUTO,
    limit: options.Limit = "",
    project: options.Project = None,
    target_project: options.TargetProject = "",
    transfers: options.PerServer = Limits.per_source,
    skip_refused: options.SkipRefused = False,
    detach: Detach = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Move custom volumes that nobody attaches to another server, with their snapshots.

    Each source stays where it is, marked as retired, unless --retire delete.
    """
    policy = Policy(method=Method.VOLUME_MOVE, mode=mode, rate=options.rate(limit), retire=retire)
    _carry_out(
        volumes,
        target,
        policy,
        everything=everything,
        pools=pools or [],
        volume_only=volume_only,
        project=project,
        target_project=target_project,
        transfers=transfers,
        skip_refused=skip_refused,
        detach=detach,
        yes=yes,
        as_json=as_json,
    )


for command in (copy, move, refresh):
    app.command(epilog=exits.EXIT_STATUS)(command)


def _carry_out(
    volumes: list[str],
    target: str,
    policy: Policy,
    *,
    everything: bool,
    pools: list[str],
    volume_only: bool,
    project: str | None,
    target_project: str,
    transfers: int,
    skip_refused: bool,
    detach: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Raises InputError."""
    if detach:
        flow.check_detached()
    remotes = load_remotes()
    select, told = _selected(volumes, remotes, everything=everything, pools=pools, project=project)
    remote, path = split_name(target)
    if not remote:
        raise InputError(f"{target!r} names no server", hint="write TARGET:[POOL[/NAME]]")
    pool, slash, name = path.partition("/")
    if (slash and not (pool and name)) or "/" in name:
        raise InputError(f"{target!r}: write TARGET:[POOL[/NAME]]")
    request = Request(
        name=f"{policy.method} {told}",
        select=select,
        targets=(remotes.get(remote).name,),
        rename=name,
        target_project=target_project,
        policy=policy,
        limits=Limits(per_source=transfers, per_target=transfers),
        overrides=Overrides(storage=pool, instance_only=volume_only),
    )
    plan = plan_volumes(request, take_inventory(request, remotes, load_settings()), plan_id=flow.new_plan_id())
    flow.carry_out(plan, yes=yes, as_json=as_json, skip_refused=skip_refused, detach=detach)


def _selected(
    volumes: list[str], remotes: Remotes, *, everything: bool, pools: list[str], project: str | None
) -> tuple[Selection, str]:
    """What POOL/VOLUME..., --all, --pool and the project amount to, also in words. Raises InputError."""
    split = [split_name(volume, remotes.default) for volume in volumes]
    sources = list(dict.fromkeys(remotes.get(remote).name for remote, _ in split))
    names = tuple(dict.fromkeys(name for _, name in split if name))
    if len(sources) > 1:
        raise InputError(f"{' and '.join(sources)} are two sources", hint="one command for each source")
    if everything and pools:
        raise InputError("--all and --pool exclude each other")
    is_bulk = everything or bool(pools)
    if is_bulk and names:
        raise InputError("names and --all or --pool exclude each other", hint=f"write {sources[0]}: alone")
    if not is_bulk and len(names) < len(split):
        raise InputError(
            f"{sources[0]}: names no volume", hint="--all takes all of the project, --pool those of a pool"
        )
    odd = [name for name in names if name.count("/") != 1 or not all(name.partition("/"))]
    if odd:
        hint = "a snapshot is not copied by itself" if odd[0].count("/") > 1 else ""
        raise InputError(f"{odd[0]!r}: a volume is written POOL/VOLUME", hint=hint)
    source = remotes.get(sources[0])
    told = f"{source.name}:{','.join(names or pools)}"
    select = Selection(source=source.name, project=project or source.project, instances=names, pools=tuple(pools))
    return select, told
