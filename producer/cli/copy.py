"""``herder copy SOURCE:INSTANCE... TARGET:[NAME]`` copies instances, with the words of `lxc copy`; also in bulk."""

from typing import Annotated

import typer

from common.domain.plan import Method, Mode, Policy, Request
from producer.cli import flow, options
from producer.cli.exits import reports_errors
from producer.session import load_remotes


@reports_errors
def copy(
    instances: options.Instances,
    target: options.Target,
    members: options.Members = None,
    everything: options.All = False,
    matching: options.Filter = "",
    all_projects: options.AllProjects = False,
    config: options.Config = None,
    device: options.Device = None,
    profile: options.Profile = None,
    no_profiles: options.NoProfiles = False,
    storage: options.Storage = "",
    ephemeral: Annotated[bool, typer.Option("--ephemeral", "-e", help="The copy is deleted when it stops.")] = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Make copies that are there equal to their sources.")
    ] = False,
    instance_only: Annotated[bool, typer.Option("--instance-only", help="Without its snapshots.")] = False,
    allow_inconsistent: options.AllowInconsistent = False,
    mode: options.ModeOption = Mode.AUTO,
    limit: options.Limit = "",
    stateless: options.Stateless = False,
    project: options.Project = None,
    target_project: options.TargetProject = "",
    name_map: options.NameMapOption = None,
    create: options.Create = None,
    skip_refused: options.SkipRefused = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Copy instances to another server: new, independent ones, stopped. The sources go on as they are."""
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
        name=f"copy {chosen.told}",
        select=chosen.select,
        targets=(chosen.target,),
        members=tuple(dict.fromkeys(members or ())),
        rename=chosen.rename,
        target_project=target_project,
        policy=Policy(method=Method.REFRESH if refresh else Method.COPY, mode=mode, rate=options.rate(limit)),
        overrides=options.overrides(
            config or [],
            device or [],
            profile,
            storage,
            no_profiles=no_profiles,
            instance_only=instance_only,
            allow_inconsistent=allow_inconsistent,
            mapped=name_map or [],
            create=create or [],
            ephemeral=ephemeral,
        ),
    )
    flow.carry_out(flow.plan_for(request, remotes), yes=yes, as_json=as_json, skip_refused=skip_refused)
