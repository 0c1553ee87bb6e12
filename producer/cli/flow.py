"""From a request to its end: plan, show, ask, submit, watch, report. Shared by evacuate, move, run and resume."""

import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import typer
from rich.live import Live

from common.config import load_settings
from common.domain.errors import InputError, PreflightRefused
from common.domain.plan import Method, Plan, Request
from common.lxd.remotes import Remotes
from common.store.codec import to_plain
from producer import control
from producer.cli import exits, render
from producer.inventory import take_inventory
from producer.planner import make_plan
from producer.report import Report, make_report
from producer.session import Session, open_session
from producer.submit import ID_ALPHABET, submit
from producer.watch import follow, has_ended

_REFRESH_SECONDS = 0.25
_VERBS = {
    Method.COPY: "Copy",
    Method.EXPORT: "Export",
    Method.IMPORT: "Import",
    Method.VOLUME_COPY: "Copy",
    Method.VOLUME_REFRESH: "Replace",
    Method.BACKUP: "Back up",
    Method.ARCHIVE: "Back up",
    Method.DRILL: "Drill",
    Method.FAILOVER: "Start",
}
#: 6 of the alphabet are 10^8 plans.
_ID_LENGTH = 6


def new_plan_id() -> str:
    """A short random name for a plan."""
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(_ID_LENGTH))


def plan_for(request: Request, remotes: Remotes) -> Plan:
    """Look at the servers and decide. Raises InputError."""
    fleet = take_inventory(request, remotes, load_settings())
    return make_plan(request, fleet, plan_id=new_plan_id())


def carry_out(plan: Plan, *, yes: bool, as_json: bool, skip_refused: bool, detach: bool = False) -> None:
    """Show the plan, ask, submit it and watch it to its end; leaves with the exit code of the result.

    With ``detach`` it only submits, to workers that run elsewhere.
    """
    refuse_or_warn(plan, skip_refused=skip_refused, ask=not yes and not as_json)
    if not plan.moves:
        if as_json:
            exits.print_json(to_plain(make_report(plan, (), {}, plan.created_at)))
        else:
            render.console.print(f"nothing to move from {plan.request.select.source}")
        return
    if not as_json:
        render.console.print(render.plan_table(plan))
    if not yes:
        verb = _VERBS.get(plan.moves[0].method, "Move")
        ask(f"{verb} {len(plan.moves)} of {len(plan.moves) + len(plan.refusals)} {_things(plan)}?")
    if detach:
        submit_only(plan, as_json=as_json)
        return
    with open_session(with_workers=True) as session:
        after = session.events.last(plan.id)
        submit(plan, session.jobs)
        finish(watch_to_the_end(plan.id, session, as_json=as_json, after=after), as_json=as_json)


def _things(plan: Plan) -> str:
    """What moves, in the plural."""
    method = plan.request.policy.method
    return "volumes" if method is not None and method.is_of_volume else "instances"


def check_detached() -> None:
    """Raises InputError if nobody would carry out what is only submitted."""
    if not load_settings().redis_url:
        raise InputError(
            "--detach needs workers that run elsewhere", hint="set HERDER_REDIS_URL, or leave --detach out"
        )


def submit_only(plan: Plan, *, as_json: bool) -> None:
    """Leave it to workers elsewhere."""
    with open_session(with_workers=False) as session:
        submit(plan, session.jobs)
    if as_json:
        exits.print_json({"plan": plan.id})
    else:
        render.console.print(f"submitted; `herder watch {plan.id}` shows it at work")


def refuse_or_warn(plan: Plan, *, skip_refused: bool, ask: bool) -> None:
    """Raises PreflightRefused, before anything moves, if instances are refused and nobody agreed to leave them."""
    if not plan.refusals or skip_refused or (ask and plan.moves and sys.stdin.isatty()):
        return
    lines = [
        f"{refusal.source}:{refusal.instance}: {finding.message} ({finding.hint})"
        for refusal in plan.refusals
        for finding in refusal.findings
    ]
    more = "; or move the others with --skip-refused" if plan.moves else ""
    count = f"{len(plan.refusals)} of {len(plan.refusals) + len(plan.moves)} {_things(plan)}"
    raise PreflightRefused(
        f"{count} cannot move; nothing has moved\n" + "\n".join(lines),
        hint=f"mend what is named{more}",
    )


def ask(question: str) -> None:
    """Leave unless the person at the terminal agrees. Raises InputError if there is none."""
    if not sys.stdin.isatty():
        raise InputError("there is nobody to ask", hint="give --yes")
    if not typer.confirm(question, err=True):
        raise typer.Exit(exits.OK)


def watch_to_the_end(
    plan_id: str,
    session: Session,
    *,
    as_json: bool,
    after: str = "0",
    is_over: Callable[[Report], bool] = has_ended,
) -> Report:
    """Show the plan at work until it is over, its story from the event ``after`` on; the last report.

    Interrupted, it first lets the instances that are down come up on one side, if their workers go away with it.
    """
    if not session.has_own_workers and not session.jobs.alive_workers():
        exits.errors.print("no worker is alive, so nothing moves; start one with `herder worker` or `herder resume`")
    try:
        return _watch(plan_id, session, as_json=as_json, after=after, is_over=is_over)
    except KeyboardInterrupt:
        if session.has_own_workers:
            _bring_up(plan_id, session)
        raise


def _watch(plan_id: str, session: Session, *, as_json: bool, after: str, is_over: Callable[[Report], bool]) -> Report:
    reports = follow(plan_id, session.jobs, session.operations, lambda: time.sleep(_REFRESH_SECONDS), is_over)
    if not as_json and not render.console.is_terminal:
        return _watch_as_lines(plan_id, session, after, reports)
    if as_json:
        return deque(reports, maxlen=1).pop()
    last = next(reports)
    with Live(render.live(last), console=render.console, refresh_per_second=8, transient=True) as view:
        for last in reports:
            view.update(render.live(last))
    return last


def _bring_up(plan_id: str, session: Session) -> None:
    """Start nothing new, and wait for the cutovers under way; a second interrupt does not wait."""
    control.pause(plan_id, session.jobs)
    if any(job.is_down for job in session.jobs.jobs(plan_id)):
        exits.errors.print("finishing the cutovers that are under way; interrupt again to leave at once")
    while any(job.is_down for job in session.jobs.jobs(plan_id)):
        time.sleep(_REFRESH_SECONDS)


def _watch_as_lines(plan_id: str, session: Session, after: str, reports: Iterator[Report]) -> Report:
    """For logs and pipes: one line for each step that a job completed, for each server set aside and each one back."""
    away: dict[str, str] = {}
    last = next(reports)
    for report in chain((last,), reports):
        last = report
        away = _tell_servers(report, away)
        for entry_id, event in session.events.read(plan_id, after):
            after = entry_id
            if event["outcome"] != "wait":
                reason = f": {event['error']}" if event["error"] else ""
                render.console.print(f"{event['instance']}: {event['step']} {event['outcome']}{reason}", markup=False)
    return last


def _tell_servers(report: Report, away: dict[str, str]) -> dict[str, str]:
    """Print which servers were set aside, and which are back, since these were away; those that are away now."""
    now_away = {server.server: render.told_set_aside(server) for server in report.set_aside}
    lines = [line for server, line in now_away.items() if server not in away]
    needed = {server for job in report.jobs if not job.finished_at for server in (job.source, job.target)}
    lines += [f"server {server} is back" for server in away if server in needed and server not in now_away]
    for line in lines:
        render.console.print(line, markup=False)
    return now_away


def finish(report: Report, *, as_json: bool) -> None:
    """Print the result and leave with its exit code."""
    if as_json:
        exits.print_json(to_plain(report))
    else:
        render.console.print(render.final(report))
    if not is_all_done(report):
        raise typer.Exit(exits.NOT_ALL)


def is_all_done(report: Report) -> bool:
    """Whether everything that was asked for has moved."""
    return report.totals.done == report.totals.jobs and not report.refused


def finish_all(reports: list[Report], *, as_json: bool) -> None:
    """Print the results of several plans and leave with the worst exit code."""
    worst = exits.OK
    for each in reports:
        try:
            finish(each, as_json=as_json)
        except typer.Exit as left:
            worst = left.exit_code
    if worst != exits.OK:
        raise typer.Exit(worst)


def write_or_show(plan: Plan, output: Path | None, *, as_json: bool) -> None:
    """The answer of `herder plan`."""
    if as_json:
        exits.print_json(to_plain(plan))
        return
    render.console.print(render.plan_table(plan))
    if output is not None:
        render.console.print(f"written to {output}; carry it out with `herder run {output}`")
