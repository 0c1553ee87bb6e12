"""``herder doctor``: each line a fact and, where something is wrong, a fix."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import redis
import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from common.config import Settings, config_file, load_settings
from common.domain.capabilities import missing
from common.domain.errors import HerderError
from common.domain.units import render_size
from common.lxd.connect import connect
from common.lxd.remotes import Remote, Remotes
from common.store.connect import connect as connect_redis
from common.store.jobs import JobStore
from common.store.keys import Keys
from producer.cli import exits, options, render
from producer.cli.exits import reports_errors
from producer.embedded import find_server
from producer.session import load_remotes

_MIN_REDIS = 7


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    about: str
    fact: str
    ok: bool = True
    fix: str = ""


@reports_errors
def doctor(
    servers: Annotated[list[str] | None, typer.Argument(metavar="[SERVER:]...", help="All if left out.")] = None,
    as_json: options.Json = False,
) -> None:
    """Check settings, Redis, servers, certificates and versions."""
    settings, remotes = load_settings(), load_remotes()
    chosen = [remotes.get(options.remote_of(name, remotes)) for name in servers or []] or list(remotes)
    checks = [*_about_settings(), *_about_redis(settings), *_about_remotes(remotes, chosen, settings)]
    if as_json:
        exits.print_json([asdict(check) for check in checks])
    else:
        render.console.print(_table(checks))
    if not all(check.ok for check in checks):
        raise typer.Exit(exits.NOT_ALL)


def _table(checks: list[Check]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("", "about", "fact", "fix"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[red]no[/]"
        table.add_row(mark, escape(check.about), escape(check.fact), escape(check.fix))
    return table


def _about_settings() -> Iterator[Check]:
    yield Check(about="settings", fact=str(config_file() or "no herder.toml; defaults and HERDER_* variables"))


def _about_redis(settings: Settings) -> Iterator[Check]:
    if not settings.redis_url:
        try:
            yield Check(about="redis", fact=f"embedded: {find_server()}, data in {settings.state_dir}")
        except HerderError as error:
            yield Check(about="redis", fact=error.message, ok=False, fix=error.hint)
        return
    try:
        client = connect_redis(settings.redis_url, patient=False)
        version = str(client.info("server")["redis_version"])
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "")
        append_only = client.config_get("appendonly").get("appendonly", "")
    except redis.RedisError as error:
        yield Check(
            about="redis", fact=f"{settings.redis_url}: {error}", ok=False, fix="start it, or see HERDER_REDIS_URL"
        )
        return
    workers = JobStore(client, Keys(settings.namespace)).alive_workers()
    fact = f"{len(workers)} workers alive: {', '.join(workers)}" if workers else "no worker is alive"
    yield Check(about="workers", fact=fact, ok=bool(workers), fix="" if workers else "start one with `herder worker`")
    recent = int(version.split(".", maxsplit=1)[0]) >= _MIN_REDIS
    yield Check(about="redis", fact=f"version {version}", ok=recent, fix="" if recent else "use version 7 or later")
    kept = policy == "noeviction"
    yield Check(about="redis", fact=f"maxmemory-policy {policy}", ok=kept, fix="" if kept else "set it to noeviction")
    durable = append_only == "yes"
    yield Check(about="redis", fact=f"appendonly {append_only}", ok=durable, fix="" if durable else "set it to yes")


def _about_remotes(remotes: Remotes, chosen: list[Remote], settings: Settings) -> Iterator[Check]:
    for name in remotes.shadowed:
        yield Check(about=name, fact="two client configurations have a remote of this name; the first counts")
    for remote in chosen:
        yield from _about_server(remote, settings)


def _about_server(remote: Remote, settings: Settings) -> Iterator[Check]:
    if remote.address.startswith("unix://") and not Path(remote.address.removeprefix("unix://")).exists():
        yield Check(about=remote.name, fact=f"there is no server at {remote.address} on this machine")
        return
    try:
        client = connect(remote, connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout)
        info = client.info()
    except HerderError as error:
        yield Check(about=remote.name, fact=error.message, ok=False, fix=error.hint or "see that the server is up")
        return
    yield Check(about=remote.name, fact=f"{info.product} {info.version} at {remote.address}")
    if not info.trusted:
        fix = f"`lxc config trust add` there, then add {remote.name} again with the token"
        yield Check(about=remote.name, fact="it does not trust our certificate", ok=False, fix=fix)
        return
    for capability, lacking in missing(info):
        yield Check(
            about=remote.name,
            fact=f"cannot {capability.name}: lacks {', '.join(lacking)}",
            ok=not capability.is_required,
            fix="upgrade the server" if capability.is_required else "",
        )
    if not info.addresses:
        fix = f"`lxc config set {remote.name}: core.https_address=[::]:8443`, or other servers cannot reach it"
        yield Check(about=remote.name, fact="listens on no network address", ok=False, fix=fix)
    for pool in client.pools():
        yield Check(about=remote.name, fact=f"pool {pool.name} ({pool.driver}): {render_size(pool.free)} free")
