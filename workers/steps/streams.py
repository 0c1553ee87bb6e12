"""What an export and an import have in common: they carry a backup through this process, which may take hours."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from common.domain.errors import TransferFailed
from common.domain.job import Outcome, Pass
from workers.steps.context import Context

#: How often, in seconds, a stream renews what it holds and hears what a person asks for.
KEEP_ALIVE_SECONDS = 3.0
_STREAM_RETRY = timedelta(seconds=2)


class CancelledMeanwhile(Exception):
    """A person has cancelled the job while its backup is on its way; it never leaves the step."""


@contextmanager
def permit(ctx: Context) -> Iterator[bool]:
    """Whether this worker can carry one more backup now; it does while the block runs."""
    has_one = ctx.streams.acquire(blocking=False)
    try:
        yield has_one
    finally:
        if has_one:
            ctx.streams.release()


def wait_for_permit(ctx: Context) -> Outcome:
    """There are no more threads for streams."""
    return Outcome.wait("a free stream of a worker", retry_in=_STREAM_RETRY, evidence=ctx.job.evidence)


def kept_alive(ctx: Context) -> Callable[[int], None]:
    """To be called for each piece of a stream with the bytes so far. Raises FenceLost and CancelledMeanwhile."""
    last = time.monotonic()

    def on_piece(_sent: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < KEEP_ALIVE_SECONDS:
            return
        last = now
        if ctx.keep_alive() == "cancel":
            raise CancelledMeanwhile(f"job {ctx.job.id} was cancelled")

    return on_piece


def sent(kind: str, size: int, since: str, now: datetime) -> Pass:
    """The carried backup as a pass, for the report."""
    begun = datetime.fromisoformat(since) if since else now
    return Pass(number=0, kind=kind, took=max(timedelta(0), now.astimezone(UTC) - begun), sent=size)


def limited(pieces: Iterable[bytes], rate: int) -> Iterator[bytes]:
    """The pieces, in smaller ones and no faster than so many bytes per second; 0 is as fast as they come."""
    if not rate:
        yield from pieces
        return
    step, due = max(rate // 4, 4096), time.monotonic()
    for piece in pieces:
        for start in range(0, len(piece), step):
            part = piece[start : start + step]
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due, time.monotonic()) + len(part) / rate
            yield part


def whole(pieces: Iterable[bytes], size: int, *, on_piece: Callable[[int], None]) -> Iterator[bytes]:
    """The pieces of a stream that has this size. Raises TransferFailed instead of an end that comes too early."""
    got = 0
    for piece in pieces:
        got += len(piece)
        on_piece(got)
        yield piece
    on_piece(got)  # what ends is believed to be whole: not if this process slept meanwhile and the job is another's
    if got != size:
        raise TransferFailed(f"the backup ended after {got} of {size} bytes")
