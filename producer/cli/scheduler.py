"""``herder scheduler FILE...`` runs backup policies when they are due, and ``herder backup check|status FILE...``."""

import itertools
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import redis
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from common.config import Settings, load_settings
from common.domain.backup import BackupPolicy, with_drills
from common.domain.errors import InputError
from common.logs import event, set_up
from common.lxd.remotes import Remotes
from common.store.codec import to_plain
from common.store.connect import connect
from common.store.keys import Keys
from common.store.runs import RunStore
from producer import ages, drilling
from producer.backup import check_archives, generations, plans_for
from producer.cli import exits, options, render
from producer.cli.backup import app as backup
from producer.cli.exits import EXIT_STATUS, reports_errors
from producer.policyfile import read_all
from producer.schedule import all_due_after
from producer.scheduler import Scheduler, jitter_of, log
from producer.session import load_remotes, open_session

if TYPE_CHECKING:
    from producer.monitor import Monitor

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="The files with the policies.")]

#: Seconds between two looks at what is due.
_INTERVAL = 5.0
_NEXT_RUNS = 3


@dataclass
class Watched:
    """The policies of some files, read again when one changes; what cannot be read leaves them as they were."""

    files: list[Path]
    tell: Callable[[str], None]
    _seen: list[int] = field(default_factory=list)
    _policies: tuple[BackupPolicy, ...] = ()

    def __call__(self) -> tuple[BackupPolicy, ...]:
        """As they are now. Raises InputError if they cannot be read at first."""
        changed = [file.stat().st_mtime_ns if file.exists() else 0 for file in self.files]
        if changed != self._seen:
            is_first, self._seen = not self._seen, changed
            try:
                self._policies = read_all(self.files)
            except InputError as error:
                if is_first:
                    raise
                self.tell(f"the policies stay as they were: {error.message}")
        return self._policies


@reports_errors
def scheduler(files: Files) -> None:
    """Run backup policies when they are due, until told to stop. Any number of schedulers may run; one acts."""
    # Apprise takes a tenth of the start of a command, and no other one tells anybody anything.
    from producer.monitor import Messenger, Metrics, Monitor  # noqa: PLC0415

    settings, remotes = load_settings(), load_remotes()
    set_up(settings.log_level)
    policies = Watched(files, lambda reason: log.warning("policies.broken reason=%r", reason))
    policies()
    metrics, messages = Metrics(), Messenger(settings.notify)
    if settings.metrics:
        metrics.serve(settings.metrics)
    stopping = threading.Event()
    # The handler only hands over: to set an event in it would wait for itself if it came while that is waited for.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stopping.set).start())
    with open_session(with_workers=True) as session:
        runs = RunStore(connect(session.redis_url), Keys(settings.namespace))
        one = Scheduler(
            name=f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}",
            policies=lambda: with_drills(policies()),
            plans_for=lambda policy, at: (drilling.plans_for if policy.is_drill else plans_for)(
                policy, at, remotes, settings
            ),
            newest_on_targets=lambda policy: _newest_on_targets(policy, remotes, settings),
            jobs=session.jobs,
            runs=runs,
            now=lambda: datetime.now(UTC),
        )
        monitor = Monitor(
            ages_of=lambda policy: (
                [] if policy.is_drill else ages.of_policies([policy], datetime.now(UTC), remotes, settings)
            ),
            tell=messages.tell,
            jobs=session.jobs,
            runs=runs,
            metrics=metrics,
            now=lambda: datetime.now(UTC),
        )
        event(log, "scheduler.started", scheduler=one.name, policies=",".join(each.name for each in policies()))
        try:
            _turn_until(stopping, one, monitor)
        finally:
            runs.leave(one.name)


def _newest_on_targets(policy: BackupPolicy, remotes: Remotes, settings: Settings) -> datetime | None:
    """Of which run the targets tell, of backups or of drills."""
    if policy.is_drill:
        return drilling.newest_drill(generations([policy.drill_target], remotes, settings), policy)
    return ages.newest_run(ages.of_policies([policy], datetime.now(UTC), remotes, settings))


def _turn_until(stopping: threading.Event, one: Scheduler, monitor: "Monitor") -> None:
    acts = None
    while not stopping.is_set():
        try:
            if one.turn() is not acts:
                acts = not acts
                event(log, "scheduler.acts" if acts else "scheduler.stands_by", scheduler=one.name)
                monitor.metrics.acts.set(acts)
            if acts:
                monitor.look(one.policies())
        except redis.RedisError as error:
            log.warning("redis.away reason=%r", str(error))
        stopping.wait(_INTERVAL)


@backup.command("check", epilog=EXIT_STATUS)
@reports_errors
def check(files: Files, as_json: options.Json = False) -> None:
    """Read policies, and tell when they are due and how many instances they select; nothing is run."""
    remotes, settings, now = load_remotes(), load_settings(), datetime.now(UTC)
    told: list[dict[str, Any]] = []
    for policy in with_drills(read_all(files)):
        check_archives(policy)
        due = list(itertools.islice(all_due_after(policy.schedule, now), _NEXT_RUNS))
        told.append(
            {
                "policy": policy.name,
                "instances": len(ages.selected(policy, now, remotes, settings)),
                "targets": [policy.drill_target] if policy.is_drill else [target.place for target in policy.targets],
                "next": [(each + jitter_of(policy, each)).isoformat(timespec="seconds") for each in due],
            }
        )
    if as_json:
        exits.print_json(told)
        return
    rows = [
        (each["policy"], each["instances"], ", ".join(each["targets"]), "\n".join(each["next"]) or "never again")
        for each in told
    ]
    render.console.print(_table(("policy", "instances", "targets", "next runs"), rows))


@backup.command("status", epilog=EXIT_STATUS)
@reports_errors
def status(files: Files, as_json: options.Json = False) -> None:
    """How old the last good backup of each instance is, and its last drill; exit status 5 if one breaks its policy."""
    remotes, settings, now = load_remotes(), load_settings(), datetime.now(UTC)
    policies = read_all(files)
    found = ages.of_policies(policies, now, remotes, settings)
    if as_json:
        verdicts = ({"is_breached": each.is_breached, "is_unproven": each.is_unproven} for each in found)
        exits.print_json([{**to_plain(each), **told} for each, told in zip(found, verdicts, strict=True)])
    else:
        head = ("instance", "policy", "target", "last good", "age", "allowed", "last drill", "")
        render.console.print(_table(head, [_row(each) for each in found]))
        for each in found:
            if each.is_unproven:
                told = f"{each.source} on {each.target}: last drill {each.drill or 'never'}"
                render.console.print(told, markup=False)
    if any(each.is_breached or each.is_unproven for each in found):
        raise typer.Exit(exits.FOUND)


def _row(each: ages.Age) -> tuple[str, ...]:
    last = f"{each.last_good:%Y-%m-%d %H:%M}" if each.last_good else "never"
    allowed = _hours(each.rpo.total_seconds()) if each.rpo is not None else ""
    verdict = "BREACHED" if each.is_breached else "UNPROVEN" if each.is_unproven else "ok"
    age, drill = _hours(each.age.total_seconds()), each.drill.brief if each.drill else "never"
    return each.source, each.policy, each.target, last, age, allowed, drill, verdict


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for heading in head:
        table.add_column(heading, overflow="fold", no_wrap=not heading)
    for row in rows:
        table.add_row(*map(str, row))
    return table
