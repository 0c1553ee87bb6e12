"""Faults as data: what goes wrong, on which server, and when.

Injected by ``Fleet.inject``; those of requests are applied by ``Fleet.exchange``.
Each fault that has happened is counted by its kind in ``Faults.happened`` and stands in the server's history.
"""

import re
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tests.simulator import breakage, daemon, storage
from tests.simulator.http import Refused, Request, Response

if TYPE_CHECKING:
    from tests.simulator.fleet import Fleet
    from tests.simulator.server import Server
    from tests.simulator.transfer import Transfer


class Way(StrEnum):
    """How a connection breaks for the client."""

    REFUSED = "connection refused"
    CUT = "connection reset"
    SILENT = "no answer in time"


class Broken(Exception):
    """There is no answer. ``half`` is the part of a response that came before the connection broke."""

    def __init__(self, way: Way, half: str = "") -> None:
        super().__init__(way.value)
        self.way = way
        self.half = half


class Kind(StrEnum):
    """What can go wrong. The first group needs a ``request``; it happens to that request."""

    REFUSE = "refuse"  # the connection is refused, nothing has happened
    BUSY = "busy"  # HTTP 503
    DELAY = "delay"  # the request arrives ``seconds`` later
    CUT_BEFORE = "cut-before"  # the connection breaks, nothing has happened
    CUT_AFTER = "cut-after"  # the connection breaks, but what was asked is being done
    HALF_RESPONSE = "half-response"  # the same, after half of the answer
    SILENT_AFTER = "silent-after"  # the same, by a time-out
    # These happen to the server: at once, at a time, at a request, or when a transfer has carried so many bytes.
    KILL = "kill"  # its daemon is killed, and started again after ``seconds``
    FREEZE = "freeze"  # it hangs for ``seconds``
    CUT_TRANSFERS = "cut-transfers"  # connections between servers break
    DISK_FULL = "disk-full"  # its pool is full, for ``seconds``
    FORGET = "forget"  # it forgets the operations that have ended
    ROTATE = "rotate"  # it has another certificate from now on
    STOP_HANGS = "stop-hangs"  # ``instance`` does not obey a request to stop, for ``seconds``; 0: for ever
    START_FAILS = "start-fails"  # the next ``times`` starts of ``instance`` fail


_OF_REQUESTS = frozenset(
    {Kind.REFUSE, Kind.BUSY, Kind.DELAY, Kind.CUT_BEFORE, Kind.CUT_AFTER, Kind.HALF_RESPONSE, Kind.SILENT_AFTER}
)
_AFTER = frozenset({Kind.CUT_AFTER, Kind.HALF_RESPONSE, Kind.SILENT_AFTER})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    ``request`` is a regular expression that is searched in ``METHOD /path``; the ``nth`` match is hit, and so are
    the next ones until ``times`` are. With ``after_effect`` a fault of the server comes when that request was answered.
    ``at`` is a time in seconds from now, ``at_bytes`` a place in the next transfer from or to the server.
    """

    kind: Kind
    server: str
    request: str = ""
    nth: int = 1
    times: int = 1
    after_effect: bool = False
    at: float | None = None
    at_bytes: int | None = None
    seconds: float = 0.0
    instance: str = ""


class _Armed:
    """A fault that waits for its request."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.pattern = re.compile(fault.request)
        self.seen = 0

    def hits(self, line: str) -> bool:
        if not self.pattern.search(line):
            return False
        self.seen += 1
        return self.fault.nth <= self.seen < self.fault.nth + self.fault.times

    @property
    def is_spent(self) -> bool:
        return self.seen >= self.fault.nth + self.fault.times - 1


class Faults:
    """Those of a fleet that have not happened yet, and how many have."""

    def __init__(self, fleet: "Fleet") -> None:
        self._fleet = fleet
        self._armed: dict[str, list[_Armed]] = {}
        self.happened: Counter[str] = Counter()

    def add(self, fault: Fault) -> None:
        """Raises ValueError for a fault of requests that names none."""
        if fault.kind in _OF_REQUESTS and not fault.request:
            raise ValueError(f"{fault.kind} needs a request")
        server = self._fleet.servers[fault.server]
        if fault.request:
            self._armed.setdefault(fault.server, []).append(_Armed(fault))
        elif fault.at_bytes is not None:
            self._in_transfer(server, fault)
        elif fault.at is not None:
            self._fleet.clock.call_in(fault.at, lambda: self._strike(server, fault))
        else:
            self._strike(server, fault)

    def clear(self) -> None:
        """No armed fault happens any more; what has happened lasts as long as it was to last."""
        self._armed.clear()

    def before(self, server: "Server", request: Request) -> list[Fault]:
        """Apply what comes before the request has an effect; returns what is left for after. Raises Broken, Refused."""
        armed = self._armed.get(server.name)
        if not armed:
            return []
        line = f"{request.method} {request.path}"
        hit = [each.fault for each in armed if each.hits(line)]
        self._armed[server.name] = [each for each in armed if not each.is_spent]
        later = []
        for fault in hit:
            if fault.kind in _AFTER or fault.after_effect:
                later.append(fault)
            elif fault.kind in _OF_REQUESTS:
                self._count(server, fault)
                self._break(fault)
            else:
                self._strike(server, fault)
        return later

    def after(self, server: "Server", _request: Request, response: Response, faults: list[Fault]) -> Response:
        """Apply what comes after the effect. Raises Broken."""
        for fault in faults:
            if fault.kind not in _OF_REQUESTS:
                self._strike(server, fault)
                continue
            self._count(server, fault)
            if fault.kind is Kind.CUT_AFTER:
                raise Broken(Way.CUT)
            if fault.kind is Kind.SILENT_AFTER:
                raise Broken(Way.SILENT)
            if fault.kind is Kind.HALF_RESPONSE:
                raise Broken(Way.CUT, response.body[: len(response.body) // 2])
        return response

    def _break(self, fault: Fault) -> None:
        if fault.kind is Kind.DELAY:
            self._fleet.clock.wait(lambda: False, fault.seconds)
        elif fault.kind is Kind.BUSY:
            raise Refused(503, "LXD is shutting down")
        elif fault.kind is Kind.REFUSE:
            raise Broken(Way.REFUSED)
        elif fault.kind is Kind.CUT_BEFORE:
            raise Broken(Way.CUT)

    def _in_transfer(self, server: "Server", fault: Fault) -> None:
        """Happen at a byte of the transfer at hand, or of the next one."""

        def meet(transfer: "Transfer") -> None:
            transfer.stop_at(fault.at_bytes or 0, lambda: self._strike(server, fault))

        server.meeting.append(meet)

    def _strike(self, server: "Server", fault: Fault) -> None:
        self._count(server, fault)
        strike = {
            Kind.KILL: self._kill,
            Kind.FREEZE: self._freeze,
            Kind.CUT_TRANSFERS: self._cut_transfers,
            Kind.DISK_FULL: self._fill,
            Kind.FORGET: self._forget,
            Kind.ROTATE: self._rotate,
            Kind.STOP_HANGS: self._hang_stop,
            Kind.START_FAILS: self._fail_starts,
        }[fault.kind]
        strike(server, fault)

    def _kill(self, server: "Server", fault: Fault) -> None:
        daemon.kill(server)
        self._fleet.clock.call_in(fault.seconds, lambda: daemon.start(server))

    def _freeze(self, server: "Server", fault: Fault) -> None:
        daemon.freeze(server)
        self._fleet.clock.call_in(fault.seconds, lambda: daemon.thaw(server))

    def _cut_transfers(self, server: "Server", _fault: Fault) -> None:
        for each in list(server.transfers):
            each.fail(breakage.BROKEN, breakage.PIPE.format(each.instance.name))

    def _forget(self, server: "Server", _fault: Fault) -> None:
        server.operations.forget_all()

    def _rotate(self, server: "Server", _fault: Fault) -> None:
        self._fleet.rotate_certificate(server)

    def _hang_stop(self, server: "Server", fault: Fault) -> None:
        server.stubborn.add(fault.instance)
        if fault.seconds:
            self._fleet.clock.call_in(fault.seconds, lambda: server.stubborn.discard(fault.instance))

    def _fail_starts(self, server: "Server", fault: Fault) -> None:
        server.failing_starts[fault.instance] = fault.times

    def _fill(self, server: "Server", fault: Fault) -> None:
        pool = server.pools["default"]
        taken = max(0, pool.size - storage.used(server, pool))
        pool.other += taken

        def free() -> None:
            pool.other -= taken

        if fault.seconds:
            self._fleet.clock.call_in(fault.seconds, free)
        self._fleet.storage.watch(server)

    def _count(self, server: "Server", fault: Fault) -> None:
        self.happened[fault.kind.value] += 1
        server.note("fault", fault=fault.kind.value, of=fault.instance, request=fault.request)
