"""``herder remote``: the servers that we know, in the ``lxc`` client's own configuration."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from common.domain.errors import InputError
from common.lxd.remotes import configuration_directory
from common.lxd.trust import add_remote
from producer.cli import exits, options, render
from producer.cli.exits import reports_errors
from producer.session import load_remotes

app = typer.Typer(no_args_is_help=True, help="The servers that herder and the lxc client know.")


@app.command("add")
@reports_errors
def add(
    name: Annotated[str, typer.Argument(help="What to call the server.")],
    address: Annotated[str, typer.Argument(help="HOST, https://HOST:8443, or a trust token made on the server.")],
    token: Annotated[str, typer.Option("--token", help="A trust token, if ADDRESS is not one.")] = "",
    password: Annotated[str, typer.Option("--password", help="The server's trust password.")] = "",
    accept_certificate: Annotated[
        bool, typer.Option("--accept-certificate", help="Do not ask whether the fingerprint is right.")
    ] = False,
    protocol: Annotated[str, typer.Option("--protocol", help="lxd or incus.")] = "lxd",
) -> None:
    """Add a server: pin its certificate and have ours trusted. `lxc` can use it at once."""
    if name in {remote.name for remote in load_remotes()}:
        raise InputError(
            f"there is a remote {name} already", hint="`lxc remote remove` it first, or choose another name"
        )

    def confirm(fingerprint: str) -> bool:
        render.console.print(f"certificate fingerprint of {name}: {fingerprint}")
        if not accept_certificate and not sys.stdin.isatty():
            raise InputError("there is nobody to ask whether this is right", hint="give --accept-certificate")
        return accept_certificate or typer.confirm("Is it the server's?")

    is_token = not token and len(address) > 100 and "." not in address and ":" not in address  # noqa: PLR2004
    directory = configuration_directory(os.environ, Path.home())
    info = add_remote(
        directory,
        name,
        "" if is_token else address,
        confirm=confirm,
        token=address if is_token else token,
        password=password,
        protocol=protocol,
    )
    render.console.print(
        f"{name} is {info.product} {info.version}, and it trusts us; `herder doctor {name}:` checks it"
    )


@app.command("list")
@reports_errors
def list_remotes(as_json: options.Json = False) -> None:
    """List the servers, their addresses and where their configuration is."""
    remotes = load_remotes()
    if as_json:
        exits.print_json([{"name": r.name, "address": r.address, "project": r.project} for r in remotes])
        return
    table = Table(box=SIMPLE_HEAD)
    for heading in ("name", "address", "project", "from"):
        table.add_column(heading)
    for remote in remotes:
        table.add_row(remote.name, remote.address, remote.project, str(remote.directory))
    render.console.print(table)
