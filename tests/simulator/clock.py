"""Time as the simulated servers know it: virtual, moved by whoever looks, or real time in another scale.

Everything that happens later is a timer here. Timers run when somebody moves or reads the time through ``run_due``, in
their order, and each sees the time for which it was set; so a slow machine changes nothing that the servers do.
"""

import heapq
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

_EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


class Timer:
    """Something that will happen; ``cancel`` prevents it."""

    __slots__ = ("_act", "at")

    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self.at = at
        self._act: Callable[[], None] | None = act

    def cancel(self) -> None:
        self._act = None

    @property
    def is_pending(self) -> bool:
        return self._act is not None

    def fire(self) -> None:
        """Do it, unless it was cancelled or has been done."""
        act, self._act = self._act, None
        if act is not None:
            act()


class Clock:
    """What both clocks share. Whoever touches a fleet holds ``lock``; ``changed`` wakes those who wait."""

    def __init__(self, epoch: datetime) -> None:
        self.epoch = epoch
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._of_timer: float | None = None

    def _present(self) -> float:
        raise NotImplementedError

    def wait(self, done: Callable[[], bool], seconds: float | None) -> bool:
        """Let time pass until ``done`` or for so many seconds (None: for ever); whether it is done."""
        raise NotImplementedError

    def watch(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait as one who only looks on: a virtual clock is not moved, and the seconds are real."""
        raise NotImplementedError

    def now(self) -> float:
        """Seconds since the epoch; inside a timer, the time for which it was set."""
        return self._present() if self._of_timer is None else self._of_timer

    def moment(self, at: float | None = None) -> datetime:
        """A time in seconds, or now, as a date."""
        return self.epoch + timedelta(seconds=self.now() if at is None else at)

    @staticmethod
    def whole_second(at: float) -> float:
        """A time without its fraction; epochs have none."""
        return float(int(at))

    def call_at(self, at: float, act: Callable[[], None]) -> Timer:
        """Have something happen at a time; at once, if that is over, when timers run the next time."""
        timer = Timer(max(at, self.now()), act)
        heapq.heappush(self._timers, (timer.at, next(self._order), timer))
        return timer

    def call_in(self, seconds: float, act: Callable[[], None]) -> Timer:
        return self.call_at(self.now() + seconds, act)

    def run_due(self) -> None:
        """Run the timers whose time has come, and those that they set for the same time."""
        if self._of_timer is not None:
            return
        self._run_until(self._present())

    def _run_until(self, end: float) -> None:
        try:
            while self._timers and self._timers[0][0] <= end:
                at, _, timer = heapq.heappop(self._timers)
                if timer.is_pending:
                    self._of_timer = at
                    timer.fire()
        finally:
            self._of_timer = None

    def _next(self) -> float | None:
        while self._timers and not self._timers[0][2].is_pending:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None


class VirtualClock(Clock):
    """Stands still until it is moved. Who waits for something jumps from timer to timer until it has happened."""

    def __init__(self, epoch: datetime = _EPOCH) -> None:
        super().__init__(epoch)
        self._now = 0.0

    def _present(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on; what is due meanwhile happens at its time."""
        with self.lock:
            self._move_to(self._now + seconds)

    def sleep(self, seconds: float) -> None:
        """As ``time.sleep``, for code that is given one."""
        self.advance(max(0.0, seconds))

    def wait(self, done: Callable[[], bool], seconds: float | None) -> bool:
        with self.lock:
            deadline = None if seconds is None else self._now + seconds
            while not done():
                coming = self._next()
                if coming is None or (deadline is not None and coming > deadline):
                    if deadline is None:
                        raise RuntimeError("nothing will ever happen that could end this wait")
                    self._move_to(deadline)
                    return done()
                self._move_to(coming)
            return True

    def watch(self, done: Callable[[], bool], seconds: float) -> bool:
        with self.changed:
            return self.changed.wait_for(done, seconds)

    def _move_to(self, when: float) -> None:
        if self._of_timer is not None:
            raise RuntimeError("a timer cannot move the clock")
        # In steps, so that ``now`` is right for what a timer sets off.
        while (coming := self._next()) is not None and coming <= when:
            self._now = max(self._now, coming)
            self._run_until(self._now)
        self._now = max(self._now, when)
        self.changed.notify_all()


class ScaledClock(Clock):
    """Real time, ``scale`` times as fast. Its epoch is the real time at which it was made."""

    def __init__(self, scale: float = 1.0) -> None:
        now = datetime.now(UTC)
        super().__init__(now.replace(microsecond=0))
        self.scale = scale
        self._began = time.monotonic()
        self._fraction = now.microsecond / 1e6

    def _present(self) -> float:
        return self._fraction + (time.monotonic() - self._began) * self.scale

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds) / self.scale)

    def wait(self, done: Callable[[], bool], seconds: float | None) -> bool:
        with self.changed:
            deadline = None if seconds is None else self._present() + seconds
            while True:
                self.run_due()
                if done():
                    return True
                ends = [at for at in (deadline, self._next()) if at is not None]
                left = (min(ends) - self._present()) / self.scale if ends else None
                if deadline is not None and self._present() >= deadline:
                    return False
                self.changed.wait(left if left is None else max(0.0, left))

    def watch(self, done: Callable[[], bool], seconds: float) -> bool:
        return self.wait(done, seconds * self.scale)
