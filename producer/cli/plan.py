"""``herder plan`` decides and writes down; nothing moves. ``herder run`` carries a written plan out."""

from pathlib import Path
from typing import Annotated

import typer

from common.config import load_settings
from common.domain.errors import InputError, PlanDrifted
from common.domain.plan import AfterGrace, Limits, Plan, Retire
from producer.cli import exits, flow, options, render
from producer.cli.exits import reports_errors
from producer.inventory import take_inventory
from producer.planfile import read_plan, read_request, write_plan
from producer.planner import drift
from producer.session import load_remotes, open_session
from producer.submit import submit


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
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE:]", help="With evacuate: the server to empty.")
    ] = None,
    to: Annotated[list[str] | None, typer.Option("--to", metavar="TARGET:", help="With evacuate: the target.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write the plan.")] = None,
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
    as_json: options.Json = False,
) -> None:
    """Decide who goes where and why, and what is refused and why; write it to a file with --output."""
    remotes = load_remotes()
    if what != "evacuate":
        if source is not None or to:
            raise InputError("a request file says source and targets itself", hint="leave SOURCE and --to out")
        _refuse_options(context)
        request = read_request(Path(what))
    else:
        if source is None or not to:
            raise InputError("evacuate needs a source and a target", hint="herder plan evacuate SOURCE: --to TARGET:")
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
    if detach and not load_settings().redis_url:
        raise InputError(
            "--detach needs workers that run elsewhere", hint="set HERDER_REDIS_URL, or leave --detach out"
        )
    with open_session(with_workers=False) as session:
        is_known = written.id in session.jobs.plans()
    if not is_known:
        changed = drift(written, take_inventory(written.request, load_remotes(), load_settings()))
        if changed:
            raise PlanDrifted(f"{file}: " + "; ".join(changed))
    if detach:
        if not yes:
            flow.ask(f"Move {len(written.moves)} instances?")
        with open_session(with_workers=False) as session:
            submit(written, session.jobs)
        if as_json:
            exits.print_json({"plan": written.id})
        else:
            render.console.print(f"submitted; `herder watch {written.id}` shows it at work")
        return
    flow.carry_out(written, yes=yes, as_json=as_json, skip_refused=True)
