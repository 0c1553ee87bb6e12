"""From a request about members of a cluster to its end: close them, move what is on them, mark them as evacuated.

Shared by ``herder evacuate CLUSTER:MEMBER``, ``herder restore`` and ``herder run`` of a plan that empties members.
"""

from collections.abc import Sequence
from dataclasses import replace

import typer

from common.config import load_settings
from common.domain.errors import InputError, TransferFailed
from common.domain.job import Job, State
from common.domain.plan import Limits, Overrides, Plan, Policy, Request, Retire, Selection, Thing
from common.lxd.client import LxdClient
from common.lxd.connect import connect
from common.lxd.remotes import Remotes, split_name
from producer import control, members
from producer.cli import exits, flow, options, render
from producer.report import Report, make_report
from producer.session import Session, open_session
from producer.submit import submit
from producer.watch import read_report


def _name_members(texts: Sequence[str]) -> bool:
    """Whether these are members, not servers; one of them at least must say of which cluster."""
    written = [text for text in texts if ":" in text]
    return bool(written) and all(split_name(text)[1] for text in written)


def members_named(texts: Sequence[str], remotes: Remotes) -> tuple[LxdClient, list[str]]:
    """The cluster and the names of its members. Raises InputError."""
    split = [split_name(text, remotes.default) for text in texts]
    clusters = list(dict.fromkeys(remotes.get(remote).name for remote, _ in split))
    bare = [text for text, (_, name) in zip(texts, split, strict=True) if not name]
    if bare:
        raise InputError(f"{', '.join(bare)} names no member", hint="write CLUSTER:MEMBER")
    if len(clusters) > 1:
        raise InputError(f"{' and '.join(clusters)} are two clusters", hint="one command for each cluster")
    return cluster(clusters[0], remotes), list(dict.fromkeys(name for _, name in split))


def cluster(name: str, remotes: Remotes) -> LxdClient:
    """Speaks with the cluster of this name. Raises InputError."""
    settings = load_settings()
    return connect(remotes.get(name), connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout)


def evacuation(
    sources: Sequence[str],
    to: list[str],
    targets: Sequence[str],
    remotes: Remotes,
    *,
    retire: Retire | None,
    policy: Policy,
    limits: Limits,
    project: str | None,
    target_project: str,
    storage: str,
    mapped: list[str],
    create: list[Thing],
) -> Request:
    """The request to empty a server, or members of a cluster. Raises InputError.

    ``targets`` are members or groups: of the cluster that ``to`` names, or of the one whose members leave.
    """
    if not to and _name_members(sources):
        if project or target_project or storage or mapped or create:
            hint = "leave --project, --target-project, --storage, --map and --create out"
            raise InputError("all of a member leaves, and its cluster has all that it needs", hint=hint)
        if retire is Retire.STOP:
            raise InputError("retired sources would stay on the member", hint="leave --retire out")
        client, names = members_named(sources, remotes)
        return _request_to_empty(client, names, targets, replace(policy, retire=Retire.DELETE), limits)
    if not to:
        raise typer.BadParameter("where to, or which member: --to TARGET:, or CLUSTER:MEMBER", param_hint="'--to'")
    if len(sources) > 1:
        raise InputError("with --to there is one server", hint="one command for each server")
    if targets and len(to) > 1:
        raise InputError("--target names members of one cluster", hint="one --to with --target")
    name = options.remote_of(sources[0], remotes)
    return Request(
        name=f"evacuate {name}",
        select=Selection(source=name, project=project or remotes.get(name).project),
        targets=tuple(dict.fromkeys(options.remote_of(each, remotes) for each in to)),
        members=tuple(dict.fromkeys(targets)),
        target_project=target_project,
        policy=replace(policy, retire=retire or Retire.STOP),
        limits=limits,
        overrides=Overrides(storage=storage, map=options.name_map(mapped), create=tuple(dict.fromkeys(create))),
    )


def _request_to_empty(
    client: LxdClient, names: Sequence[str], targets: Sequence[str], policy: Policy, limits: Limits
) -> Request:
    known = members.members_of(client, names)
    members.check_quorum(known, names)
    return Request(
        name=f"evacuate {client.remote}:{','.join(names)}",
        select=Selection(source=client.remote, all_projects=True, members=tuple(names)),
        members=members.takers(client.remote, known, names, targets),
        policy=policy,
        limits=limits,
    )


def run(plan: Plan, remotes: Remotes, *, yes: bool, as_json: bool, skip_refused: bool) -> None:
    """Carry out any plan, and mark the members that it empties; leaves with the exit code of the result."""
    if plan.request.select.members:
        _empty(plan, remotes, yes=yes, as_json=as_json)
    else:
        flow.carry_out(plan, yes=yes, as_json=as_json, skip_refused=skip_refused)


def _empty(plan: Plan, remotes: Remotes, *, yes: bool, as_json: bool) -> None:
    client, names = cluster(plan.request.select.source, remotes), plan.request.select.members
    known = members.members_of(client, names)
    members.check_quorum(known, names)
    if not yes:
        render.console.print(render.plan_table(plan))
        flow.ask(f"Move {len(plan.moves)} instances and evacuate {', '.join(names)}?")
    members.check_idle(client, names)
    for name in names:
        members.close(client, known[name])
    with open_session(with_workers=True) as session:
        has_changed = finish_earlier(client, names, session, as_json=as_json)
        started = tell_started(client, names)
        if has_changed or started:
            plan = flow.plan_for(plan.request, remotes)
        report = carry_out(plan, session, as_json=as_json)
    is_empty = [_mark(client, name, plan) for name in names]
    tell([report], as_json=as_json)
    if not all(is_empty):
        raise typer.Exit(exits.NOT_ALL)


def tell_started(client: LxdClient, names: Sequence[str]) -> bool:
    """Start what LXD itself has stopped and then failed to move for these members; whether there was anything."""
    found = [f"{client.remote}:{instance}" for name in names for instance in members.start_stranded(client, name)]
    if found:
        told = f"started {', '.join(found)}, which LXD itself had stopped before it failed to move it"
        exits.errors.print(told, markup=False)
    return bool(found)


def tell(reports: list[Report], *, as_json: bool) -> None:
    """Print the results, and leave with the exit code if something did not move."""
    for report in reports:
        if not report.jobs and not report.refused and not as_json:
            render.console.print(f"nothing to move: {report.name}", markup=False)
    flow.finish_all([each for each in reports if each.jobs or each.refused or as_json], as_json=as_json)


def _mark(client: LxdClient, name: str, plan: Plan) -> bool:
    """Mark the member as evacuated, or say what is in the way and who acts next."""
    try:
        left = members.mark_evacuated(client, name)
    except TransferFailed as failed:
        exits.errors.print(f"member {name} is not evacuated: {failed.message}; {failed.hint}", markup=False)
        return False
    if not left:
        exits.errors.print(f"member {name} is evacuated", markup=False)
        return True
    reasons = {(each.project, each.instance): each.findings for each in plan.refusals}
    exits.errors.print(f"member {name} is not set to evacuated, because something is still on it:", markup=False)
    for instance in left:
        told = [f"{finding.message} ({finding.hint})" for finding in reasons.get((instance.project, instance.name), ())]
        if not told and instance.is_retired:
            told = [f"it is a retired source (`lxc delete {client.remote}:{instance.name}` when you do not need it)"]
        where = "" if instance.project == "default" else f" (project {instance.project})"
        why = "; ".join(told) or f"see `herder report {plan.id}`"
        exits.errors.print(f"  {instance.name}{where}: {why}", markup=False)
    exits.errors.print(
        f"nothing new is placed on {name}; mend this and run the command again, or go back with "
        f"`herder restore {client.remote}:{name}`",
        markup=False,
    )
    return False


def finish_earlier(client: LxdClient, names: Sequence[str], session: Session, *, as_json: bool) -> bool:
    """Go on with what earlier runs for these members have left, parked jobs too; whether there was anything."""
    earlier = []
    for plan_id in session.jobs.plans():
        select = session.jobs.plan(plan_id).request.select
        if select.source != client.remote or not {*select.members, select.home} & set(names):
            continue
        parked = [job for job in session.jobs.jobs(plan_id) if job.state is State.PARKED and _holds(client, job)]
        if parked or not read_report(plan_id, session.jobs, session.operations).has_ended:
            earlier.append((plan_id, parked))
    for plan_id, parked in earlier:
        exits.errors.print(f"going on with plan {plan_id}, which an earlier run has left", markup=False)
        after = session.events.last(plan_id)
        submit(session.jobs.plan(plan_id), session.jobs)
        control.resume(plan_id, session.jobs)
        for job in parked:
            control.retry(job.id, session.jobs)
        flow.watch_to_the_end(plan_id, session, as_json=as_json, after=after)
    return bool(earlier)


def _holds(client: LxdClient, job: Job) -> bool:
    """Whether an instance still is this job's."""
    return any(instance.marks.get("job") == job.id for instance in client.instances(job.move.project))


def carry_out(plan: Plan, session: Session, *, as_json: bool) -> Report:
    """Show the plan, submit it and watch it to its end; the last report."""
    if not plan.moves:
        return make_report(plan, (), {}, plan.created_at)
    if not as_json:
        render.console.print(render.plan_table(plan))
    after = session.events.last(plan.id)
    submit(plan, session.jobs)
    return flow.watch_to_the_end(plan.id, session, as_json=as_json, after=after)
