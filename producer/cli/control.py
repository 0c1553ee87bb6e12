"""``herder cancel``, ``retry``, ``pause`` and ``resume``."""

from collections.abc import Callable
from typing import Annotated

import typer

from common.domain.errors import InputError
from common.store.codec import to_plain
from common.store.jobs import JobStore
from producer import control
from producer.cli import exits, flow, options, render
from producer.cli.exits import reports_errors
from producer.control import Answer
from producer.session import Session, open_session
from producer.submit import submit
from producer.watch import read_report

PlanOrJob = Annotated[str, typer.Argument(metavar="ID", help="A plan's id, or one job's.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Carry it out and watch, or only leave the request.")]


@reports_errors
def cancel(name: PlanOrJob, wait: Wait = True, as_json: options.Json = False) -> None:
    """Bring instances back to their source and leave nothing; refused for those past the commit point."""
    _ask_jobs(name, control.cancel, wait=wait, as_json=as_json)


@reports_errors
def retry(name: PlanOrJob, wait: Wait = True, as_json: options.Json = False) -> None:
    """Try parked and cancelled jobs again: parked ones from their checkpoint."""
    _ask_jobs(name, control.retry, wait=wait, as_json=as_json)


@reports_errors
def undo(name: PlanOrJob, wait: Wait = True, yes: options.Yes = False, as_json: options.Json = False) -> None:
    """Bring instances back to their source, finished ones too; what they wrote since stays on the target, stopped."""
    if not yes:
        flow.ask(f"Stop the targets of {name} and start its sources as they were at the cutover?")
    _ask_jobs(name, control.undo, wait=wait, as_json=as_json)


@reports_errors
def pause(name: PlanOrJob, as_json: options.Json = False) -> None:
    """Let every job finish the step it is in and start no other."""
    _ask_jobs(name, control.pause, wait=False, as_json=as_json)


@reports_errors
def resume(
    plan_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="A plan's id.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every plan that is not finished.")] = False,
    as_json: options.Json = False,
) -> None:
    """Go on with what was left unfinished, paused jobs included, and watch it to its end."""
    with open_session(with_workers=True) as session:
        unfinished = _unfinished(session)
        if plan_id is None and not everything and len(unfinished) > 1:
            raise InputError(f"several plans are unfinished: {', '.join(unfinished)}", hint="name one, or give --all")
        chosen = [plan_id] if plan_id else unfinished
        after = {chosen_id: session.events.last(chosen_id) for chosen_id in chosen}
        for chosen_id in chosen:
            submit(session.jobs.plan(chosen_id), session.jobs)
            control.resume(chosen_id, session.jobs)
        if not chosen and not as_json:
            render.console.print("nothing is unfinished")
        flow.finish_all(
            [flow.watch_to_the_end(each, session, as_json=as_json, after=after[each]) for each in chosen],
            as_json=as_json,
        )


def _unfinished(session: Session) -> list[str]:
    reports = [read_report(plan_id, session.jobs, session.operations) for plan_id in session.jobs.plans()]
    return [report.plan for report in reports if not report.has_ended]


def _ask_jobs(name: str, ask: Callable[[str, JobStore], list[Answer]], *, wait: bool, as_json: bool) -> None:
    with open_session(with_workers=wait) as session:
        plan_id = control.jobs_of(name, session.jobs)[0].plan
        after = session.events.last(plan_id)
        answers = ask(name, session.jobs)
        if not as_json:
            _print_answers(answers)
        accepted = {answer.job for answer in answers if not answer.refused}
        report = None
        if accepted and wait:
            report = flow.watch_to_the_end(plan_id, session, as_json=as_json, after=after)
            if not as_json:
                render.console.print(render.final(report))
    if as_json:
        exits.print_json(
            {"answers": [to_plain(each) for each in answers], "report": to_plain(report) if report else None}
        )
    unsettled = [job for job in report.jobs if job.job in accepted and job.state == "parked"] if report else []
    if unsettled or (answers and not accepted):
        raise typer.Exit(exits.NOT_ALL)


def _print_answers(answers: list[Answer]) -> None:
    for answer in answers:
        text = f"[red]refused[/]: {answer.refused}" if answer.refused else answer.done
        render.console.print(f"{answer.instance} ({answer.job}): {text}")
