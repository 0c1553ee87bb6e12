"""The event stream and what it says of a transfer's progress."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from common.domain.errors import ServerUnreachable
from common.domain.operation import Operation
from common.lxd.events import Event, Progress, events, progress
from tests.unit.lxd.scripted import ScriptedServer, frame, frames, open_and_cut, refuse

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10

OPERATION = {
    "type": "operation",
    "timestamp": "2026-11-22T20:51:40.438794123Z",
    "location": "c2",
    "project": "p2",
    "metadata": {
        "id": "4f2",
        "status_code": 200,
        "description": "Creating instance",
        "resources": {"instances": ["/1.0/instances/c1?project=p2"]},
        "metadata": None,
        "err": "",
    },
}
LIFECYCLE = {
    "type": "lifecycle",
    "timestamp": "2026-11-22T20:51:41+01:00",
    "location": "none",
    "project": "default",
    "metadata": {"action": "instance-started", "source": "/1.0/instances/c1"},
}


def heard(server: ScriptedServer, *sent: bytes) -> list[Event]:
    """What the client makes of these frames before the server closes the stream."""
    server.will(frames(*sent, frame(CLOSE, b"\x03\xe8")))
    stream = events(server.transport())
    received: list[Event] = []
    with pytest.raises(ServerUnreachable, match=r"^s1: closed the event stream$"):
        _collect(stream, received)
    return received


def _collect(stream: Iterator[Event], received: list[Event]) -> None:
    for event in stream:
        received.append(event)  # noqa: PERF402 - extend() would lose them all to the exception


def test_events_tell_what_happened_to_which_operation(server: ScriptedServer) -> None:
    operation, lifecycle = heard(server, *(frame(TEXT, json.dumps(event).encode()) for event in (OPERATION, LIFECYCLE)))
    assert operation == Event(
        kind="operation",
        project="p2",
        location="c2",
        timestamp=datetime(2026, 11, 22, 20, 51, 40, 438794, tzinfo=UTC),
        metadata=OPERATION["metadata"],  # type: ignore[arg-type]
        operation=Operation(
            id="4f2",
            status_code=200,
            description="Creating instance",
            resources={"instances": ("/1.0/instances/c1",)},
        ),
    )
    assert lifecycle.operation is None
    assert lifecycle.metadata["action"] == "instance-started"


def test_a_ping_is_answered_and_is_no_event(server: ScriptedServer) -> None:
    ping = frame(PING, b"beat")
    received = heard(server, ping, frame(TEXT, json.dumps(LIFECYCLE).encode()))
    assert [event.kind for event in received] == ["lifecycle"]
    assert server.client_said.get(timeout=5)[0] & 0x0F == PONG


def test_all_projects_are_asked_for_unless_one_is_named(server: ScriptedServer) -> None:
    server.will(frames())
    events(server.transport())
    events(server.transport(), types=("lifecycle",), project="p2")
    assert [request.path for request in server.heard] == [
        "/1.0/events?type=operation%2Clifecycle&all-projects=true",
        "/1.0/events?type=lifecycle&project=p2",
    ]


def test_a_link_without_a_sign_of_life_is_dead(server: ScriptedServer) -> None:
    server.will(frames())
    with pytest.raises(ServerUnreachable, match=r"^s1: no answer in time$"):
        next(events(server.transport(), idle_timeout=0.05))


def test_a_cut_link_is_dead(server: ScriptedServer) -> None:
    server.will(open_and_cut)
    with pytest.raises(ServerUnreachable, match=r"^s1: "):
        next(events(server.transport()))


def test_a_refused_stream_raises_before_anybody_listens(server: ScriptedServer) -> None:
    server.will(refuse(503, "LXD is shutting down"))
    with pytest.raises(Exception, match=r"^s1: LXD is shutting down$"):
        events(server.transport())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "c1/s0: 441.19MB (108.91MB/s)",
            Progress(volume="c1/s0", bytes=441_190_000, bytes_per_second=108_910_000),
        ),
        ("c1: 0B (0B/s)", Progress(volume="c1", bytes=0, bytes_per_second=0)),
        ("p_c1: 1.50GB (900.00kB/s)", Progress(volume="p_c1", bytes=1_500_000_000, bytes_per_second=900_000)),
        ("Remapping container filesystem", None),
        ("", None),
    ],
)
def test_progress_is_read_from_the_servers_own_words(text: str, expected: Progress | None) -> None:
    assert progress(Operation(id="1", status_code=103, metadata={"fs_progress": text})) == expected


def test_an_operation_that_has_sent_nothing_yet_has_no_progress() -> None:
    assert progress(Operation(id="1", status_code=103, metadata={"control": "x", "fs": "y"})) is None
