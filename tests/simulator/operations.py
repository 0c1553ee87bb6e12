"""The background operations of one server: running, ended, and forgotten 5 s later."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulator.http import Json, Refused

if TYPE_CHECKING:
    from tests.simulator.server import Server

RUNNING, SUCCESS, FAILURE, CANCELLED = 103, 200, 400, 401
AFTERLIFE = 5.0
_STATUS = {RUNNING: "Running", SUCCESS: "Success", FAILURE: "Failure", CANCELLED: "Cancelled"}


@dataclass(slots=True)
class Operation:
    """One operation. ``metadata`` may be a function, for what changes all the time."""

    id: str
    description: str
    project: str
    created_at: str
    updated_at: str
    kind: str = "task"
    resources: dict[str, list[str]] = field(default_factory=dict)
    metadata: Json | None = None
    progress: Callable[[], Json] | None = None
    on_cancel: Callable[[], None] | None = None
    location: str = "none"
    status: int = RUNNING
    error: str = ""

    @property
    def is_finished(self) -> bool:
        return self.status >= SUCCESS

    def record(self) -> Json:
        """As LXD writes it."""
        metadata: Any = self.metadata
        if self.progress is not None:
            metadata = {**(metadata or {}), **self.progress()}
        return {
            "id": self.id,
            "class": self.kind,
            "description": self.description,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "status": _STATUS[self.status],
            "status_code": self.status,
            "resources": self.resources,
            "metadata": metadata,
            "may_cancel": self.on_cancel is not None and not self.is_finished,
            "err": self.error,
            "location": self.location,
        }


class Operations:
    """Those that a server remembers. A restart of the daemon makes a new, empty one."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._known: dict[str, Operation] = {}

    def begin(
        self,
        description: str,
        project: str,
        *instances: str,
        kind: str = "task",
        metadata: Json | None = None,
        on_cancel: Callable[[], None] | None = None,
        location: str | None = None,
    ) -> Operation:
        """Note that an operation on these instances (``NAME`` or ``NAME/SNAPSHOT``) has begun."""
        now = self._server.timestamp()
        suffix = "" if project == "default" else f"?project={project}"
        operation = Operation(
            id=self._server.new_id(),
            description=description,
            project=project,
            created_at=now,
            updated_at=now,
            kind=kind,
            metadata=metadata,
            on_cancel=on_cancel,
            location=location or self._server.location,
        )
        if instances:
            operation.resources = {
                "instances": [f"/1.0/instances/{name}{suffix}" for name in instances],
                "containers": [f"/1.0/containers/{name}{suffix}" for name in instances],
            }
        self._known[operation.id] = operation
        self._server.events.tell_operation(operation)
        return operation

    def end(self, operation: Operation, error: str = "", *, status: int = 0) -> None:
        """It has ended, well if there is no error. What is not known any more stays forgotten."""
        if operation.is_finished and operation.status != CANCELLED:
            return
        operation.status = status or (FAILURE if error else SUCCESS)
        operation.error = error
        operation.updated_at = self._server.timestamp()
        if operation.progress is not None:
            operation.metadata = {**(operation.metadata or {}), **operation.progress()}
            operation.progress = None
        self._server.events.tell_operation(operation)
        self._server.clock.call_in(AFTERLIFE, lambda: self.forget(operation.id))

    def forget(self, id_: str) -> None:
        """As if its afterlife were over."""
        self._known.pop(id_, None)

    def forget_all(self) -> None:
        """Forget all that have ended."""
        for operation in [each for each in self._known.values() if each.is_finished]:
            self.forget(operation.id)

    def find(self, id_: str) -> Operation | None:
        return self._known.get(id_)

    def get(self, id_: str) -> Operation:
        """Raises Refused."""
        found = self._known.get(id_)
        if found is None:
            raise Refused(404, "Operation not found")
        return found

    def running(self) -> list[Operation]:
        return [each for each in self._known.values() if not each.is_finished and each.kind != "token"]

    def of_project(self, project: str) -> list[Operation]:
        return [each for each in self._known.values() if each.project == project]

    def cancel(self, id_: str) -> None:
        """Raises Refused if it cannot be."""
        operation = self.get(id_)
        if operation.is_finished:
            raise Refused(400, "Only running operations can be cancelled")
        if operation.on_cancel is None:
            raise Refused(400, "This operation can't be cancelled")
        operation.status = CANCELLED
        operation.updated_at = self._server.timestamp()
        self._server.events.tell_operation(operation)
        operation.on_cancel()
