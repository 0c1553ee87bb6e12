"""The writer inside every measured instance, and what its stamps tell about a move.

The writer appends a line every few milliseconds: a counter and the time. The source's and the target's stamps come
from the same kernel clock, so the gap between the last line written on the source and the first on the target is the
downtime as the workload felt it. A writer that starts again goes on counting from the last line that it finds: lines
lost in a move would be counted again, which is why the target's log is compared with the source's and not only with
itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.bench.errors import BenchError

SCRIPT_PATH = "/root/writer"  # the images of the lab run it at boot
LOG_PATH = "/root/log"
# A `read` that times out is busybox's only short sleep without a new process: a hundred forks a second in each of 24
# instances would load the machine that is being measured. EPOCHREALTIME is the kernel's clock, in microseconds.
_SCRIPT = """
[ -p /root/clock ] || mkfifo /root/clock
exec 3<>/root/clock
n=0
if [ -s {log} ]; then
    last=$(tail -n 1 {log})
    n=${{last%% *}}
fi
exec >>{log}
while :; do
    n=$((n + 1))
    echo "$n $EPOCHREALTIME"
    read -t {interval_s} -u 3 nothing
done
"""


def script(interval_s: float) -> str:
    """The shell script of a writer that writes a line each `interval_s` seconds."""
    return _SCRIPT.format(log=LOG_PATH, interval_s=interval_s)


@dataclass(frozen=True)
class Line:
    """One line: its number, from 1, and when it was written, in seconds since the epoch."""

    number: int
    at: float


@dataclass(frozen=True)
class Outage:
    """One move as the writer saw it. `lost_lines` were on the source when it stopped and are not on the target."""

    last_before: float
    first_after: float
    lost_lines: int

    @property
    def seconds(self) -> float:
        return self.first_after - self.last_before


def read_log(log: bytes) -> list[Line]:
    """The lines of a log. Raises BenchError if the last one is torn or the counter has a gap."""
    if not log.endswith(b"\n"):
        raise BenchError(f"the log ends in the middle of a line: {log[-40:]!r}")
    try:
        lines = [Line(int(number), float(at)) for number, at in map(bytes.split, log.splitlines())]
    except ValueError as error:
        raise BenchError(f"not a line of the writer: {error}") from error
    for before, line in pairwise([Line(0, 0.0), *lines]):
        if line.number != before.number + 1:
            raise BenchError(f"line {line.number} follows line {before.number}")
    return lines


def outage(source: bytes, target: bytes) -> Outage:
    """What a move did to the writer, from the source's last log and the target's log some time after the start there.

    Raises BenchError if the target's writer has not written, or wrote while the source's still did.
    """
    before, after = read_log(source), read_log(target)
    kept = _common(before, after)
    if len(after) == kept:
        raise BenchError("the writer has not written on the target")
    found = Outage(before[-1].at, after[kept].at, lost_lines=len(before) - kept)
    if found.seconds <= 0:
        raise BenchError(f"source and target wrote at the same time, for {-found.seconds:.2f} s")
    return found


def _common(one: Sequence[Line], other: Sequence[Line]) -> int:
    """How many lines are the same from the start on."""
    differing = (number for number, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))
