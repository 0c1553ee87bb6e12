"""``herder plan`` decides and writes down; nothing moves. ``herder run`` carries a written plan out."""

from pathlib import Path
from typing import Annotated

import typer

from common.config import load_settings
from common.domain.errors import InputError, PlanDrifted
from common.domain.plan import AfterGrace, Limits, Mode, Plan
from producer.cli import exits, flow, leaving, options
from producer.cli.exits import reports_errors
from producer.inventory import take_inventory
from producer.planfile import read_plan, read_request, write_plan
from producer.planner import drift
from producer.session import load_remotes, open_session


def _decided(plan: Plan, output: Path | None, *, as_json: bool) -> None:
    if output is not None:
        write_plan(plan, output)
    flow.write_or_show(plan, output, as_json=as_json)
    if plan.refusals:
        raise typer.Exit(exits.NOT_ALL)


@reports_errors
def plan(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="FILE|evacuate", help="A request file, or the word evacuate.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE:|CLUSTER:MEMBER...]", help="With evacuate: the server, or the members, to empty."
        ),
    ] = None,
    to: options.ToServers = None,
    targets: options.TakingMembers = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write the plan.")] = None,
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
    as_json: options.Json = False,
) -> None:
    """Decide who goes where and why, and what is refused and why; write it to a file with --output."""
    remotes = load_remotes()
    if what != "evacuate":
        if sources or to or targets:
            raise InputError("a request file says source and targets itself", hint="leave SOURCE and --to out")
        _refuse_options(context)
        request = read_request(Path(what))
    else:
        if not sources:
            raise InputError("evacuate needs a source", hint="herder plan evacuate SOURCE: --to TARGET:")
        request = leaving.evacuation(
            sources,
            to or [],
            targets or [],
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
    _decided(flow.plan_for(request, remotes), output, as_json=as_json)


def _refuse_options(context: typer.Context) -> None:
    """What a request file says itself cannot be said a second time. Raises InputError."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in ("what", "output", "as_json")
        and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise InputError(f"{', '.join(given)}: a request file says this itself", hint="write it into the file")


@reports_errors
def run(
    file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan that `herder plan --output` wrote.")],
    detach: Annotated[bool, typer.Option("--detach", help="Submit only; workers elsewhere carry it out.")] = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Carry out a written plan, unless the servers have changed since. Running it again goes on with it."""
    written = read_plan(file)
    if detach and written.request.select.members:
        raise InputError("--detach: members are closed before and marked after the moves", hint="leave --detach out")
    if detach:
        flow.check_detached()
    with open_session(with_workers=False) as session:
        is_known = written.id in session.jobs.plans()
    if not is_known:
        changed = drift(written, take_inventory(written.request, load_remotes(), load_settings()))
        if changed:
            raise PlanDrifted(f"{file}: " + "; ".join(changed))
    if detach:
        if not yes:
            flow.ask(f"Move {len(written.moves)} instances?")
        flow.submit_only(written, as_json=as_json)
        return
    leaving.run(written, load_remotes(), yes=yes, as_json=as_json, skip_refused=True)
