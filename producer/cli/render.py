"""Plan and Report -> rich tables and progress bars, for people."""

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.domain.archive import Manifest
from common.domain.fleet import place
from common.domain.plan import Plan
from common.domain.units import render_duration, render_size
from producer.report import JobReport, Report, SetAsideReport

console = Console(highlight=False)

_COLOURS = {"done": "green", "parked": "red", "failed": "red", "cancelled": "yellow", "paused": "yellow"}
#: More rows than this would not fit a terminal: the settled ones are left out of the live view.
_MAX_LIVE_ROWS = 30


def plan_table(plan: Plan) -> RenderableType:
    """Who goes where and why; who stays and why."""
    moves = Table(box=SIMPLE_HEAD, title=f"plan {plan.id}: {escape(plan.name)}", title_justify="left")
    is_of_volumes = any(move.is_of_volume for move in plan.moves)
    for heading in ("volume" if is_of_volumes else "instance", "from", "to", "method", "why"):
        moves.add_column(heading)
    for move in plan.moves:
        renamed = f":{move.name}" if move.name != move.instance else ""
        moves.add_row(
            move.instance, move.source_place, f"{move.target_place}{renamed}", move.method, escape(move.reason)
        )
    parts: list[RenderableType] = [moves] if plan.moves else []
    if plan.refusals:
        refused = Table(box=SIMPLE_HEAD, title="refused", title_justify="left", title_style="bold red")
        for heading in ("instance", "why", "what to do"):
            refused.add_column(heading, overflow="fold")
        for refusal in plan.refusals:
            for number, finding in enumerate(refusal.findings):
                refused.add_row("" if number else refusal.instance, escape(finding.message), escape(finding.hint))
        parts.append(refused)
    parts += [Text(f"warning: {warning}", style="yellow") for warning in plan.warnings]
    return Group(*parts) if parts else Text(f"plan {plan.id}: nothing to move")


def live(report: Report) -> RenderableType:
    """The view of a plan at work: an overall bar, then the jobs that are not settled."""
    jobs = list(report.jobs)
    if len(jobs) > _MAX_LIVE_ROWS:
        jobs = [job for job in jobs if job.state not in ("done", "queued")][:_MAX_LIVE_ROWS]
    table = Table(box=SIMPLE_HEAD, expand=True)
    columns = [column for column in _LIVE if console.width >= column[1]]
    for heading, _, _ in columns:
        table.add_column(heading, no_wrap=True, overflow="ellipsis", ratio=1 if heading == "waits for" else None)
    for job in jobs:
        table.add_row(*(cell(job) for _, _, cell in columns))
    hidden = len(report.jobs) - len(jobs)
    note = [Text(f"{hidden} more are done or queued", style="dim")] if hidden else []
    return Group(_overall(report), *_set_aside([report]), table, *note)


def told_set_aside(server: SetAsideReport) -> str:
    """One server that does not answer, in a sentence."""
    since = f"{server.since:%Y-%m-%d %H:%M:%S} UTC"
    return f"server {server.server} is set aside: unreachable since {since} ({server.reason})"


def _set_aside(reports: Sequence[Report]) -> list[Text]:
    """Each server once, however many plans wait for it."""
    told = dict.fromkeys(told_set_aside(server) for report in reports for server in report.set_aside)
    return [Text(line, style="yellow") for line in told]


def _overall(report: Report) -> RenderableType:
    totals = report.totals
    share = sum(job.share for job in report.jobs) / max(1, totals.jobs)
    line = Table.grid(padding=(0, 1))
    eta = f"  ETA {render_duration(report.eta_s)}" if report.eta_s else ""
    failed = f", [red]{totals.failed} failed[/]" if totals.failed else ""
    line.add_row(
        f"[bold]{escape(report.name)}[/] ({report.plan})",
        ProgressBar(total=1, completed=share, width=30),
        f"{share:4.0%}  {totals.done} of {totals.jobs} done{failed}  {render_size(totals.bytes)}{eta}",
    )
    return line


#: Heading, the width of terminal from which the column is shown, and its cell.
_LIVE: tuple[tuple[str, int, Callable[[JobReport], RenderableType]], ...] = (
    ("instance", 0, lambda job: job.instance),
    ("state", 0, lambda job: Text(job.state, style=_COLOURS.get(job.state, ""))),
    ("step", 0, lambda job: "" if job.state == "done" else job.step),
    ("", 120, lambda job: ProgressBar(total=1, completed=job.share, width=10)),
    ("%", 0, lambda job: f"{job.share:.0%}"),
    ("sent", 100, lambda job: render_size(job.bytes) if job.bytes else ""),
    ("rate", 120, lambda job: f"{render_size(job.rate)}/s" if job.rate else ""),
    ("ETA", 100, lambda job: render_duration(job.eta_s) if job.eta_s else ""),
    ("downtime", 80, lambda job: "" if job.downtime_s is None else render_duration(job.downtime_s)),
    ("waits for", 0, lambda job: Text(job.blocked_on or (job.error.message if job.error else ""), style="dim")),
)


def final(report: Report) -> RenderableType:
    """The result of a plan: every job with its downtime, then the totals."""
    table = Table(box=SIMPLE_HEAD)
    for heading in ("instance", "from", "to", "method", "state", "passes", "sent", "downtime"):
        table.add_column(heading)
    for job in report.jobs:
        table.add_row(
            job.instance,
            place(job.source, job.source_member),
            place(job.target, job.target_member),
            job.method,
            Text(job.state, style=_COLOURS.get(job.state, "")),
            str(job.passes),
            render_size(job.bytes) if job.bytes else "-",
            render_duration(job.downtime_s),
        )
    return Group(table, *_troubles(report), _totals(report))


def _troubles(report: Report) -> list[Text]:
    lines = _set_aside([report])
    for job in report.jobs:
        if job.blocked_on:
            lines.append(Text(f"{job.instance} ({job.job}) waits for {job.blocked_on}", style="yellow"))
        if job.error:
            lines.append(Text(f"{job.instance} ({job.job}): {job.error.message}", style="red"))
            if job.error.hint:
                lines.append(Text(f"  {job.error.hint}", style="dim"))
        lines += [Text(f"{job.instance}: {note}", style="yellow") for note in job.notes]
    for refusal in report.refused:
        for reason, hint in zip(refusal.reasons, refusal.hints, strict=True):
            lines.append(Text(f"{refusal.instance} was refused: {reason}", style="red"))
            lines.append(Text(f"  {hint}", style="dim"))
    return lines


def _totals(report: Report) -> Text:
    totals = report.totals
    took = report.finished_at - report.started_at if report.finished_at and report.started_at else None
    text = f"{totals.done} of {totals.jobs} done"
    if took is not None:
        text += f" in {render_duration(took)}"
    if totals.downtime_p50_s is not None:
        text += f"; downtime: median {render_duration(totals.downtime_p50_s)}, "
        text += f"99th percentile {render_duration(totals.downtime_p99_s)}"
    if totals.parked:
        text += f"; {totals.parked} parked, waiting for you"
    style = "bold green" if totals.done == totals.jobs and not report.refused else "bold yellow"
    return Text(text, style=style)


def exports(manifests: Sequence[Manifest], where: str) -> RenderableType:
    """What an archive holds, by instance and time."""
    table = Table(box=SIMPLE_HEAD)
    for heading in ("instance", "project", "from", "made at (UTC)", "size", "snapshots", "format", "file"):
        table.add_column(heading, overflow="fold")
    for each in sorted(manifests, key=lambda manifest: (manifest.project, manifest.instance, manifest.created_at)):
        kind = f"optimized for {each.format.driver}" if each.format.optimized else "portable"
        made = each.created_at.strftime("%Y-%m-%d %H:%M")
        table.add_row(
            each.instance, each.project, each.source, made, render_size(each.size), str(len(each.snapshots)), kind,
            each.file,
        )  # fmt: skip
    return table if manifests else Text(f"{where} has no exports")


def plans_table(reports: list[Report]) -> RenderableType:
    """All plans, newest first."""
    table = Table(box=SIMPLE_HEAD)
    for heading in ("plan", "name", "made at (UTC)", "state", "jobs", "done", "failed", "parked"):
        table.add_column(heading)
    for report in reports:
        totals = report.totals
        counts = (totals.jobs, totals.done, totals.failed, totals.parked)
        state = Text(report.state, style=_COLOURS.get(report.state, ""))
        made = report.created_at.strftime("%Y-%m-%d %H:%M")
        table.add_row(report.plan, escape(report.name), made, state, *(str(count) for count in counts))
    if not reports:
        return Text("no plans yet; `herder evacuate SOURCE: --to TARGET:` makes one")
    return Group(table, *_set_aside(reports))
