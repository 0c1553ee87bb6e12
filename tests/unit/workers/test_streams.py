"""What a stream that takes hours does meanwhile: it keeps its job, hears a cancel, and leaves threads to others."""

import threading
from datetime import timedelta
from typing import cast

import pytest

from common.domain.errors import TransferFailed
from common.domain.job import Kind
from tests.builders import NOW, a_running_job
from workers.steps import streams
from workers.steps.context import Context


class Played:
    """As much of a context as a stream uses."""

    def __init__(self, *answers: str, permits: int = 1) -> None:
        self.job = a_running_job()
        self.streams = threading.BoundedSemaphore(permits)
        self.asked = 0
        self._answers = answers

    def keep_alive(self) -> str:
        self.asked += 1
        return self._answers[self.asked - 1]


def test_a_stream_keeps_its_job_now_and_then_and_stops_when_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at each piece, which would cost more than the pieces; a pause waits for the end of the step."""
    moment = [0.0]
    monkeypatch.setattr("workers.steps.streams.time.monotonic", lambda: moment[0])
    played = Played("", "pause", "cancel")
    on_piece = streams.kept_alive(cast("Context", played))
    for _ in range(100):
        on_piece(1)
    assert played.asked == 0
    for asked in (1, 2):
        moment[0] += streams.KEEP_ALIVE_SECONDS
        on_piece(1)
        on_piece(1)
        assert played.asked == asked
    moment[0] += streams.KEEP_ALIVE_SECONDS
    with pytest.raises(streams.CancelledMeanwhile):
        on_piece(1)


def test_a_worker_carries_no_more_backups_than_it_may() -> None:
    """Who comes too late waits, says for what, and lets go of nothing that is another's."""
    ctx = cast("Context", Played(permits=1))
    with streams.permit(ctx) as first, streams.permit(ctx) as second:
        assert (first, second) == (True, False)
        waiting = streams.wait_for_permit(ctx)
        assert (waiting.kind, waiting.blocked_on) == (Kind.WAIT, "a free stream of a worker")
    with streams.permit(ctx) as again:
        assert again


def test_a_carried_backup_counts_as_a_pass() -> None:
    """With its bytes and how long they took."""
    carried = streams.sent("export", 5, NOW.isoformat(), NOW + timedelta(seconds=3))
    assert (carried.kind, carried.sent, carried.took) == ("export", 5, timedelta(seconds=3))
    assert streams.sent("export", 5, "", NOW).took == timedelta(0)


def test_a_stream_that_ends_too_early_never_looks_whole() -> None:
    """It breaks before its end: whoever gets it must not take what has come for all of it."""
    came = streams.whole([b"abc", b"de"], 9, on_piece=lambda _: None)
    assert [next(came), next(came)] == [b"abc", b"de"]
    with pytest.raises(TransferFailed, match="ended after 5 of 9 bytes"):
        next(came)


def test_the_end_of_a_stream_waits_for_a_last_look_at_its_job() -> None:
    """A worker that slept after the last piece may have lost its job."""
    seen: list[int] = []
    assert list(streams.whole([b"abc", b"de"], 5, on_piece=seen.append)) == [b"abc", b"de"]
    assert seen == [3, 5, 5]


def test_a_limited_stream_is_as_slow_as_it_shall_be_and_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of a quarter of a second, so that it renews what it holds; without a limit it is left alone."""
    moment = [0.0]
    monkeypatch.setattr("workers.steps.streams.time.monotonic", lambda: moment[0])
    monkeypatch.setattr("workers.steps.streams.time.sleep", lambda seconds: moment.__setitem__(0, moment[0] + seconds))
    data = bytes(range(256)) * 4096
    got = list(streams.limited([data, data], 512 * 1024))
    assert b"".join(got) == data * 2
    assert {len(piece) for piece in got} == {128 * 1024}
    assert 3.5 <= moment[0] <= 4
    assert list(streams.limited([data], 0)) == [data]
