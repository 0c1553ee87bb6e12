"""``python -m tests.integration.played_worker``: a real worker process whose steps are played.

Everything but the steps is what ``python -m workers`` runs: broker, keeper, leases, signals. Leases and visibility are
short, so that what a death leaves behind is found soon. A step leaves its name in ``NS:played:JOB``.
"""

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis

import common.store.connect
import common.store.jobs
import common.store.scripts
import workers.broker
import workers.keeper
import workers.runner
from common.domain.job import Outcome
from tests.integration.stage import STEP_NAMES
from workers.__main__ import main
from workers.steps.context import Context

LEASE = timedelta(seconds=1)
VISIBILITY_MS = "1000"
STEP_SECONDS = 0.02


def play(name: str, client: "Redis", namespace: str) -> Callable[[Context], Outcome]:
    """A step that takes a moment."""

    def step(ctx: Context) -> Outcome:
        ctx.confirm_fence()
        client.rpush(f"{namespace}:played:{ctx.job.id}", name)
        time.sleep(STEP_SECONDS)
        if name == "stop_source":
            return Outcome.completed(down_at=datetime.now(UTC).isoformat())
        return Outcome.completed()

    return step


def hurry() -> None:
    """Shorten everything that a death is found by."""
    workers.broker.HEARTBEAT_TIMEOUT_MS = 2000
    workers.keeper._MAINTENANCE = 0.5
    common.store.jobs.LEASE = LEASE
    setattr(workers.keeper, "LEASE", LEASE)  # noqa: B010 - it is imported there by name
    prepare = common.store.scripts.Scripts.__init__

    def prepare_hurried(self: Any, client: Any, namespace: str) -> None:
        prepare(self, client, namespace)
        hurried = self._prelude.replace("VISIBILITY = 15000", f"VISIBILITY = {VISIBILITY_MS}")
        assert hurried != self._prelude
        self._prelude = hurried

    common.store.scripts.Scripts.__init__ = prepare_hurried  # type: ignore[method-assign]


if __name__ == "__main__":
    hurry()
    own = common.store.connect.connect(os.environ["HERDER_REDIS_URL"])
    namespace = os.environ["HERDER_NAMESPACE"]
    steps = {name: play(name, own, namespace) for name in STEP_NAMES}
    setattr(workers.runner, "STEPS", steps)  # noqa: B010 - it is imported there by name
    sys.exit(main())
