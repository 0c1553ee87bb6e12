"""``herder move SOURCE:INSTANCE... TARGET:[NAME]`` moves instances, with the words of `lxc move`; also in bulk."""

from typing import Annotated

import typer

from common.domain.plan import AfterGrace, Request, Retire
from producer.cli import flow, options
from producer.cli.exits import reports_errors
from producer.session import load_remotes


@reports_errors
def move(
    instances: options.Instances,
    target: options.Target,
    everything: options.All = False,
    matching: options.Filter = "",
    all_projects: options.AllProjects = False,
    config: options.Config = None,
    device: options.Device = None,
    profile: options.Profile = None,
    no_profiles: options.NoProfiles = False,
    storage: options.Storage = "",
    instance_only: Annotated[bool, typer.Option("--instance-only", help="Without its snapshots (cold only).")] = False,
    allow_inconsistent: options.AllowInconsistent = False,
    mode: options.ModeOption = options.ModeName.AUTO,
    stateless: options.Stateless = False,
    project: options.Project = None,
    target_project: options.TargetProject = "",
    name_map: options.NameMapOption = None,
    method: options.MethodOption = None,
    downtime: options.Downtime = "2s",
    grace: options.Grace = None,
    stop_then: options.StopThen = AfterGrace.FORCE,
    retire: options.RetireOption = Retire.STOP,
    skip_refused: options.SkipRefused = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Move instances to another server; each source stays there, stopped, unless --retire delete."""
    del stateless
    remotes = load_remotes()
    chosen = options.chosen(
        instances,
        target,
        remotes,
        everything=everything,
        matching=matching,
        project=project,
        all_projects=all_projects,
    )
    request = Request(
        name=f"move {chosen.told}",
        select=chosen.select,
        targets=(chosen.target,),
        rename=chosen.rename,
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
            mapped=name_map or [],
        ),
    )
    flow.carry_out(flow.plan_for(request, remotes), yes=yes, as_json=as_json, skip_refused=skip_refused)
