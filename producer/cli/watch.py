"""``herder status``, ``herder watch`` and ``herder report``: how plans stand, now, live and as a document."""

from typing import Annotated

import typer

from common.store.codec import to_plain
from producer.cli import exits, flow, options, render
from producer.cli.exits import reports_errors
from producer.session import open_session
from producer.watch import read_report

PlanId = Annotated[str, typer.Argument(metavar="ID", help="A plan's id, as `herder status` lists them.")]


@reports_errors
def status(as_json: options.Json = False) -> None:
    """List all plans and how they stand."""
    with open_session(with_workers=False) as session:
        reports = [read_report(plan_id, session.jobs, session.operations) for plan_id in session.jobs.plans()]
    if as_json:
        exits.print_json([to_plain(report) for report in reports])
    else:
        render.console.print(render.plans_table(reports))


@reports_errors
def watch(plan_id: PlanId) -> None:
    """Show a plan at work, live, until it has ended. Starts no workers: see `herder resume`."""
    with open_session(with_workers=False) as session:
        flow.finish(flow.watch_to_the_end(plan_id, session, as_json=False), as_json=False)


@reports_errors
def report(plan_id: PlanId, as_json: options.Json = False) -> None:
    """Show what became of a plan: every job with its downtime, its errors and what to do about them."""
    with open_session(with_workers=False) as session:
        found = read_report(plan_id, session.jobs, session.operations)
    if as_json:
        exits.print_json(to_plain(found))
    else:
        render.console.print(render.final(found))
