"""The command group and nothing else."""

from importlib.metadata import version
from typing import Annotated

import typer

from producer.cli import (
    archive,
    backup,
    control,
    copy,
    doctor,
    evacuate,
    janitor,
    move,
    plan,
    recover,
    remote,
    scheduler,
    volume,
    watch,
    worker,
)
from producer.cli.exits import EXIT_STATUS


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(version("herder"))
        raise typer.Exit


app = typer.Typer(
    name="herder",
    help="Move LXD and Incus instances in bulk: planned, parallel, resumable, with a short downtime.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

for command in (
    plan.plan,
    plan.run,
    evacuate.evacuate,
    evacuate.restore,
    move.move,
    copy.copy,
    archive.export,
    watch.status,
    watch.watch,
    watch.report,
    control.cancel,
    control.undo,
    control.retry,
    control.pause,
    control.resume,
    recover.recover,
    worker.worker,
    scheduler.scheduler,
    doctor.doctor,
    janitor.janitor,
):
    app.command(epilog=EXIT_STATUS)(command)
app.command("import", epilog=EXIT_STATUS)(archive.import_)
app.add_typer(volume.app, name="volume")
app.add_typer(backup.app, name="backup")
app.add_typer(remote.app, name="remote")


@app.callback()
def herder(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, help="Print the version and leave.", callback=_print_version),
    ] = False,
) -> None:
    """Move LXD and Incus instances in bulk: planned, parallel, resumable, with a short downtime."""


def main() -> None:
    """Entry point of the ``herder`` command."""
    app()
