"""A server's background operation, and which one a job waits for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

SUCCESS, FAILURE, CANCELLED = 200, 400, 401
#: Our own code for an operation that its server no longer knows: it ended, nobody saw how.
FORGOTTEN = 404


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation as a server reports it.

    ``status_code``: 103 Running, 105 Pending, 200 Success, 400 Failure, 401 Cancelled. ``metadata`` may hold the
    secrets of a migration: never log it. ``location`` is the member of a cluster that carries it out.
    """

    id: str
    status_code: int
    description: str = ""
    error: str = ""
    may_cancel: bool = False
    resources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    created_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    location: str = ""

    @property
    def instances(self) -> frozenset[str]:
        """Names of the instances that it is about, also of one whose snapshot it is about.

        From paths like ``/1.0/instances/NAME/snapshots/SNAPSHOT``; LXD lists containers under their old kind too.
        """
        paths = (*self.resources.get("instances", ()), *self.resources.get("containers", ()))
        return frozenset(path.split("/")[3] for path in paths)

    @property
    def is_finished(self) -> bool:
        return self.status_code >= SUCCESS

    @property
    def is_forgotten(self) -> bool:
        return self.status_code == FORGOTTEN

    @property
    def succeeded(self) -> bool:
        return self.status_code == SUCCESS


@dataclass(frozen=True, kw_only=True)
class OperationRef:
    """Which operation, on which remote. ``project`` finds it in listings, which show one project at a time."""

    remote: str
    id: str
    project: str = "default"
