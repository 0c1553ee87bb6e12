"""Which function answers which request. A pattern is a path with ``*`` for each part that is given to the function."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulator.http import Refused, Request, Response

if TYPE_CHECKING:
    from tests.simulator.server import Server

Answerer = Callable[..., Response]


class Router:
    """Filled by ``on`` when the modules of the endpoints are imported."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, int, str], list[tuple[tuple[str, ...], Answerer]]] = {}

    def on(self, method: str, pattern: str) -> Callable[[Answerer], Answerer]:
        """Let a function ``(server, request, *parts)`` answer this method and pattern."""
        shape = tuple(pattern.split("/")) if pattern else ()

        def register(answerer: Answerer) -> Answerer:
            key = (method, len(shape), shape[0] if shape else "")
            self._routes.setdefault(key, []).append((shape, answerer))
            return answerer

        return register

    def answer(self, server: "Server", request: Request) -> Response:
        """Raises Refused, also for what LXD does not have."""
        parts = request.parts
        for shape, answerer in self._routes.get((request.method, len(parts), parts[0] if parts else ""), ()):
            if all(want in ("*", have) for want, have in zip(shape, parts, strict=True)):
                return answerer(server, request, *(p for want, p in zip(shape, parts, strict=True) if want == "*"))
        raise Refused(404, "not found")


router = Router()
