"""How requests and websockets reach a server, and what happens when they do not."""

import threading
import time
from pathlib import Path

import pytest

from common.domain.errors import (
    HerderError,
    InputError,
    NotFound,
    NotTrusted,
    PreconditionFailed,
    ServerBusy,
    ServerRefused,
    ServerUnreachable,
)
from common.lxd.transport import Transport
from common.lxd.trust import client_certificate
from tests.unit.lxd.scripted import ScriptedServer, answer, cut, frame, frames, plain, refuse, silence


@pytest.fixture
def other_certificate(tmp_path: Path) -> str:
    return client_certificate(tmp_path / "other")[0].read_text()


def test_a_pinned_server_is_trusted_under_any_host_name(server: ScriptedServer) -> None:
    server.will(answer({"a": 1}, headers={"Etag": "abc"}))
    reply = server.transport().request("GET", "/1.0", params={"project": "p"})
    assert (reply.status, reply.metadata, reply.etag, reply.operation) == (200, {"a": 1}, "abc", None)
    assert [(heard.method, heard.path) for heard in server.heard] == [("GET", "/1.0?project=p")]


def test_a_server_with_another_certificate_hears_nothing(server: ScriptedServer, other_certificate: str) -> None:
    server.will(answer({}))
    transport = server.transport(server_certificate=other_certificate)
    with pytest.raises(NotTrusted, match=r"^s1: shows another certificate"):
        transport.request("POST", "/1.0/instances", json={"secret": 1})
    with pytest.raises(NotTrusted, match=r"^s1: shows another certificate"):
        transport.websocket("/1.0/operations/1/websocket", {"secret": "x"})
    assert server.heard == []


def test_without_a_pin_only_a_certificate_of_an_authority_will_do(server: ScriptedServer) -> None:
    server.will(answer({}))
    with pytest.raises(NotTrusted, match=r"^s1: no authority vouches"):
        server.transport(server_certificate=None).request("GET", "/1.0")
    with pytest.raises(NotTrusted, match=r"^s1: no authority vouches"):
        server.transport(server_certificate=None).websocket("/1.0/events")
    assert server.heard == []


def test_the_environment_does_not_change_whom_we_trust(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With trust_env, REQUESTS_CA_BUNDLE beats ``verify`` and a proxy variable diverts the request."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(client_certificate(tmp_path / "ca")[0]))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    server.will(answer("here"))
    assert server.transport().request("GET", "/1.0").metadata == "here"


def test_each_thread_keeps_one_connection(server: ScriptedServer) -> None:
    server.will(answer({}))
    transport = server.transport()

    def twice() -> None:
        transport.request("GET", "/1.0")
        transport.request("POST", "/1.0/instances")

    twice()
    thread = threading.Thread(target=twice)
    thread.start()
    thread.join()
    ports = [heard.port for heard in server.heard]
    assert ports[0] == ports[1]
    assert ports[2] == ports[3]
    assert ports[0] != ports[2]


def test_the_operation_is_a_bare_id_even_when_a_cluster_adds_its_project(server: ScriptedServer) -> None:
    server.will(answer({}, status=202, operation="/1.0/operations/4f-2?project=default"))
    assert server.transport().request("POST", "/1.0/instances").operation == "4f-2"


def test_a_unix_socket_needs_no_certificate(socket_server: ScriptedServer) -> None:
    socket_server.will(answer({"n": 1}))
    assert socket_server.transport().request("GET", "/1.0", params={"recursion": "1"}).metadata == {"n": 1}
    assert socket_server.heard[0].path == "/1.0?recursion=1"


@pytest.mark.parametrize("kind", ["server", "socket_server"])
def test_a_websocket_is_opened_on_both(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(kind)
    server.will(frames(frame(1, b"hello")))
    connection = server.transport().websocket("/1.0/events", {"type": "operation"})
    assert connection.recv() == "hello"
    assert server.heard[0].path == "/1.0/events?type=operation"
    connection.close(timeout=0)


def test_a_refused_websocket_is_refused_like_a_request(server: ScriptedServer) -> None:
    server.will(refuse(404, "Operation not found"))
    with pytest.raises(NotFound, match=r"^s1: Operation not found$"):
        server.transport().websocket("/1.0/operations/1/websocket", {"secret": "x"})


def test_a_busy_server_is_asked_again(server: ScriptedServer) -> None:
    server.will(refuse(503, "LXD is shutting down"), answer("up"))
    assert server.transport().request("GET", "/1.0").metadata == "up"
    assert len(server.heard) == 2


def test_a_cut_connection_is_made_again(server: ScriptedServer) -> None:
    server.will(cut, answer("up"))
    assert server.transport().request("GET", "/1.0").metadata == "up"


def test_a_server_that_stays_away_is_given_up_after_three_tries(server: ScriptedServer) -> None:
    server.will(cut)
    with pytest.raises(ServerUnreachable, match=r"^s1: "):
        server.transport().request("GET", "/1.0")
    assert len(server.heard) == 3


def test_it_remembers_when_the_server_last_answered(server: ScriptedServer) -> None:
    """A refusal is an answer too; a cut connection is none."""
    asked = server.transport()
    server.will(cut)
    with pytest.raises(ServerUnreachable) as lost:
        asked.request("POST", "/1.0")
    assert lost.value.server == "s1"
    assert asked.answered_at == float("-inf")
    begun = time.monotonic()
    server.will(refuse(404, "not found"))
    with pytest.raises(NotFound):
        asked.request("GET", "/1.0")
    assert begun <= asked.answered_at <= time.monotonic()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_what_may_have_been_done_is_not_done_again(server: ScriptedServer, method: str) -> None:
    server.will(cut)
    with pytest.raises(ServerUnreachable):
        server.transport().request(method, "/1.0/instances/c1")
    server.will(refuse(503, "LXD is shutting down"))
    with pytest.raises(ServerBusy):
        server.transport().request(method, "/1.0/instances/c1")
    assert len(server.heard) == 2


def test_a_silent_server_is_unreachable_and_not_asked_again(server: ScriptedServer) -> None:
    server.will(silence)
    with pytest.raises(ServerUnreachable, match=r"^s1: no answer in time$"):
        server.transport(read_timeout=0.05).request("GET", "/1.0")
    with pytest.raises(ServerUnreachable):
        server.transport().request("GET", "/1.0", timeout=0.05)
    assert len(server.heard) == 2


def test_nobody_listening_is_unreachable(tmp_path: Path, other_certificate: str) -> None:
    for address, pem in (("https://127.0.0.1:9", other_certificate), (f"unix://{tmp_path}/none", None)):
        gone = Transport(address, server_certificate=pem, client_certificate=None, client_key=None, name="s1")
        with pytest.raises(ServerUnreachable, match=r"^s1: (Connection refused|No such file or directory)$"):
            gone.request("GET", "/1.0")
        with pytest.raises(ServerUnreachable, match=r"^s1: (Connection refused|No such file or directory)$"):
            gone.websocket("/1.0/events")


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (400, "Instance is running", ServerRefused),
        (403, "not authorized", NotTrusted),
        (404, "Instance not found", NotFound),
        (412, "ETag doesn't match: a vs b", PreconditionFailed),
        (500, "Unknown configuration key: foo", ServerRefused),
        (
            500,
            "Failed to create instance update operation: A matching non-reusable operation has now succeeded",
            ServerBusy,
        ),
        (500, 'Failed to create instance start operation: Instance is busy running a "update" operation', ServerBusy),
        (500, "context deadline exceeded", ServerBusy),
        (500, "Missing event connection with target cluster member", ServerUnreachable),
        (500, 'Post "https://10.0.0.2:8443/1.0/instances": Unable to connect to: 10.0.0.2:8443', ServerUnreachable),
        (500, 'Post "https://10.0.0.2:8443/1.0/instances?project=default&target=c3": EOF', ServerUnreachable),
        (500, "Unable to connect to: 10.0.0.2:8443", ServerRefused),
        (503, "LXD is shutting down", ServerBusy),
    ],
)
def test_a_refusal_keeps_the_servers_words(
    server: ScriptedServer, status: int, text: str, error: type[HerderError]
) -> None:
    server.will(refuse(status, text))
    with pytest.raises(HerderError) as raised:
        server.transport().request("PATCH", "/1.0/instances/c1", json={})
    assert type(raised.value) is error
    assert raised.value.message == f"s1: {text}"
    if isinstance(raised.value, ServerRefused):
        assert raised.value.status == status


def test_an_instance_that_is_being_stopped_comes_with_what_ends_that(server: ScriptedServer) -> None:
    """Incus says so for as long as a guest runs that did not shut down in time."""
    server.will(refuse(500, 'Failed to create instance update operation: Instance is busy running a "stop" operation'))
    with pytest.raises(ServerBusy, match=r"this lasts until it has stopped or Incus is restarted$"):
        server.transport().request("PATCH", "/1.0/instances/c1", json={})


def test_an_answer_that_is_not_lxds_is_refused(server: ScriptedServer) -> None:
    server.will(plain(200, "<html>Welcome</html>"))
    with pytest.raises(ServerRefused, match=r"^s1: does not answer as LXD does"):
        server.transport().request("GET", "/1.0")
    server.will(plain(502, "<html>Bad gateway</html>"))
    with pytest.raises(ServerBusy, match=r"^s1: HTTP 502$"):
        server.transport().request("GET", "/1.0")


@pytest.mark.parametrize("address", ["http://127.0.0.1:8443", "unix://", "127.0.0.1:8443", "https://"])
def test_an_address_that_cannot_be_used_is_refused_at_once(address: str) -> None:
    with pytest.raises(InputError, match="not an address of a server"):
        Transport(address, server_certificate=None, client_certificate=None, client_key=None)


def test_certificate_files_that_cannot_be_used_are_refused_at_once(tmp_path: Path) -> None:
    certificate, _ = client_certificate(tmp_path / "a")
    _, key = client_certificate(tmp_path / "b")
    for pair in ((tmp_path / "none.crt", key), (certificate, key)):
        with pytest.raises(InputError, match="client certificate"):
            Transport("https://s1", server_certificate=None, client_certificate=pair[0], client_key=pair[1])
    with pytest.raises(InputError, match="not a certificate"):
        Transport("https://s1", server_certificate="rubbish", client_certificate=None, client_key=None)
