"""Threads that take turns: one runs, all others wait, and the scheduler of ``world`` says whose turn it is.

So a step of a worker can be stopped before any of its requests, and a trial is the same whenever it is run again.
"""

import threading
from collections.abc import Callable

#: A task that does not give the baton back within this many real seconds hangs.
_HANGS_AFTER = 120.0


class Killed(BaseException):
    """The worker is dead: this passes through everything, as SIGKILL does."""


class Task:
    """A piece of work in a thread of its own, which runs only between ``resume`` and ``pause``."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self.is_over = False
        self.is_killed = False
        self.error: BaseException | None = None
        #: What it waits for, and until when at the latest; None: for nothing but its turn.
        self.ready: Callable[[], bool] | None = None
        self.deadline: float | None = None
        self._work = work
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def resume(self) -> None:
        """Let it run until it pauses or is over. Raises what it raised, but for its death."""
        self._go.release()
        if not self._back.acquire(timeout=_HANGS_AFTER):
            raise TimeoutError(f"{self.name} does not come back")
        if self.is_over:
            self._thread.join()
            if self.error is not None:
                raise self.error

    def pause(self, ready: Callable[[], bool] | None = None, deadline: float | None = None) -> None:
        """Give the baton back, from inside. Raises Killed if it is to go on no more."""
        self.ready, self.deadline = ready, deadline
        self._back.release()
        self._go.acquire()
        self.ready = self.deadline = None
        if self.is_killed:
            raise Killed

    def can_run(self, now: float) -> bool:
        """Whether what it waits for is there, or its time is up."""
        if self.ready is None and self.deadline is None:
            return True
        return (self.deadline is not None and now >= self.deadline) or (self.ready is not None and self.ready())

    def kill(self) -> None:
        """Let it die where it stands."""
        self.is_killed = True
        if not self.is_over:
            self.resume()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self.is_killed:
                self._work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - told to the scheduler
            self.error = error
        self.is_over = True
        self._back.release()
