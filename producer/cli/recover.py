"""``herder recover`` rebuilds jobs from the servers when Redis has lost them."""

from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from common.config import load_settings
from common.store.codec import to_plain
from producer.cli import exits, flow, options, render
from producer.cli.exits import reports_errors
from producer.recover import Recovery, find, restore
from producer.report import Report
from producer.session import Session, load_remotes, open_session


@reports_errors
def recover(
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Carry it out and watch, or only restore it.")] = True,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Find on all servers the jobs that Redis has lost, show them, and go on with them."""
    with open_session(with_workers=False) as session:
        recovery = find(load_remotes(), load_settings(), session.jobs, new_plan_id=flow.new_plan_id)
    if not as_json:
        _show(recovery)
    reports: list[Report] = []
    if recovery.plans or recovery.not_begun:
        if not yes:
            flow.ask(f"Go on with {len(recovery.jobs)} jobs and {_moves(recovery)} moves that were not begun?")
        with open_session(with_workers=wait) as session:
            restore(recovery, session.jobs)
            if wait:
                reports = _watch(recovery, session, as_json=as_json)
    if as_json:
        exits.print_json({"recovered": to_plain(recovery), "reports": [to_plain(report) for report in reports]})
    if not all(flow.is_all_done(report) for report in reports):
        raise typer.Exit(exits.NOT_ALL)


def _moves(recovery: Recovery) -> int:
    return sum(len(plan.moves) for plan in recovery.not_begun)


def _watch(recovery: Recovery, session: Session, *, as_json: bool) -> list[Report]:
    reports = []
    for plan in (*recovery.plans, *recovery.not_begun):
        reports.append(flow.watch_to_the_end(plan.id, session, as_json=as_json))
        if not as_json:
            render.console.print(render.final(reports[-1]))
    return reports


def _show(recovery: Recovery) -> None:
    for note in recovery.notes:
        exits.errors.print(escape(note))
    if recovery.jobs:
        render.console.print(_table(recovery))
    for plan in recovery.not_begun:
        render.console.print(render.plan_table(plan))
    if not (recovery.jobs or recovery.not_begun):
        render.console.print("no server has a job that Redis does not know")


def _table(recovery: Recovery) -> Table:
    table = Table(box=SIMPLE_HEAD, title="jobs that the servers know and Redis does not")
    for heading in ("job", "instance", "from", "to", "goes on with"):
        table.add_column(heading)
    for job in recovery.jobs:
        way = f"{job.step} (back to the source first)" if job.is_going_back else job.step
        table.add_row(job.id, job.move.instance, job.move.source_place, job.move.target_place, way)
    return table
