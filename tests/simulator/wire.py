"""A wire between source and target that a test can hold still or cut, as ``tests.lab.wire`` does with real servers."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from tests.simulator import breakage, traffic
from tests.simulator.transfer import Transfer

if TYPE_CHECKING:
    from tests.simulator.server import Server


class Wire:
    """Leads to one server under an ``address`` of its own.

    After ``hold_after`` bytes nothing flows until ``release`` or ``cut``; never more than ``limit`` bytes a second.
    """

    def __init__(self, server: "Server", *, hold_after: int | None = None, limit: int = 0) -> None:
        self.server = server
        self.limit = limit
        self.hold_after = hold_after
        self._clock = server.clock
        self._transfers: list[Transfer] = []
        self._carried = 0.0
        self.address = server.fleet.lay(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    @property
    def carried(self) -> int:
        """The bytes that came from the source."""
        with self._clock.lock:
            for each in self._transfers:
                each.settle()
            return int(self._carried + sum(each.sent for each in self._transfers))

    def is_holding(self, sent: float) -> bool:
        return self.hold_after is not None and sent > self.hold_after

    def wait_held(self, seconds: float = 30) -> None:
        """Return when the wire has stopped in the middle of the transfer."""

        def held() -> bool:
            return any(each.is_held and each.sent for each in self._transfers)

        assert self._clock.wait(held, seconds), f"the transfer was over after {self.carried} bytes, or never began"

    def release(self, *, hold_after: int | None = None) -> None:
        """Carry on, without end or until so many bytes have come."""
        with self._clock.changed:
            self._clock.run_due()
            self.hold_after = hold_after
            self._retime()
            self._clock.changed.notify_all()

    def cut(self) -> None:
        """Close every connection."""
        with self._clock.changed:
            self._clock.run_due()
            for each in list(self._transfers):
                each.fail(breakage.BROKEN, breakage.PIPE.format(each.instance.name))
            self.hold_after = None
            self._clock.changed.notify_all()

    def join(self, transfer: Transfer) -> None:
        self._transfers.append(transfer)

    def leave(self, transfer: Transfer) -> None:
        if transfer in self._transfers:
            self._transfers.remove(transfer)
            self._carried += transfer.sent

    def _retime(self) -> None:
        traffic.retime(self.server, *(end for each in self._transfers for end in (each.server, each.target)))
