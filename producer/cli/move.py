"""``herder move SOURCE:INSTANCE TARGET:[NAME]`` moves one instance, with the words of `lxc move`."""

from typing import Annotated

import typer

from common.domain.errors import InputError
from common.domain.plan import AfterGrace, Request, Retire, Selection
from common.lxd.remotes import split_name
from producer.cli import flow, options
from producer.cli.exits import reports_errors
from producer.session import load_remotes


@reports_errors
def move(
    instance: Annotated[
        str, typer.Argument(metavar="[SOURCE:]INSTANCE", help="The default remote's if SOURCE is left out.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET:[NAME]", help="The same name if left out.")],
    config: options.Config = None,
    device: options.Device = None,
    profile: options.Profile = None,
    no_profiles: options.NoProfiles = False,
    storage: options.Storage = "",
    instance_only: Annotated[bool, typer.Option("--instance-only", help="Without its snapshots (cold only).")] = False,
    allow_inconsistent: options.AllowInconsistent = False,
    mode: options.ModeOption = options.ModeName.PULL,
    stateless: options.Stateless = False,
    project: options.Project = None,
    target_project: options.TargetProject = "",
    method: options.MethodOption = None,
    downtime: options.Downtime = "2s",
    grace: options.Grace = None,
    stop_then: options.StopThen = AfterGrace.FORCE,
    retire: options.RetireOption = Retire.STOP,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Move one instance to another server; the source stays there, stopped, unless --retire delete."""
    del stateless
    remotes = load_remotes()
    source_remote, name = split_name(instance, remotes.default)
    target_remote, new_name = split_name(target)
    if not target_remote:
        raise InputError(f"{target!r} names no server", hint="write TARGET:[NAME]; renaming in place is not a move")
    if not name:
        raise InputError(f"{instance!r} names no instance", hint="`herder evacuate` moves all instances of a server")
    request = Request(
        name=f"move {source_remote}:{name}",
        select=Selection(
            source=remotes.get(source_remote).name,
            project=project or remotes.get(source_remote).project,
            instances=(name,),
        ),
        targets=(remotes.get(target_remote).name,),
        rename=new_name,
        target_project=target_project,
        policy=options.policy(
            method=method, downtime=downtime, grace=grace, stop_then=stop_then, retire=retire, mode=mode
        ),
        overrides=options.overrides(
            config or [],
            device or [],
            profile,
            storage,
            no_profiles=no_profiles,
            instance_only=instance_only,
            allow_inconsistent=allow_inconsistent,
        ),
    )
    flow.carry_out(flow.plan_for(request, remotes), yes=yes, as_json=as_json, skip_refused=False)
