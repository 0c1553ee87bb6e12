"""Options that several verbs share, and the Request that they amount to."""

from dataclasses import dataclass, fields
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer

from common.domain.errors import InputError
from common.domain.plan import (
    AfterGrace,
    Method,
    Mode,
    NameMap,
    Overrides,
    Policy,
    Retire,
    Selection,
    Thing,
)
from common.domain.units import parse_duration, parse_rate
from common.lxd.remotes import Remotes, split_name


class MoveMethod(StrEnum):
    """The methods that move an instance."""

    WARM = Method.WARM.value
    COLD = Method.COLD.value
    STATEFUL = Method.STATEFUL.value
    LIVE = Method.LIVE.value


Json = Annotated[bool, typer.Option("--json", help="Answer in JSON on standard output.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
ToServers = Annotated[
    list[str] | None, typer.Option("--to", help="Target server; may be given several times.", metavar="TARGET:")
]
TakingMembers = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="MEMBER|@GROUP",
        help="Of a cluster: who takes the instances; all others at work if left out.",
    ),
]
Project = Annotated[str | None, typer.Option("--project", help="Project on the source; the remote's own if left out.")]
TargetProject = Annotated[str, typer.Option("--target-project", help="Project on the target; the same if left out.")]
MethodOption = Annotated[
    MoveMethod | None,
    typer.Option(
        "--method",
        help="warm keeps it running while it is copied; cold stops it first; stateful too, and a virtual machine goes "
        "on with its memory. live is refused, with all that stands in its way.",
    ),
]
Downtime = Annotated[str, typer.Option("--downtime", help="Cut over once a pass takes no longer than this.")]
Grace = Annotated[
    str | None,
    typer.Option("--grace", help="Time to shut down; the instance's boot.host_shutdown_timeout if left out."),
]
StopThen = Annotated[
    AfterGrace, typer.Option("--stop-then", help="What to do with a guest that does not shut down within its grace.")
]
RetireOption = Annotated[
    Retire,
    typer.Option("--retire", help="stop keeps the source, unable to start; delete removes it. After verification."),
]
RetireOfEvacuation = Annotated[
    Retire | None,
    typer.Option("--retire", help="As for a move; of a server it is stop if left out, of a member always delete."),
]
Instances = Annotated[
    list[str],
    typer.Argument(
        metavar="[SOURCE:]INSTANCE...",
        help="The default remote's if SOURCE is left out; SOURCE: alone with --all or --filter.",
    ),
]
InstancesOfMove = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SOURCE:]INSTANCE...",
        help="The default remote's if SOURCE is left out; SOURCE: alone with --all or --filter.",
        show_default=False,
    ),
]
Target = Annotated[str, typer.Argument(metavar="TARGET:[NAME]", help="The same name if left out.")]
Members = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="MEMBER|@GROUP",
        help="The member of the target's cluster, or of the instances' own one; of several the emptiest.",
    ),
]
All = Annotated[bool, typer.Option("--all", help="All instances of the source's project.")]
Filter = Annotated[
    str,
    typer.Option("--filter", metavar="FILTER", help="Those that LXD's filter lets through, as the source reads it."),
]
AllProjects = Annotated[bool, typer.Option("--all-projects", help="With --all or --filter: those of every project.")]
Config = Annotated[list[str] | None, typer.Option("--config", "-c", metavar="KEY=VALUE", help="Set on the target.")]
Device = Annotated[
    list[str] | None, typer.Option("--device", "-d", metavar="DEVICE,KEY=VALUE", help="Set on the target.")
]
Profile = Annotated[list[str] | None, typer.Option("--profile", "-p", help="Profile on the target.")]
NoProfiles = Annotated[bool, typer.Option("--no-profiles", help="No profile on the target.")]
Storage = Annotated[str, typer.Option("--storage", "-s", help="Pool on the target.")]
AllowInconsistent = Annotated[
    bool, typer.Option("--allow-inconsistent", help="Do not freeze it while a dir pool is copied.")
]
Stateless = Annotated[
    bool, typer.Option("--stateless", help="Accepted; the memory of a virtual machine stays behind with --method cold.")
]
ModeOption = Annotated[
    Mode,
    typer.Option(
        "--mode",
        help="Who dials for the data: auto pulls, else pushes, and if both get no connection a worker relays it.",
    ),
]
Limit = Annotated[
    str,
    typer.Option(
        "--limit",
        metavar="RATE",
        help="Bytes per second that each transfer may take, such as 200MiB/s; a worker then relays it.",
    ),
]
NameMapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="KIND:NAME=NAME",
        help="A profile, network, pool or project of the source, and its name on the target.",
    ),
]
Create = Annotated[
    list[Thing] | None,
    typer.Option(
        "--create", help="What the target lacks and gets from the source's definition before the instance comes."
    ),
]
PerServer = Annotated[
    int, typer.Option("--transfers", min=1, help="How many transfers a server serves at the same time.")
]
Cutovers = Annotated[int, typer.Option("--cutovers", min=1, help="How many cutovers a server has at the same time.")]
SkipRefused = Annotated[
    bool, typer.Option("--skip-refused", help="Move what can move, though some instances are refused.")
]


def remote_of(text: str, remotes: Remotes) -> str:
    """``s1:`` or ``s1`` as a remote that exists. Raises InputError for an instance where a server is meant."""
    remote, instance = split_name(text if ":" in text else f"{text}:")
    if instance:
        raise InputError(f"{text!r} names an instance; a server is written {remote}:")
    return remotes.get(remote).name


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which instances go where: ``told`` in words, ``rename`` the new name of a single one."""

    select: Selection
    target: str
    rename: str
    told: str


def chosen(
    instances: list[str],
    target: str,
    remotes: Remotes,
    *,
    everything: bool,
    matching: str,
    project: str | None,
    all_projects: bool,
) -> Chosen:
    """What INSTANCE..., TARGET:[NAME], --all, --filter and the projects amount to. Raises InputError."""
    if not instances:
        raise InputError(
            f"{target!r} alone says too little", hint="write INSTANCE... TARGET:[NAME], or --target MEMBER"
        )
    target_remote, rename = split_name(target)
    if not target_remote:
        raise InputError(f"{target!r} names no server", hint="write TARGET:[NAME]; in place there is `lxc`")
    select, told = selected(
        instances, remotes, everything=everything, matching=matching, project=project, all_projects=all_projects
    )
    return Chosen(select=select, target=remotes.get(target_remote).name, rename=rename, told=told)


def selected(
    instances: list[str],
    remotes: Remotes,
    *,
    everything: bool,
    matching: str,
    project: str | None,
    all_projects: bool,
) -> tuple[Selection, str]:
    """What INSTANCE..., --all, --filter and the projects amount to, also in words. Raises InputError."""
    split = [split_name(instance, remotes.default) for instance in instances]
    sources = list(dict.fromkeys(remotes.get(remote).name for remote, _ in split))
    names = tuple(dict.fromkeys(name for _, name in split if name))
    is_bulk = everything or bool(matching)
    if len(sources) > 1:
        raise InputError(f"{' and '.join(sources)} are two sources", hint="one command for each source")
    if is_bulk and names:
        raise InputError("names and --all or --filter exclude each other", hint=f"write {sources[0]}: alone")
    if not is_bulk and (not names or len(names) < len(split)):
        bare = next(text for text, (_, name) in zip(instances, split, strict=True) if not name)
        raise InputError(f"{bare!r} names no instance", hint="--all takes all of it, --filter some")
    if all_projects and (names or project):
        raise InputError("--all-projects goes with --all or --filter, without --project")
    source = remotes.get(sources[0])
    select = Selection(
        source=source.name,
        project=project or source.project,
        instances=names,
        filter=matching,
        all_projects=all_projects,
    )
    return select, f"{source.name}:{','.join(names)}" + (f" where {matching}" if matching else "")


def before_members(instances: list[str], target: str, remotes: Remotes) -> tuple[list[str], str, bool]:
    """What stands before ``--target MEMBER``, as instances and ``TARGET:``, and whether that is their own cluster.

    Their own may be left out. Raises InputError for a new name within it.
    """
    if not instances:
        instances, target = [target], f"{split_name(target, remotes.default)[0]}:"
    remote, rename = split_name(target, remotes.default)
    if {split_name(instance, remotes.default)[0] for instance in instances} != {remote}:
        return instances, target, False
    if rename and [split_name(instance)[1] for instance in instances] != [rename]:
        raise InputError(f"within a cluster {rename!r} would be a new name", hint="move it first, then `lxc rename`")
    return instances, f"{remote}:", True


def duration(text: str, option: str) -> timedelta:
    """A duration option. Raises InputError that names the option."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from error


def rate(text: str) -> int:
    """The option --limit in bytes per second; 0 if it was left out. Raises InputError."""
    try:
        return parse_rate(text) if text else 0
    except ValueError as error:
        raise InputError(f"--limit: {error}") from error


def policy(
    *,
    method: MoveMethod | None,
    downtime: str,
    grace: str | None,
    stop_then: AfterGrace,
    retire: Retire = Retire.STOP,
    mode: Mode,
    limit: str,
) -> Policy:
    """The policy that these options ask for. Raises InputError."""
    return Policy(
        method=Method(method.value) if method else None,
        downtime=duration(downtime, "--downtime"),
        grace=duration(grace, "--grace") if grace else None,
        after_grace=stop_then,
        retire=retire,
        mode=mode,
        rate=rate(limit),
    )


def overrides(
    config: list[str],
    device: list[str],
    profile: list[str] | None,
    storage: str,
    *,
    no_profiles: bool,
    instance_only: bool,
    allow_inconsistent: bool,
    mapped: list[str],
    create: list[Thing],
    ephemeral: bool = False,
) -> Overrides:
    """The overrides that the options of `lxc move` and `lxc copy` ask for. Raises InputError."""
    if no_profiles and profile:
        raise InputError("--no-profiles and --profile exclude each other")
    chosen = () if no_profiles else tuple(profile) if profile else None
    return Overrides(
        config=dict(_pair(entry, "--config") for entry in config),
        devices=_devices(device),
        profiles=chosen,
        storage=storage,
        instance_only=instance_only,
        allow_inconsistent=allow_inconsistent,
        ephemeral=ephemeral,
        map=name_map(mapped),
        create=tuple(dict.fromkeys(create)),
    )


def name_map(entries: list[str]) -> NameMap:
    """What the options --map amount to. Raises InputError."""
    names: dict[str, dict[str, str]] = {field.name: {} for field in fields(NameMap)}
    for entry in entries:
        kind, _, pair = entry.partition(":")
        if f"{kind}s" not in names:
            raise InputError(f"--map {entry!r}: write KIND:NAME=NAME; a KIND is profile, network, pool or project")
        there, here = _pair(pair, "--map")
        if names[f"{kind}s"].setdefault(there, here) != here:
            raise InputError(f"--map: {kind} {there} has two names")
    return NameMap(**names)


def _pair(entry: str, option: str) -> tuple[str, str]:
    key, equals, value = entry.partition("=")
    if not equals or not key:
        raise InputError(f"{option} {entry!r}: write KEY=VALUE")
    return key, value


def _devices(entries: list[str]) -> dict[str, dict[str, str]]:
    devices: dict[str, dict[str, str]] = {}
    for entry in entries:
        name, comma, pair = entry.partition(",")
        if not comma or not name:
            raise InputError(f"--device {entry!r}: write DEVICE,KEY=VALUE")
        key, value = _pair(pair, "--device")
        devices.setdefault(name, {})[key] = value
    return devices
