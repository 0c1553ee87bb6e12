"""``herder janitor``: what broken and foreign runs have left on the servers, and with --fix, away with it."""

import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from common.config import load_settings
from common.domain.errors import InputError
from common.lxd.remotes import Remotes
from producer.cli import exits, options, render
from producer.cli.exits import reports_errors
from producer.debris.finding import lost_jobs
from producer.debris.scene import MEANINGS, Debris, Kind, Scene
from producer.janitor import Janitor, Mended, has_server
from producer.session import Session, load_remotes, open_session

#: How many jobs a notice names.
_SHOWN = 5


@reports_errors
def janitor(
    servers: Annotated[list[str] | None, typer.Argument(metavar="[SERVER:]...", help="All if left out.")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what was found; asks for each kind.")] = False,
    kind: Annotated[
        list[Kind] | None,
        typer.Option("--kind", help="Only this kind, several times for several. --fix leaves retired unless named."),
    ] = None,
    stuck_after: Annotated[
        str, typer.Option("--stuck-after", help="Age of a transfer that no job waits for from which it is stuck.")
    ] = "30m",
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Find what broken or foreign runs have left on the servers, with proof; remove it only with --fix."""
    if fix and as_json and not yes:
        raise InputError("--json shows nothing that you could agree to", hint="give --yes, or leave --json out")
    patience = options.duration(stuck_after, "--stuck-after")
    remotes = load_remotes()
    chosen = _chosen(servers or [], remotes)
    kinds = tuple(kind or Kind)
    with open_session(with_workers=False) as session:
        worker = Janitor(remotes, load_settings(), session.jobs, session.operations, patience)
        scene = worker.look(chosen)
        places = {scene.aliases.get(name, name) for name in chosen}
        found = [piece for piece in worker.find(scene) if piece.server in places and piece.kind in kinds]
        notice = _notice(scene, session)
        if not as_json:
            _show(scene, found, notice)
        mended: list[Mended] = []
        if fix:
            mended = _mend(worker, scene, _fixable(found, kind or []), yes=yes, tell=None if as_json else _tell)
    if as_json:
        exits.print_json(_as_json(scene, found, mended, notice))
    _leave(scene, chosen, found, mended, counts_retired=Kind.RETIRED in (kind or []))


def _chosen(names: list[str], remotes: Remotes) -> list[str]:
    named = [options.remote_of(name, remotes) for name in names]
    return list(dict.fromkeys(named)) or [remote.name for remote in remotes if has_server(remote)]


def _fixable(found: Iterable[Debris], named: list[Kind]) -> list[Debris]:
    """What --fix is about: a retired source is what a good run leaves, so that it must be asked for by name."""
    return [piece for piece in found if piece.is_mendable and (piece.kind is not Kind.RETIRED or piece.kind in named)]


def _notice(scene: Scene, session: Session) -> str:
    """Everything looks left over to a Redis that has lost its jobs."""
    lost = lost_jobs(scene)
    if not lost:
        return ""
    more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
    what = f"instances have marks of jobs that it does not know: {', '.join(lost[:_SHOWN])}{more}"
    asked = "Redis was asked" if session.jobs.plans() else "Redis knows no plan at all"
    return f"{asked}, and {what}. If it was lost, try `herder recover` first; if theirs is another Redis, use that one"


def _mend(
    worker: Janitor, scene: Scene, pieces: list[Debris], *, yes: bool, tell: Callable[[Mended], None] | None
) -> list[Mended]:
    mended: list[Mended] = []
    for kind in Kind:
        of_kind = [piece for piece in pieces if piece.kind is kind]
        if not of_kind or not (yes or _agrees(kind, of_kind)):
            continue
        for piece in of_kind:
            mended.append(worker.mend(scene, piece))
            if tell:
                tell(mended[-1])
    return mended


def _agrees(kind: Kind, pieces: list[Debris]) -> bool:
    """Ask the person at the terminal. Raises InputError if there is none."""
    if not sys.stdin.isatty():
        raise InputError("there is nobody to ask", hint="give --yes")
    calls = sum(len(piece.calls) for piece in pieces)
    return typer.confirm(f"{kind}: mend {len(pieces)} with {calls} call{'s' if calls > 1 else ''}?", err=True)


def _show(scene: Scene, found: list[Debris], notice: str) -> None:
    for name, why in scene.unseen.items():
        exits.errors.print(f"[yellow]{escape(name)} was not looked at:[/] {escape(why)}")
    if notice:
        exits.errors.print(f"[yellow]{escape(notice)}[/]")
    for kind in Kind:
        of_kind = [piece for piece in found if piece.kind is kind]
        if of_kind:
            render.console.print(_table(kind, of_kind))
    if not found:
        render.console.print(f"nothing was left on {', '.join(scene.fleet.servers) or 'any server'}")


def _table(kind: Kind, found: list[Debris]) -> Table:
    title = f"{kind}: {MEANINGS[kind]}"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("what", overflow="fold")
    table.add_column("proof, and what would be done", overflow="fold")
    for piece in found:
        project = "" if piece.project == "default" else f" (project {piece.project})"
        table.add_row(Text(f"{piece.server}:{piece.subject}{project}"), _about(piece))
    return table


def _about(piece: Debris) -> RenderableType:
    lines = [Text(piece.proof)]
    lines += [Text(str(call), style="dim" if piece.held else "cyan") for call in piece.calls]
    if piece.held:
        lines.append(Text(f"left alone: {piece.held}", style="yellow"))
    elif piece.risk:
        lines.append(Text(f"risk: {piece.risk}", style="dim"))
    if piece.hint:
        lines.append(Text(f"by hand: {piece.hint}", style="dim"))
    return Group(*lines)


def _tell(mended: Mended) -> None:
    piece = mended.debris
    result = f"[red]left[/]: {escape(mended.left)}" if mended.left else "[green]mended[/]"
    render.console.print(f"{piece.kind} {escape(f'{piece.server}:{piece.subject}')} {result}")


def _as_json(scene: Scene, found: list[Debris], mended: list[Mended], notice: str) -> dict[str, Any]:
    ended = {each.debris.place: each for each in mended}
    return {
        "servers": list(scene.fleet.servers),
        "unseen": dict(scene.unseen),
        "notice": notice,
        "found": [_piece_as_json(piece, ended.get(piece.place)) for piece in found],
    }


def _piece_as_json(piece: Debris, mended: Mended | None) -> dict[str, Any]:
    return {
        "kind": piece.kind.value,
        "server": piece.server,
        "project": piece.project,
        "subject": piece.subject,
        "job": piece.job,
        "proof": piece.proof,
        "calls": [str(call) for call in piece.calls],
        "risk": piece.risk,
        "held": piece.held,
        "hint": piece.hint,
        "mended": mended is not None and not mended.left,
        "left": mended.left if mended else "",
    }


def _leave(scene: Scene, chosen: list[str], found: list[Debris], mended: list[Mended], *, counts_retired: bool) -> None:
    """With the exit code of the result."""
    if any(name in scene.unseen for name in chosen):
        raise typer.Exit(exits.UNREACHABLE)
    settled = {each.debris.place for each in mended if not each.left}
    counted = [piece for piece in found if piece.kind is not Kind.RETIRED or counts_retired]
    if any(piece.place not in settled for piece in counted):
        raise typer.Exit(exits.FOUND)
