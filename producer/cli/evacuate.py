"""``herder evacuate SOURCE: --to TARGET:`` empties a server, ``herder evacuate CLUSTER:MEMBER...`` cluster members.

``herder restore CLUSTER:MEMBER...`` puts members into service again and brings back what has left them.
"""

from typing import Annotated

import typer

from common.domain.plan import AfterGrace, Limits, Mode, Request, Retire, Selection
from producer import members
from producer.cli import flow, leaving, options
from producer.cli.exits import reports_errors
from producer.report import Report
from producer.session import load_remotes, open_session


@reports_errors
def evacuate(
    source: Annotated[
        list[str], typer.Argument(metavar="SOURCE:|CLUSTER:MEMBER...", help="The server, or the members, to empty.")
    ],
    to: options.ToServers = None,
    target: options.TakingMembers = None,
    project: options.Project = None,
    target_project: options.TargetProject = "",
    storage: options.Storage = "",
    name_map: options.NameMapOption = None,
    create: options.Create = None,
    method: options.MethodOption = None,
    downtime: options.Downtime = "2s",
    grace: options.Grace = None,
    stop_then: options.StopThen = AfterGrace.FORCE,
    retire: options.RetireOfEvacuation = None,
    mode: options.ModeOption = Mode.AUTO,
    limit: options.Limit = "",
    transfers: options.PerServer = Limits.per_source,
    cutovers: options.Cutovers = Limits.cutovers,
    skip_refused: options.SkipRefused = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Move every instance of a server, or of members of a cluster, to others: warm those that run, cold the stopped.

    A member is closed to new instances first, and marked as evacuated when nothing is left on it.
    """
    remotes = load_remotes()
    request = leaving.evacuation(
        source,
        to or [],
        target or [],
        remotes,
        retire=retire,
        policy=options.policy(
            method=method, downtime=downtime, grace=grace, stop_then=stop_then, mode=mode, limit=limit
        ),
        limits=Limits(per_source=transfers, per_target=transfers, cutovers=cutovers),
        project=project,
        target_project=target_project,
        storage=storage,
        mapped=name_map or [],
        create=create or [],
    )
    leaving.run(flow.plan_for(request, remotes), remotes, yes=yes, as_json=as_json, skip_refused=skip_refused)


@reports_errors
def restore(
    members_: Annotated[list[str], typer.Argument(metavar="CLUSTER:MEMBER...", help="The members to restore.")],
    downtime: options.Downtime = "2s",
    grace: options.Grace = None,
    stop_then: options.StopThen = AfterGrace.FORCE,
    mode: options.ModeOption = Mode.AUTO,
    limit: options.Limit = "",
    transfers: options.PerServer = Limits.per_source,
    cutovers: options.Cutovers = Limits.cutovers,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Put evacuated members into service again, and bring back what has left them."""
    remotes = load_remotes()
    client, names = leaving.members_named(members_, remotes)
    members.members_of(client, names)
    members.check_idle(client, names)
    if not yes:
        flow.ask(f"Restore {', '.join(names)}?")
    policy = options.policy(
        method=None,
        downtime=downtime,
        grace=grace,
        stop_then=stop_then,
        retire=Retire.DELETE,
        mode=mode,
        limit=limit,
    )
    limits = Limits(per_source=transfers, per_target=transfers, cutovers=cutovers)
    reports: list[Report] = []
    with open_session(with_workers=True) as session:
        leaving.finish_earlier(client, names, session, as_json=as_json)
        for name in names:
            leaving.tell_started(client, [name])
            members.reopen(client, members.members_of(client, [name])[name])
            request = Request(
                name=f"restore {client.remote}:{name}",
                select=Selection(source=client.remote, all_projects=True, home=name),
                members=(name,),
                policy=policy,
                limits=limits,
            )
            reports.append(leaving.carry_out(flow.plan_for(request, remotes), session, as_json=as_json))
            members.settle_at_home(client, name)
    leaving.tell(reports, as_json=as_json)
