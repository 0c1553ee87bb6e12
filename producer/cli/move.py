"""``herder move SOURCE:INSTANCE... TARGET:[NAME]`` moves instances, with the words of `lxc move`; also in bulk.

``--target MEMBER`` chooses a member of a target that is a cluster; without TARGET: it moves them within their own.
"""

from typing import Annotated

import typer

from common.domain.errors import InputError
from common.domain.plan import AfterGrace, Mode, Request, Retire
from producer.cli import flow, options
from producer.cli.exits import reports_errors
from producer.session import load_remotes


@reports_errors
def move(
    *,
    instances: options.InstancesOfMove = None,
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
    instance_only: Annotated[bool, typer.Option("--instance-only", help="Without its snapshots (cold only).")] = False,
    allow_inconsistent: options.AllowInconsistent = False,
    mode: options.ModeOption = Mode.AUTO,
    limit: options.Limit = "",
    stateless: options.Stateless = False,
    project: options.Project = None,
    target_project: options.TargetProject = "",
    name_map: options.NameMapOption = None,
    create: options.Create = None,
    method: options.MethodOption = None,
    downtime: options.Downtime = "2s",
    grace: options.Grace = None,
    stop_then: options.StopThen = AfterGrace.FORCE,
    retire: options.RetireOption = Retire.STOP,
    skip_refused: options.SkipRefused = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Move instances to another server or cluster, or to another member of their own.

    Each source stays where it is, stopped, unless --retire delete; within a cluster it gets another name.
    """
    del stateless
    remotes = load_remotes()
    instances, is_within = instances or [], False
    if members:
        instances, target, is_within = options.before_members(instances, target, remotes)
        if is_within and target_project:
            raise InputError(
                "--target-project does not go with --target within a cluster", hint="change one after the other"
            )
    elif not instances:
        raise typer.BadParameter("what moves, and then where to, or --target MEMBER", param_hint="'TARGET:[NAME]'")
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
        targets=() if is_within else (chosen.target,),
        members=tuple(dict.fromkeys(members or ())),
        rename=chosen.rename,
        target_project=target_project,
        policy=options.policy(
            method=method,
            downtime=downtime,
            grace=grace,
            stop_then=stop_then,
            retire=retire,
            mode=mode,
            limit=limit,
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
            create=create or [],
        ),
    )
    flow.carry_out(flow.plan_for(request, remotes), yes=yes, as_json=as_json, skip_refused=skip_refused)
