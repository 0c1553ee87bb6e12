"""``herder evacuate SOURCE: --to TARGET:`` empties a server."""

from typing import Annotated

import typer

from common.domain.plan import AfterGrace, Limits, Retire
from producer.cli import flow, options
from producer.cli.exits import reports_errors
from producer.session import load_remotes


@reports_errors
def evacuate(
    source: Annotated[str, typer.Argument(metavar="SOURCE:", help="The server to empty.")],
    to: options.To,
    project: options.Project = None,
    target_project: options.TargetProject = "",
    name_map: options.NameMapOption = None,
    method: options.MethodOption = None,
    downtime: options.Downtime = "2s",
    grace: options.Grace = None,
    stop_then: options.StopThen = AfterGrace.FORCE,
    retire: options.RetireOption = Retire.STOP,
    transfers: options.PerServer = Limits.per_source,
    cutovers: options.Cutovers = Limits.cutovers,
    skip_refused: options.SkipRefused = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Move every instance of a server to one or several others: warm those that run, cold those that are stopped."""
    remotes = load_remotes()
    request = options.evacuation(
        source,
        to,
        remotes,
        project=project,
        target_project=target_project,
        policy=options.policy(
            method=method,
            downtime=downtime,
            grace=grace,
            stop_then=stop_then,
            retire=retire,
            mode=options.ModeName.AUTO,
        ),
        limits=Limits(per_source=transfers, per_target=transfers, cutovers=cutovers),
        mapped=name_map or [],
    )
    plan = flow.plan_for(request, remotes)
    flow.carry_out(plan, yes=yes, as_json=as_json, skip_refused=skip_refused)
