"""``herder copy SOURCE:INSTANCE TARGET:[NAME]`` makes another instance of one, with the words of `lxc copy`."""

from typing import Annotated

import typer

from common.domain.errors import InputError
from common.domain.plan import Method, Mode, Policy, Request, Selection
from common.lxd.remotes import split_name
from producer.cli import flow, options
from producer.cli.exits import reports_errors
from producer.session import load_remotes


@reports_errors
def copy(
    instance: Annotated[
        str, typer.Argument(metavar="[SOURCE:]INSTANCE", help="The default remote's if SOURCE is left out.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET:[NAME]", help="The same name if left out.")],
    config: options.Config = None,
    device: options.Device = None,
    profile: options.Profile = None,
    no_profiles: options.NoProfiles = False,
    storage: options.Storage = "",
    ephemeral: Annotated[bool, typer.Option("--ephemeral", "-e", help="The copy is deleted when it stops.")] = False,
    instance_only: Annotated[bool, typer.Option("--instance-only", help="Without its snapshots.")] = False,
    allow_inconsistent: options.AllowInconsistent = False,
    mode: options.ModeOption = options.ModeName.PULL,
    stateless: options.Stateless = False,
    project: options.Project = None,
    target_project: options.TargetProject = "",
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Copy one instance to another server: a new, independent one, stopped. The source goes on as it is."""
    del stateless
    remotes = load_remotes()
    source_remote, name = split_name(instance, remotes.default)
    target_remote, new_name = split_name(target)
    if not target_remote:
        raise InputError(f"{target!r} names no server", hint="write TARGET:[NAME]; `lxc copy` copies in place")
    if not name:
        raise InputError(f"{instance!r} names no instance")
    request = Request(
        name=f"copy {source_remote}:{name}",
        select=Selection(
            source=remotes.get(source_remote).name,
            project=project or remotes.get(source_remote).project,
            instances=(name,),
        ),
        targets=(remotes.get(target_remote).name,),
        rename=new_name,
        target_project=target_project,
        policy=Policy(method=Method.COPY, mode=Mode(mode.value)),
        overrides=options.overrides(
            config or [],
            device or [],
            profile,
            storage,
            no_profiles=no_profiles,
            instance_only=instance_only,
            allow_inconsistent=allow_inconsistent,
            ephemeral=ephemeral,
        ),
    )
    flow.carry_out(flow.plan_for(request, remotes), yes=yes, as_json=as_json, skip_refused=False)
