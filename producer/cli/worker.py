"""``herder worker``: a worker process on this host, for a Redis that several hosts share."""

import os
import sys

from common.config import load_settings
from common.domain.errors import InputError
from producer.cli.exits import reports_errors


@reports_errors
def worker() -> None:
    """Run one worker process until it is told to stop. Exit code 75 asks its supervisor to start it again."""
    if not load_settings().redis_url:
        raise InputError(
            "herder worker needs a Redis that the producers use too",
            hint="set HERDER_REDIS_URL; without it, commands start their own workers",
        )
    os.execv(sys.executable, [sys.executable, "-m", "workers"])  # noqa: S606 - the same interpreter, no shell
