"""``python -m workers``: one worker process. Started by ``herder worker`` and by single-machine commands."""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import uuid
from pathlib import Path

import dramatiq
import redis
import tenacity

from common.config import Settings, load_settings
from common.domain.errors import HerderError
from common.logs import set_up
from common.lxd.remotes import Remotes
from common.store.connect import connect
from common.store.jobs import JobStore
from common.store.keys import Keys
from common.store.operations import OperationStore
from workers.actors import declare_actors
from workers.broker import build_broker
from workers.keeper import Keeper
from workers.listener import Listeners
from workers.prober import Prober
from workers.runner import Runner
from workers.servers import Servers

log = logging.getLogger("herder.worker")

#: Blocked in all threads and waited for by the first: from the first job on, a stop gives it back in order. A handler
#: that sets a ``threading.Event`` would wait for itself for ever if it came while the same thread entered ``wait``.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """Run until SIGTERM or SIGINT: then give unstarted messages back and leave."""
    arguments = _parse()
    try:
        settings = load_settings(**({"redis_url": arguments.redis} if arguments.redis else {}))
        set_up(settings.log_level)
        return _serve(settings, with_parent=arguments.with_parent)
    except HerderError as error:
        print(f"herder worker: {error.message}", file=sys.stderr)  # noqa: T201 - before logging may be set up
        return 2


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="herder worker", description=__doc__)
    parser.add_argument("--redis", help="Redis to use instead of the configured one")
    parser.add_argument("--with-parent", action="store_true", help="end when the process that started this one ends")
    return parser.parse_args()


def _serve(settings: Settings, *, with_parent: bool) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    parent = os.getppid() if with_parent else None
    keys = Keys(settings.namespace)
    jobs = JobStore(connect(settings.redis_url), keys)
    operations = OperationStore(connect(settings.redis_url), keys, jobs)
    servers = Servers(Remotes.load(os.environ, Path.home()), settings)
    # The other threads are for jobs that hold an instance down.
    streams = threading.BoundedSemaphore(max(1, settings.threads // 2))
    runner = Runner(jobs=jobs, operations=operations, client_of=servers, streams=streams)
    # Its client fails fast: a consumer that waits for Redis sends no heartbeat.
    broker = build_broker(connect(settings.redis_url, patient=False), keys.dramatiq)
    declare_actors(broker, runner.advance)
    worker = dramatiq.Worker(broker, worker_threads=settings.threads)
    worker.start()
    _wait_until_running(worker)
    name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
    listeners = Listeners(operations, servers, name)
    prober = Prober(jobs.servers, servers, name)
    keeper = Keeper(broker, worker, jobs, runner.held, listeners, prober, parent)
    keeper_thread = threading.Thread(target=keeper.run, name="keeper", daemon=True)
    keeper_thread.start()
    signal.sigwait(_STOP_SIGNALS)
    keeper.stopping.set()
    keeper_thread.join()
    try:
        listeners.give_up()
        prober.give_up()
    except redis.RedisError as error:
        log.warning("leases.not_given_up reason=%s", error)
    worker.stop(timeout=10_000)
    return 0


def _wait_until_running(worker: dramatiq.Worker) -> None:
    """A thread that is told to stop before it has said that it runs would run on, and a stop would wait for it."""
    threads = [*worker.consumers.values(), *worker.workers]
    tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda all_run: not all_run),
        wait=tenacity.wait_fixed(0.01),
        stop=tenacity.stop_after_delay(5),
        retry_error_callback=lambda _: None,
    )(lambda: all(thread.running for thread in threads))  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
