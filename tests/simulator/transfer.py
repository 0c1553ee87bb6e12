"""One transfer: from the moment when the target has connected until it has arrived or broken, and what is left then."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.simulator import breakage, creation, states
from tests.simulator.clock import Timer
from tests.simulator.http import Json
from tests.simulator.model import Data, Instance, Snapshot
from tests.simulator.operations import Operation
from tests.simulator.pieces import Piece, missing, pieces, sends_deltas
from tests.simulator.traffic import RSYNC_RATE, retime

if TYPE_CHECKING:
    from tests.simulator.server import Server
    from tests.simulator.wire import Wire

#: What rsync compares on both sides, in bytes per second.
_COMPARE_RATE = 400 * 1024**2
_FIXED = 0.10


class Transfer:
    """From the moment when the target has connected. ``sent`` counts bytes, of ``total``."""

    def __init__(
        self,
        *,
        server: "Server",
        instance: Instance,
        offered: Operation,
        target: "Server",
        copy: Instance,
        received: Operation,
        is_refresh: bool,
        instance_only: bool,
        allow_inconsistent: bool,
        wire: "Wire | None",
    ) -> None:
        self.server, self.instance, self.offered = server, instance, offered
        self.target, self.copy, self.received = target, copy, received
        self.is_refresh = is_refresh
        self.instance_only = instance_only
        self.allow_inconsistent = allow_inconsistent
        self.wire = wire
        self.deltas = sends_deltas(server, instance, target, copy)
        self.pieces: list[Piece] = []
        self.total = 0
        self.sent = 0.0
        self.rate = 0.0
        self.is_over = False
        #: Things to do when so many bytes have gone, in order.
        self.at_bytes: list[tuple[int, Callable[[], None]]] = []
        self._settled_at = self._began_at = self._flowed_at = server.clock.now()
        self._timer: Timer | None = None
        self._has_frozen = False
        self._obsolete: list[str] = []
        self._before = copy.data

    def sends(self, instance: Instance) -> bool:
        """Whether this instance is its source."""
        return instance is self.instance

    def begin(self) -> None:
        """Make the records of the snapshots, freeze the source if that is needed, and let the bytes flow."""
        self.instance.transfer = self.copy.transfer = self
        self.instance.settle_writes(self.server.clock.now())
        problem = self._impossible()
        if problem:
            self.fail(problem, breakage.NO_INDEX)
            return
        self._plan()
        for server in (self.server, self.target):
            while server.meeting:
                server.meeting.pop(0)(self)
        must_freeze = not self.server.pools[self.instance.pool].sends_deltas and not self.allow_inconsistent
        if self.instance.status == "Running" and must_freeze:
            states.set_frozen(self.server, self.instance, is_frozen=True)
            self._has_frozen = True
        self.offered.progress = self._progress
        if self.wire is not None:
            self.wire.join(self)
        compares = 0.0 if self.deltas else sum(piece.data.size for piece in self.pieces) / _COMPARE_RATE
        self.target.later(_FIXED + compares, self._flow)

    def stop_at(self, byte: int, act: Callable[[], None]) -> None:
        """Do something when so many bytes have gone, or just before the last one."""
        self.at_bytes.append((max(1, min(byte, self.total - 1)), act))
        self.at_bytes.sort(key=lambda each: each[0])

    def fail(self, target_error: str, source_error: str, *, only: "Server | None" = None) -> None:
        """It broke. A first copy goes; a refreshed one is what it was, or on dir a mixture.

        ``only`` is the server that lives on when the other one's daemon has died.
        """
        if self.is_over:
            return
        self._leave()
        if only in (None, self.target):
            self._undo()
            self.target.operations.end(self.received, target_error)
        if only in (None, self.server):
            self._thaw()
            self.server.operations.end(self.offered, source_error)

    def killed(self, server: "Server") -> None:
        """The daemon of one side has died: the other one notices at once, on the dead one all stays as it is."""
        if self.is_over:
            return
        other = self.target if server is self.server else self.server
        if server is self.target:
            self._wreck()
        if other.is_up:
            self.fail(breakage.BROKEN, breakage.PIPE.format(self.instance.name), only=other)
        else:
            self._leave()

    def _impossible(self) -> str:
        if self.instance.phantoms and not self.instance_only:
            return breakage.BROKEN
        return self._irreparable() or self._without_parent() if self.is_refresh else ""

    def _irreparable(self) -> str:
        """What an earlier refresh has left of the copy."""
        if self.copy.is_unusable and self.target.pools[self.copy.pool].driver == "btrfs":
            return breakage.NOT_ON_STORAGE
        if self.copy.has_lost_root:
            return f"Error transferring instance data: {breakage.NO_SUBVOLUME.format(self.copy.name)}"
        orphan = next((each.name for each in self._missing() if each.name in self.copy.orphans), "")
        return breakage.ORPHAN.format(self.copy.name, orphan) if orphan else ""

    def _without_parent(self) -> str:
        """LXD tells snapshots apart by the subvolume that they were received from; those count as missing there."""
        lacking = self._missing()
        known = [each for each in self.instance.snapshots.values() if each not in lacking]
        return breakage.NO_PARENT if self.deltas and lacking and any(each.received for each in known) else ""

    def _missing(self) -> list[Snapshot]:
        """The source's snapshots that the target lacks, oldest first."""
        return [] if self.instance_only else missing(self.instance, self.copy, deltas=self.deltas)

    def _plan(self) -> None:
        """What is sent, and the records of what will come."""
        lacking = self._missing()
        wanted = set() if self.instance_only else set(self.instance.snapshots)
        self._obsolete = [name for name in self.copy.snapshots if name not in wanted]
        self.pieces = pieces(self.instance, self.copy, lacking, deltas=self.deltas)
        self.total = sum(piece.bytes for piece in self.pieces)
        for each in lacking:
            # What arrives is dated to the second.
            made_at = self.target.clock.whole_second(each.created_at)
            self.copy.snapshots[each.name] = replace(each, data=None, received=True, created_at=made_at)

    def _flow(self) -> None:
        if self.is_over:
            return
        self._settled_at = self._began_at = self._flowed_at = self.server.clock.now()
        self.server.transfers.append(self)
        self.target.transfers.append(self)
        retime(self.server, self.target)

    def _progress(self) -> Json:
        """As LXD tells it: nothing in the first second, then bytes of the volume at hand and the mean speed."""
        self.settle()
        took = self._flowed_at - self._began_at
        if took < 1.0:
            return {}
        done = 0
        for piece in self.pieces:
            if self.sent < done + piece.bytes or piece is self.pieces[-1]:
                name = f"{self.instance.name}/{piece.snapshot}" if piece.snapshot else self.instance.name
                return {"fs_progress": f"{name}: {_bytes(self.sent - done)} ({_bytes(self.sent / took)}/s)"}
            done += piece.bytes
        return {}

    @property
    def is_held(self) -> bool:
        """Whether nothing flows: somebody holds the wire, or a daemon is frozen."""
        frozen = self.server.is_frozen or self.target.is_frozen
        return frozen or (self.wire is not None and self.wire.is_holding(self.sent))

    def settle(self) -> None:
        """Count what has flowed until now."""
        now = self.server.clock.now()
        if self.rate:
            self.sent = min(float(self.total), self.sent + self.rate * (now - self._settled_at))
            self._flowed_at = now
        self._settled_at = now

    def flow_at(self, rate: float) -> None:
        """From now on at this many bytes per second."""
        limit = self.wire.limit if self.wire is not None else 0
        self.rate = min(rate, limit or rate, rate if self.deltas else RSYNC_RATE)
        if self._timer is not None:
            self._timer.cancel()
        if self.rate:
            stops = [self.total, *(at for at, _ in self.at_bytes[:1])]
            if self.wire is not None and self.wire.hold_after is not None:
                stops.append(self.wire.hold_after + 1)
            left = max(0.0, min(stops) - self.sent)
            self._timer = self.target.later(left / self.rate, self._look)

    def _look(self) -> None:
        """A byte has been reached that matters."""
        self.settle()
        if self.is_over:
            return
        while self.at_bytes and self.sent >= self.at_bytes[0][0] - 0.5:
            self.at_bytes.pop(0)[1]()
        if self.is_over:
            return
        if self.sent >= self.total - 0.5:
            self._arrive()
        else:
            retime(self.server, self.target)

    def overflow(self) -> None:
        """The target's pool is full."""
        if self.deltas:
            self.fail(breakage.NO_SPACE, breakage.PIPE.format(self.instance.name))
        else:
            self.fail(breakage.BROKEN, breakage.NO_SPACE_RSYNC.format(self.instance.name))

    def _arrive(self) -> None:
        vanished = self.allow_inconsistent and self.instance.status == "Running" and not self.deltas
        if vanished and self.instance.guest.deletes_files:
            self.fail(breakage.BROKEN, breakage.VANISHED.format(self.instance.name))
            return
        self._leave()
        self._take(len(self.pieces))
        for name in self._obsolete:
            self.copy.snapshots.pop(name, None)
        if not self.is_refresh:
            self.copy.config["volatile.apply_template"] = "copy"
            self.copy.config["volatile.last_state.idmap"] = states.IDMAP
        self.target.note(
            "received",
            self.copy,
            token=self.copy.data.token if self.copy.data else "",
            refresh=self.is_refresh,
            snapshots=sorted(self.copy.snapshots),
            source=f"{self.server.name}:{self.instance.name}",
        )
        self._thaw()
        self.target.operations.end(self.received)
        self.server.operations.end(self.offered)

    def _take(self, count: int) -> None:
        """The first pieces are on the target now."""
        for piece in self.pieces[:count]:
            if piece.snapshot:
                if piece.snapshot in self.copy.snapshots:
                    self.copy.snapshots[piece.snapshot].data = piece.data
            else:
                self.copy.data = self._main(piece.data)
                self.copy.guest = self.instance.guest

    def _main(self, data: Data) -> Data:
        """The main volume as it arrives: rsync mixes what a running guest writes meanwhile."""
        if self.deltas or self.instance.status != "Running":
            return data
        self.instance.settle_writes(self.server.clock.now())
        now = self.instance.data
        return data if now is None or now.version == data.version else replace(data, torn=f"~{now.version}")

    def _whole_pieces(self) -> int:
        self.settle()
        done = 0
        for number, piece in enumerate(self.pieces):
            done += piece.bytes
            if self.sent < done:
                return number
        return len(self.pieces)

    def _undo(self) -> None:
        """Failed, and the target's daemon cleans up."""
        if not self.is_refresh:
            size = int(self.sent)
            creation.forget(self.target, self.copy)
            if (
                self.deltas
                and self.sent > 0.5 * self.total
                and not self.server.is_up
                and self.target.fleet.leaves_orphan()
            ):
                self.target.pools[self.copy.pool].ownerless.add((self.copy.project, self.copy.name))
            if not self.deltas:
                until = self.target.clock.now() + 0.2 * size / 100_000_000
                self.target.pools[self.copy.pool].leftovers[self.copy.project, self.copy.name] = until
            return
        self._take_partly()
        for piece in self.pieces:
            if piece.snapshot and self.copy.snapshots[piece.snapshot].data is None:
                self.copy.snapshots.pop(piece.snapshot)
                if self.deltas and self.sent and self.target.fleet.leaves_orphan():
                    self.copy.orphans.add(piece.snapshot)

    def _wreck(self) -> None:
        """The target's daemon was killed: records without data stay."""
        if self.is_refresh:
            self._take_partly()
            is_late = self.deltas and self.sent > 0.5 * self.total
            self.copy.has_lost_root = is_late and self.target.fleet.leaves_orphan()
        elif self.target.pools[self.copy.pool].sends_deltas:
            self.target.pools[self.copy.pool].other += int(self.sent)  # a subvolume that nobody finds

    def _take_partly(self) -> None:
        """An interrupted refresh: whole snapshots stay; rsync has written into the old main volume, btrfs has not."""
        whole = self._whole_pieces()
        self._take(whole)
        if self.deltas or not self.pieces or whole == len(self.pieces) or self._before is None or not self.sent:
            return
        new = self.pieces[-1].data
        if new.token != self._before.token:
            self.copy.data = replace(self._before, torn=f"+{new.version}")
            self.target.note("received", self.copy, token=self.copy.data.token, torn=True, refresh=True)

    def _thaw(self) -> None:
        if self._has_frozen and self.instance.status == "Frozen":
            states.set_frozen(self.server, self.instance, is_frozen=False)

    def _leave(self) -> None:
        self.settle()
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        for instance in (self.instance, self.copy):
            if instance.transfer is self:
                instance.transfer = None
        for server in (self.server, self.target):
            if self in server.transfers:
                server.transfers.remove(self)
        if self.wire is not None:
            self.wire.leave(self)
        retime(self.server, self.target)


def _bytes(count: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if count < 1000 or unit == "T":
            return f"{count:.2f}{unit}B" if unit else f"{int(count)}B"
        count /= 1000
    return ""
