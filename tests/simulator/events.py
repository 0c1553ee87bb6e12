"""The event stream of one server: who listens gets what happens from then on; nothing is repeated."""

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tests.simulator.http import Json
from tests.simulator.operations import Operation

if TYPE_CHECKING:
    from tests.simulator.server import Server


class Subscription:
    """One listener. ``queue`` holds events not read yet; ``is_open`` is False when the server has hung up."""

    def __init__(self, types: frozenset[str], project: str | None) -> None:
        self.types = types
        self.project = project
        self.queue: deque[Json] = deque()
        self.is_open = True

    def wants(self, kind: str, project: str) -> bool:
        return kind in self.types and self.project in (None, project)


class Events:
    """Those who listen to a server."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._listeners: list[Subscription] = []

    @property
    def has_listeners(self) -> bool:
        return bool(self._listeners)

    def subscribe(self, query: Mapping[str, str]) -> Subscription:
        """Listen, as the query of ``/1.0/events`` says."""
        types = frozenset((query.get("type") or "operation,lifecycle,logging").split(","))
        everything = query.get("all-projects") == "true"
        made = Subscription(types, None if everything else query.get("project") or "default")
        self._listeners.append(made)
        return made

    def unsubscribe(self, subscription: Subscription) -> None:
        if subscription in self._listeners:
            self._listeners.remove(subscription)

    def hang_up(self) -> None:
        """The daemon is gone."""
        for each in self._listeners:
            each.is_open = False
        self._listeners.clear()

    def tell_operation(self, operation: Operation) -> None:
        if self._listeners:
            self._tell("operation", operation.project, operation.location, operation.record())

    def tell_lifecycle(self, action: str, project: str, path: str, context: Mapping[str, Any] | None = None) -> None:
        if self._listeners:
            suffix = "" if project == "default" else f"?project={project}"
            metadata: Json = {"action": action, "source": f"/1.0/{path}{suffix}"}
            if context:
                metadata["context"] = dict(context)
            self._tell("lifecycle", project, self._server.location, metadata)

    def _tell(self, kind: str, project: str, location: str, metadata: Json) -> None:
        event = {
            "type": kind,
            "timestamp": self._server.timestamp(),
            "location": location,
            "project": project,
            "metadata": metadata,
        }
        for each in self._listeners:
            if each.wants(kind, project):
                each.queue.append(event)
