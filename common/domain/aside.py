"""A server that does not answer: failures in a row, and from the third one on it is set aside.

Counted by ``common.store.servers``, respected by ``workers.runner``, ended by ``workers.prober``, told by
``producer.report``.
"""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Requests to one server that got no answer: how many in a row, since when (UTC), and what the last one met.

    ``is_set_aside``: nobody asks this server any more, but for the one worker that probes it.
    """

    remote: str
    failures: int
    since: datetime
    reason: str
    is_set_aside: bool

    def __str__(self) -> str:
        return f"server {self.remote} unreachable since {self.since:%Y-%m-%d %H:%M:%S} UTC"
