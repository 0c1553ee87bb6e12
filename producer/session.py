"""What a command works with: settings, remotes and the stores, on our own Redis or a configured one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from common.config import Settings, load_settings
from common.domain.errors import ServerUnreachable
from common.lxd.remotes import Remotes
from common.store.connect import connect
from common.store.events import EventStore
from common.store.jobs import JobStore
from common.store.keys import Keys
from common.store.operations import OperationStore
from producer.embedded import Embedded


@dataclass(frozen=True, kw_only=True)
class Session:
    """The stores of one namespace. ``redis_url`` is the server in use, configured or embedded.

    ``has_own_workers``: worker processes run as long as this command does.
    """

    settings: Settings
    redis_url: str
    has_own_workers: bool
    jobs: JobStore
    operations: OperationStore
    events: EventStore


def load_remotes() -> Remotes:
    """The remotes of the ``lxc`` and ``incus`` clients' own configuration. Raises InputError."""
    return Remotes.load(os.environ, Path.home())


@contextmanager
def open_session(*, with_workers: bool) -> Iterator[Session]:
    """The stores, ready. In single-machine mode Redis, and on request workers, run while the block does.

    Raises InputError, EmbeddedError and, if a configured Redis does not answer, ServerUnreachable.
    """
    settings = load_settings()
    if settings.redis_url:
        yield _session(settings, settings.redis_url, has_own_workers=False)
        return
    with Embedded(settings, settings.workers if with_workers else 0).running() as embedded:
        yield _session(settings, embedded.url, has_own_workers=with_workers)


def _session(settings: Settings, url: str, *, has_own_workers: bool) -> Session:
    client, keys = connect(url), Keys(settings.namespace)
    try:
        client.ping()
    except redis.RedisError as error:
        raise ServerUnreachable(f"Redis at {url} does not answer: {error}", hint="see HERDER_REDIS_URL") from error
    jobs = JobStore(client, keys)
    return Session(
        settings=settings,
        redis_url=url,
        has_own_workers=has_own_workers,
        jobs=jobs,
        operations=OperationStore(client, keys, jobs),
        events=EventStore(client, keys),
    )
