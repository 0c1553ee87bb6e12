"""``herder backup``: runs of policies by hand, the generations that there are, and instances made of them."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table

from common.archive.place import address, is_archive
from common.config import load_settings
from common.domain.archive import manifest_name
from common.domain.backup import BackupPolicy
from common.domain.errors import HerderError, InputError
from common.domain.generation import Generation
from common.domain.plan import AfterGrace, Limits, Method, Mode, Plan, Policy, Request, Selection
from common.domain.units import parse_duration
from common.lxd.remotes import Remotes, split_name
from common.store.codec import to_plain
from producer import drilling, failing_over
from producer.archiving import restore_requests
from producer.backup import archived, definition_of, generations, in_order, manifest_of, plans_for
from producer.cli import exits, flow, options, render
from producer.cli.archive import planned_import
from producer.cli.exits import EXIT_STATUS, reports_errors
from producer.inventory import take_inventory
from producer.planner import make_plan
from producer.policyfile import read_policies
from producer.report import Report
from producer.restoring import Chosen, Wanted, choose, in_boot_order, requests, with_definitions
from producer.session import load_remotes, open_session
from producer.submit import submit
from producer.watch import has_ended

app = typer.Typer(no_args_is_help=True, help="Back instances up by policies, and make instances of the backups.")

PolicyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The file with the policies.", show_default=False)]


@app.command("run", epilog=EXIT_STATUS)
@reports_errors
def run(
    file: PolicyFile,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[POLICY]...", help="All policies of the file if left out.", show_default=False),
    ] = None,
    at: Annotated[
        str,
        typer.Option("--at", metavar="TIME", help="The moment that the generations are of, ISO 8601; now if left out."),
    ] = "",
    as_json: options.Json = False,
) -> None:
    """Run policies now, whatever their schedules say: one generation of each instance on each target."""
    remotes, settings = load_remotes(), load_settings()
    now = _moment(at, "--at") if at else datetime.now(UTC).replace(microsecond=0)
    policies = _chosen(read_policies(file), names or [], file)
    plans = [plan for policy in policies for plan in plans_for(policy, now, remotes, settings)]
    for warning in dict.fromkeys(warning for plan in plans for warning in plan.warnings):
        exits.errors.print(f"warning: {warning}", style="yellow", markup=False)
    _carry_out(plans, as_json=as_json)


def _moment(text: str, option: str) -> datetime:
    """A moment; UTC if it does not tell its zone. Raises InputError."""
    try:
        found = datetime.fromisoformat(text).replace(microsecond=0)
    except ValueError as error:
        raise InputError(f"{option}: {error}", hint="write 2026-11-23T02:00") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _chosen(policies: Iterable[BackupPolicy], names: list[str], file: Path) -> list[BackupPolicy]:
    known = {policy.name: policy for policy in policies}
    strangers = [name for name in names if name not in known]
    if strangers:
        raise InputError(f"{file} has no policy {', '.join(strangers)}; it has {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names or known)]


def _carry_out(plans: list[Plan], *, as_json: bool) -> None:
    with open_session(with_workers=True) as session:
        for plan in plans:
            submit(plan, session.jobs)
        reports = [flow.watch_to_the_end(plan.id, session, as_json=as_json) for plan in plans]
    _finish(reports, as_json=as_json)


def _finish(reports: list[Report], *, as_json: bool) -> None:
    if as_json:
        exits.print_json([to_plain(report) for report in reports])
        if not all(flow.is_all_done(report) for report in reports):
            raise typer.Exit(exits.NOT_ALL)
    else:
        flow.finish_all(reports, as_json=False)


@app.command("restore", epilog=EXIT_STATUS)
@reports_errors
def restore(
    selections: Annotated[
        list[str],
        typer.Argument(
            metavar="SELECTION...",
            help="REMOTE:INSTANCE as it was backed up, REMOTE: for all of it, or a generation, also ARCHIVE/FILE.",
            show_default=False,
        ),
    ],
    at: Annotated[
        str, typer.Option("--at", metavar="TIME", help="As it was then, ISO 8601; the newest if left out.")
    ] = "",
    to: Annotated[str, typer.Option("--to", metavar="REMOTE:", help="Where it was if left out.")] = "",
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="A new name, of a single instance.")] = "",
    sources: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="REMOTE:|ARCHIVE", help="Whose generations; those of all remotes if left out."),
    ] = None,
    project: Annotated[str, typer.Option("--project", help="Project on the target; the same if left out.")] = "",
    storage: options.Storage = "",
    config: options.Config = None,
    device: options.Device = None,
    no_profiles: Annotated[
        bool,
        typer.Option("--no-profiles", help="What its profiles gave it becomes its own; the target needs none."),
    ] = False,
    keep_addresses: Annotated[
        bool, typer.Option("--keep-addresses", help="With the MAC addresses that it had; else new ones.")
    ] = False,
    name_map: options.NameMapOption = None,
    create: options.Create = None,
    mode: options.ModeOption = Mode.AUTO,
    limit: options.Limit = "",
    transfers: options.PerServer = Limits.per_source,
    skip_refused: options.SkipRefused = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Make instances of generations: stopped, on the server that they were on or on another one."""
    remotes, settings = load_remotes(), load_settings()
    found = _found(sources or [], remotes)
    moment = _moment(at, "--at") if at else None
    files = [_in_archive(selection) for selection in selections if is_archive(selection)]
    picked = [
        each
        for selection in selections
        if not is_archive(selection)
        for source, instance in (split_name(selection, remotes.default),)
        for each in choose(found, source, instance, moment)
    ]
    in_archives = [each for each in dict.fromkeys((*files, *picked)) if each.archive]
    chosen = [
        Chosen(each, definition_of(each, remotes, settings)) for each in dict.fromkeys(picked) if not each.archive
    ]
    if name and len(in_archives) + len(chosen) != 1:
        raise InputError(f"--as needs exactly one instance; {len(in_archives) + len(chosen)} are selected")
    if in_archives:
        _refuse_for_archives(
            {
                "--device": device,
                "--no-profiles": no_profiles,
                "--map": name_map,
                "--create": create,
                "--mode": mode is not Mode.AUTO,
                "--limit": limit,
            }
        )
    wanted = Wanted(
        to=options.remote_of(to, remotes) if to else "",
        name=name,
        project=project,
        overrides=options.overrides(
            config or [],
            device or [],
            None,
            storage,
            no_profiles=False,
            instance_only=False,
            allow_inconsistent=False,
            mapped=name_map or [],
            create=create or [],
        ),
        bakes=no_profiles,
        keeps_addresses=keep_addresses,
        mode=mode,
        rate=options.rate(limit),
        limits=Limits(per_source=transfers, per_target=transfers),
    )
    imports = Request(
        name="restore",
        select=Selection(source=""),
        targets=(wanted.to,) if wanted.to else (),
        rename=name,
        target_project=project,
        policy=Policy(method=Method.IMPORT),
        limits=wanted.limits,
        overrides=replace(wanted.overrides, devices={}),
    )
    exports = [(each, manifest_of(each)) for each in in_archives]
    plans = [
        *(_planned(request, chosen, remotes) for request in (requests(chosen, wanted) if chosen else ())),
        *(
            planned_import(request, manifests, remotes)
            for request, manifests in restore_requests(exports, imports, keeps_addresses=keep_addresses)
        ),
    ]
    _show_and_ask(plans, "Restore {count} instances?", skip_refused=skip_refused, yes=yes, as_json=as_json)
    _carry_out([plan for plan in plans if plan.moves], as_json=as_json)


Failovers = Annotated[
    list[str],
    typer.Argument(
        metavar="SELECTION...",
        help="REMOTE:INSTANCE as it was backed up, or REMOTE: for all of it.",
        show_default=False,
    ),
]


@app.command("failover", epilog=EXIT_STATUS)
@reports_errors
def failover(
    selections: Failovers,
    on: Annotated[str, typer.Option("--on", metavar="REMOTE:", help="The server that has the backups.")],
    at: Annotated[
        str, typer.Option("--at", metavar="TIME", help="As it was then, ISO 8601; the newest if left out.")
    ] = "",
    source_is_down: Annotated[
        bool,
        typer.Option(
            "--source-is-down",
            help="You say that the server which does not answer runs nothing, and will not until herder can guard it.",
        ),
    ] = False,
    storage: options.Storage = "",
    config: options.Config = None,
    device: options.Device = None,
    no_profiles: Annotated[
        bool,
        typer.Option("--no-profiles", help="What its profiles gave it becomes its own; the target needs none."),
    ] = False,
    name_map: options.NameMapOption = None,
    transfers: options.PerServer = Limits.per_source,
    cutovers: options.Cutovers = Limits.cutovers,
    skip_refused: options.SkipRefused = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Start instances from their backups, in place of those at home, which herder guards, or will when they are back.

    Each is a clone of its newest generation on the same server, which stays as it is. What ran when it was backed up
    is started.
    """
    remotes, settings = load_remotes(), load_settings()
    where = options.remote_of(on, remotes)
    found = _found([where], remotes)
    moment = _moment(at, "--at") if at else None
    picked = [
        each
        for selection in selections
        for source, instance in (split_name(selection, remotes.default),)
        for each in choose(found, source, instance, moment)
    ]
    homes = {each.source.partition(":")[0] for each in picked}
    for home in homes:
        remotes.get(home)
    seen = failing_over.look_everywhere(remotes, settings, homes=homes)
    failing_over.check_statement(homes, seen, source_is_down=source_is_down)
    chosen = [Chosen(each, definition_of(each, remotes, settings)) for each in dict.fromkeys(picked)]
    wanted = Wanted(
        to=where,
        overrides=options.overrides(
            config or [],
            device or [],
            None,
            storage,
            no_profiles=False,
            instance_only=False,
            allow_inconsistent=False,
            mapped=name_map or [],
            create=[],
        ),
        bakes=no_profiles,
        keeps_addresses=True,
        takes_place=True,
        limits=Limits(per_source=transfers, per_target=transfers, cutovers=cutovers),
    )
    plans = [
        failing_over.as_failover(_planned(request, chosen, remotes), chosen, seen)
        for request in requests(chosen, wanted)
    ]
    _show_and_ask(
        plans, "Start {count} instances from their backups?", skip_refused=skip_refused, yes=yes, as_json=as_json
    )
    _fail_over([plan for plan in plans if plan.moves], as_json=as_json)


def _fail_over(plans: list[Plan], *, as_json: bool) -> None:
    """Watch until all has taken over; what is left then is for workers elsewhere, or else for this command too."""
    with open_session(with_workers=True) as session:
        for plan in plans:
            submit(plan, session.jobs)
        if session.has_own_workers and any(
            each.failover.source_is_down for p in plans for each in p.moves if each.failover
        ):
            exits.errors.print(
                "this command guards what is at home when its server is back, so it goes on until then; interrupted, "
                "`herder resume` goes on"
            )
        is_over = has_ended if session.has_own_workers else failing_over.has_taken_over
        reports = [flow.watch_to_the_end(plan.id, session, as_json=as_json, is_over=is_over) for plan in plans]
    if all(report.has_ended for report in reports):
        _finish(reports, as_json=as_json)
        return
    if as_json:
        exits.print_json([to_plain(report) for report in reports])
    for report in reports:
        if not as_json:
            render.console.print(render.final(report))
        exits.errors.print(
            f"all have taken over; workers guard what is at home as soon as its server answers: `herder watch "
            f"{report.plan}`"
        )


def _show_and_ask(plans: list[Plan], question: str, *, skip_refused: bool, yes: bool, as_json: bool) -> None:
    for plan in plans:
        flow.refuse_or_warn(plan, skip_refused=skip_refused, ask=not yes and not as_json)
        if not as_json:
            render.console.print(render.plan_table(plan))
    if not yes:
        flow.ask(question.format(count=sum(len(plan.moves) for plan in plans)))


@app.command("home", epilog=EXIT_STATUS)
@reports_errors
def home(
    selections: Annotated[
        list[str],
        typer.Argument(
            metavar="SELECTION...",
            help="REMOTE:INSTANCE that a failover has made, or REMOTE: for all of them.",
            show_default=False,
        ),
    ],
    storage: options.Storage = "",
    name_map: options.NameMapOption = None,
    create: options.Create = None,
    method: options.MethodOption = None,
    downtime: options.Downtime = "2s",
    grace: options.Grace = None,
    stop_then: options.StopThen = AfterGrace.FORCE,
    mode: options.ModeOption = Mode.AUTO,
    limit: options.Limit = "",
    transfers: options.PerServer = Limits.per_source,
    cutovers: options.Cutovers = Limits.cutovers,
    skip_refused: options.SkipRefused = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Move instances home that a failover has started elsewhere; what it left there is kept under another name."""
    remotes, settings = load_remotes(), load_settings()
    selected = [split_name(selection, remotes.default) for selection in selections]
    wanted = failing_over.requests_home(
        failing_over.failed_over(selected, remotes, settings),
        options.policy(method=method, downtime=downtime, grace=grace, stop_then=stop_then, mode=mode, limit=limit),
        Limits(per_source=transfers, per_target=transfers, cutovers=cutovers),
        options.overrides(
            [],
            [],
            None,
            storage,
            no_profiles=False,
            instance_only=False,
            allow_inconsistent=False,
            mapped=name_map or [],
            create=create or [],
        ),
    )
    plans = [flow.plan_for(request, remotes) for request in wanted]
    _show_and_ask(plans, "Move {count} instances home?", skip_refused=skip_refused, yes=yes, as_json=as_json)
    _carry_out([plan for plan in plans if plan.moves], as_json=as_json)


def _refuse_for_archives(given: Mapping[str, object]) -> None:
    """Raises InputError for options that an import could not heed."""
    strange = [option for option, value in given.items() if value]
    if strange:
        raise InputError(
            f"{', '.join(strange)}: not for a generation in an archive, of which a server makes what it was",
            hint="--storage, --project, --config and --as can differ; change the rest of it then, before it starts",
        )


def _in_archive(text: str) -> Generation:
    """The generation that ``ARCHIVE/FILE`` means. Raises InputError."""
    where, _, file = text.rpartition("/")
    archive = address(where or "/")
    found = next((each for each in archived(archive) if file in (each.name, manifest_name(each.name))), None)
    if found is None:
        raise InputError(f"{archive} has no generation {file}", hint=f"`herder backup list {archive}`")
    return found


def _planned(request: Request, chosen: list[Chosen], remotes: Remotes) -> Plan:
    fleet = with_definitions(take_inventory(request, remotes, load_settings()), request, chosen)
    return in_boot_order(make_plan(request, fleet, plan_id=flow.new_plan_id()), chosen)


@app.command("drill", epilog=EXIT_STATUS)
@reports_errors
def drill(
    selections: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SELECTION]...",
            help="REMOTE:INSTANCE as it was backed up, REMOTE: for all of it, REMOTE:GENERATION, or a POLICY's name.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Drill policies of this file as they say; all if none is named."),
    ] = None,
    command: Annotated[
        str, typer.Option("--command", metavar="COMMAND", help="Must end with 0 inside each; else each must run on.")
    ] = "",
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="How long that may take, from the start on.")
    ] = "5m",
    sources: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="REMOTE:", help="Which server's generations; all remotes' if left out."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Prove newest generations: a clone of each is started alone on its server, looked at, and removed."""
    remotes, settings = load_remotes(), load_settings()
    now = datetime.now(UTC).replace(microsecond=0)
    if file is not None:
        if command or sources:
            raise InputError("--command and --from do not go with --file", hint="the policies say it")
        policies = _chosen(read_policies(file), selections or [], file)
        wanted = [each for each in policies if each.drill or selections]
        if not wanted:
            raise InputError(f"{file}: no policy has a drill", hint="see docs/reference/policy-file.md")
        plans = [plan for policy in wanted for plan in drilling.plans_for(policy, now, remotes, settings)]
    else:
        if not selections:
            raise InputError("nothing is selected", hint="REMOTE:INSTANCE, REMOTE:, a policy's name, or --file FILE")
        terms = drilling.Terms(at=now, command=tuple(shlex.split(command)), timeout=_duration(timeout))
        picked = _to_drill(selections, sources or [], remotes)
        plans = list(drilling.plans(picked, terms, lambda _: flow.new_plan_id(), remotes, settings))
    if not plans:
        raise InputError("there is no generation to drill", hint="`herder backup list`")
    _carry_out(plans, as_json=as_json)


def _to_drill(selections: list[str], sources: list[str], remotes: Remotes) -> list[Generation]:
    """What is selected, each generation once. Raises InputError."""
    archives = [each for each in (*sources, *selections) if is_archive(each)]
    if archives:
        hint = "only one on a remote can: `herder backup restore --as` makes an instance of this one"
        raise InputError(f"{archives[0]}: a generation in an archive cannot be drilled", hint=hint)
    found = _found(sources, remotes)
    picked: list[Generation] = []
    for selection in selections:
        of_policy = [] if ":" in selection else drilling.of_policy(found, selection)
        picked += of_policy or choose(found, *split_name(selection, remotes.default), None)
    return list(dict.fromkeys(picked))


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise InputError(f"--timeout: {error}", hint="write 30s or 5m") from error


Where = Annotated[
    list[str] | None,
    typer.Argument(metavar="[REMOTE:|ARCHIVE]...", help="All remotes if left out, no archive.", show_default=False),
]


@app.command("list", epilog=EXIT_STATUS)
@reports_errors
def list_(
    where: Where = None,
    instance: Annotated[
        str, typer.Option("--instance", metavar="[REMOTE:]INSTANCE", help="Only those of this instance.")
    ] = "",
    as_json: options.Json = False,
) -> None:
    """The complete generations that there are, the newest first."""
    remotes = load_remotes()
    remote, name = split_name(instance)
    found = [each for each in _found(where or [], remotes) if not instance or _is_of(each, remote, name)]
    if as_json:
        exits.print_json([to_plain(each) for each in found])
    else:
        render.console.print(_table(found))


def _found(where: list[str], remotes: Remotes) -> tuple[Generation, ...]:
    """Where they are named; or on all remotes, of which some may not answer."""
    if where:
        places = [address(each) if is_archive(each) else options.remote_of(each, remotes) for each in where]
        return generations(places, remotes, load_settings())
    found: list[Generation] = []
    for remote in remotes:
        try:
            found += generations([remote.name], remotes, load_settings())
        except HerderError as error:
            exits.errors.print(f"{remote.name} was not asked: {error.message}", markup=False)
    return in_order(found)


def _is_of(generation: Generation, remote: str, name: str) -> bool:
    return generation.instance == name and (not remote or generation.source.startswith(f"{remote}:"))


def _table(found: Iterable[Generation]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("generation", "of", "policy", "at (UTC)", "last drill"):
        table.add_column(heading, overflow="fold")
    for each in found:
        table.add_row(each.place, each.source, each.policy, f"{each.at:%Y-%m-%d %H:%M}", _told(each))
    return table


def _on_remote(text: str, remotes: Remotes) -> Generation:
    """The generation that ``REMOTE:GENERATION`` means. Raises InputError."""
    remote, name = split_name(text, remotes.default)
    found = next((each for each in generations([remote], remotes, load_settings()) if each.name == name), None)
    if found is None:
        raise InputError(f"{remote} has no generation {name}", hint=f"`herder backup list {remote}:`")
    return found


def _told(generation: Generation) -> str:
    """Its own drill; that of an older one, which it keeps, proves nothing of it."""
    found = generation.drill
    return found.brief if found is not None and found.generation == generation.name else ""


@app.command("show", epilog=EXIT_STATUS)
@reports_errors
def show(
    generation: Annotated[str, typer.Argument(metavar="REMOTE:GENERATION|ARCHIVE/FILE")],
    as_json: options.Json = False,
) -> None:
    """One generation, and what its instance was made of when it was backed up."""
    remotes, settings = load_remotes(), load_settings()
    found = _in_archive(generation) if is_archive(generation) else _on_remote(generation, remotes)
    told = {**to_plain(found), "definition": definition_of(found, remotes, settings)}
    if as_json:
        exits.print_json(told)
    else:
        render.console.print(yaml.safe_dump(told, sort_keys=False), markup=False)
