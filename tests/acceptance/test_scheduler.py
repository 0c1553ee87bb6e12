"""`herder scheduler`, `herder backup check` and `herder backup status` on real servers."""

import json
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import world
from tests.acceptance.story import DONE, FOUND, INPUT, Herder
from tests.acceptance.world import Wish
from tests.lab import LabServer, host

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("s2")]

POLICIES = """\
policies:
  - name: often
    select: {source: s1}
    schedule: {when: "*:*:0/20"}
    targets: [{remote: s2, keep: {last: 2}}]
    rpo: 1h
    drill: {schedule: {when: "*:*:10/20"}, command: [test, -s, /root/data], timeout: 30s}
"""


METRICS = "127.0.0.1:19470"


@contextmanager
def inbox() -> Iterator[tuple[str, list[str]]]:
    """A URL of apprise, and all messages that come there."""
    messages: list[str] = []

    class Arrival(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["message"])
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Arrival) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://127.0.0.1:{server.server_port}", messages
        server.shutdown()


@pytest.fixture
def file(s1: LabServer, home: Path) -> Path:
    """A policy that is due every 20 seconds, for the one instance of s1."""
    world.make(s1, Wish(name="web1", files={"/root/data": "data"}))
    policies = home / "policies.yaml"
    policies.write_text(POLICIES)
    return policies


def generations(herder: Herder) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = herder.run("backup", "list", "s2:", "--json").ended(DONE).json
    return found


def test_a_policy_runs_when_it_is_due_and_its_status_tells_how_old_the_backups_are(
    s1: LabServer, herder: Herder, file: Path
) -> None:
    """Two runs by the scheduler's own workers; the second keeps the first. A stop ends all of it in order.

    A drill in between proves one of them. Meanwhile its file is changed, which makes all backups too old, and not so
    again: somebody is told of both.
    """
    checked, drill = herder.run("backup", "check", str(file), "--json").ended(DONE).json
    assert (checked["policy"], checked["instances"], checked["targets"]) == ("often", 1, ["s2"])
    assert len(checked["next"]) == 3
    assert (drill["policy"], drill["targets"]) == ("often/drill", ["s2"])

    with inbox() as (url, messages):
        scheduler = herder.having(HERDER_NOTIFY=url, HERDER_METRICS=METRICS).start("scheduler", str(file))
        host.wait_until("two generations", lambda: len(generations(herder)) == 2, seconds=120)
        host.wait_until("a drill", lambda: any(each["drill"] for each in generations(herder)), seconds=60)
        file.write_text(POLICIES.replace("rpo: 1h", "rpo: 1s"))
        host.wait_until("a breach", lambda: "s1:default/web1 on s2" in str(messages), seconds=60)
        with urllib.request.urlopen(f"http://{METRICS}/metrics") as answer:
            assert 'herder_policy_alerts{cause="breach",policy="often"} 1.0' in answer.read().decode()
        file.write_text(POLICIES)
        host.wait_until("its end", lambda: "over: breach: often" in str(messages), seconds=60)
    scheduler.send(signal.SIGTERM)
    scheduler.wait().ended(DONE)

    moments = [each["at"] for each in generations(herder)]
    assert len(set(moments)) == 2
    assert world.status(s1, "web1") == "Running"
    (status,) = herder.run("backup", "status", str(file), "--json").ended(DONE).json
    assert (status["source"], status["target"], status["is_breached"]) == ("s1:default/web1", "s2", False)
    assert status["drill"]["succeeded"]
    assert status["last_good"] == moments[0]


def test_a_backup_that_is_too_old_or_missing_is_found(herder: Herder, file: Path) -> None:
    """Without any backup the instance's own age counts."""
    (status,) = herder.run("backup", "status", str(file), "--json").ended(DONE).json
    assert status["last_good"] is None
    file.write_text(POLICIES.replace("rpo: 1h", "rpo: 1s"))
    found = herder.run("backup", "status", str(file)).ended(FOUND)
    assert "BREACHED" in found.out


def test_a_mistake_is_told_before_anything_is_started(herder: Herder, file: Path) -> None:
    file.write_text(POLICIES.replace("rpo", "rop"))
    ran = herder.run("scheduler", str(file)).ended(INPUT)
    assert f"{file}:6:5: policies.0.rop: there is no such key" in ran.error
    assert not (herder.home / "state").exists()
