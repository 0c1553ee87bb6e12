"""Sees, as long as a story lasts, that no instance ever runs on two servers."""

import threading
from types import TracebackType
from typing import Self

from tests.acceptance import world
from tests.lab import LabError, LabServer


class NeverTwice:
    """Looks at source and target again and again while the block runs; leaving it fails if anything ran on both.

    The source is asked first: an instance that it still calls running may have stopped and run on the target when that
    is asked. So it is an error only if the source, asked once more, still says so.
    """

    def __init__(self, source: LabServer, target: LabServer) -> None:
        self.looks = 0
        self.twice: set[str] = set()
        self._source, self._target = source, target
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        assert not self.twice, f"{', '.join(sorted(self.twice))} ran on {self._source.name} and {self._target.name}"
        assert self.looks, "nobody has looked"

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            try:
                self.twice |= self._on_both() and self._on_both()
            except LabError:  # a server that a story has killed tells nothing
                continue
            self.looks += 1

    def _on_both(self) -> set[str]:
        return _running(self._source) & _running(self._target)


def _running(server: LabServer) -> set[str]:
    return {f"{i['project']}/{i['name']}" for i in world.listing(server) if i["status"] == "Running"}
