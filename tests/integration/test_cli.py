"""The command line over a real Redis: what it tells about plans, and its exit codes."""

import json
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from common.domain.job import State
from common.domain.plan import Plan, Refusal
from common.store.connect import connect
from common.store.jobs import JobStore
from common.store.keys import Keys
from producer.cli.main import app
from tests.builders import NOW, a_finding, a_plan, an_error, many_moves
from tests.integration.conftest import stored
from tests.integration.redis_server import RedisServer
from tests.integration.wire import Wire

CONFIG = """\
remotes:
  s1: {addr: "https://127.0.0.1:1", protocol: lxd}
  s2: {addr: "https://127.0.0.1:2", protocol: lxd}
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_url: str, keys: Keys) -> None:
    """A user with two servers that do not answer, and the Redis of the tests."""
    (tmp_path / "config.yml").write_text(CONFIG)
    for name in ("HERDER_CONFIG", "INCUS_CONF", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LXD_CONF", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HERDER_REDIS_URL", redis_url)
    monkeypatch.setenv("HERDER_NAMESPACE", keys.namespace)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def herder(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, list(arguments))


def finished(store: JobStore, *states: State, refusals: tuple[Refusal, ...] = ()) -> Plan:
    """A plan whose jobs have come to these ends."""
    plan = stored(a_plan(*many_moves(len(states)), refusals=refusals), store)
    for number, state in enumerate(states):
        claim = store.claim(plan.job_id(number), "me")
        assert claim
        error = an_error("out_of_space") if state is State.PARKED else None
        store.commit(claim, claim.job.taken(NOW).to(state, finished_at=NOW, error=error))
    return plan


def test_plans_are_listed_with_how_they_stand(store: JobStore) -> None:
    """In a table for people, as JSON for scripts."""
    assert "no plans yet" in herder("status").stdout
    finished(store, State.DONE, State.PARKED)
    table = herder("status")
    assert table.exit_code == 0
    assert "p1" in table.stdout
    assert "failed" in table.stdout
    (told,) = json.loads(herder("status", "--json").stdout)
    assert (told["plan"], told["state"], told["totals"]["parked"]) == ("p1", "failed", 1)


def test_a_report_tells_every_job_with_its_error_and_what_to_do(store: JobStore) -> None:
    """To report is no failure, whatever is reported."""
    finished(store, State.DONE, State.PARKED)
    told = herder("report", "p1")
    assert told.exit_code == 0
    assert "c2 (p1-2): told as out_of_space" in told.stdout
    assert "do something about out_of_space" in told.stdout
    assert "1 of 2 done" in told.stdout
    assert json.loads(herder("report", "p1", "--json").stdout)["jobs"][1]["error"]["code"] == "out_of_space"


@pytest.mark.parametrize(
    ("states", "refused", "code"),
    [
        ([State.DONE], False, 0),
        ([State.DONE, State.PARKED], False, 3),
        ([State.CANCELLED], False, 3),
        ([State.DONE], True, 3),
    ],
    ids=["all done", "one parked", "cancelled", "one refused"],
)
def test_watching_ends_with_the_code_of_the_result(
    store: JobStore, states: list[State], refused: bool, code: int
) -> None:
    """Zero only if all that was asked for is done."""
    stays = (Refusal(instance="db1", source="s1", findings=(a_finding(),)),) if refused else ()
    finished(store, *states, refusals=stays)
    assert herder("watch", "p1").exit_code == code


@pytest.mark.parametrize("verb", ["report", "watch", "cancel", "retry", "pause", "resume"])
def test_an_unknown_plan_is_one_clear_error(verb: str) -> None:
    """With the command that lists those that there are."""
    result = herder(verb, "p9")
    assert result.exit_code == 2
    assert "there is no plan 'p9'" in result.stderr
    assert "`herder status` lists the plans" in result.stderr


def test_a_cancel_that_is_refused_for_all_leaves_with_three(store: JobStore) -> None:
    """And says why for each."""
    finished(store, State.DONE)
    result = herder("cancel", "p1")
    assert result.exit_code == 3
    assert "c1 (p1-1): refused: it is done" in result.stdout


def test_a_cancel_can_be_left_for_workers_elsewhere(store: JobStore, wire: Wire) -> None:
    """Without waiting for it."""
    stored(a_plan(), store)
    result = herder("cancel", "p1", "--no-wait", "--json")
    assert result.exit_code == 0
    assert wire.job("p1-1")["control"] == "cancel"
    assert json.loads(result.stdout)["answers"] == [
        {"job": "p1-1", "instance": "web1", "done": "goes back to the source", "refused": ""}
    ]


def test_a_pause_is_asked_for_and_not_waited_for(store: JobStore, wire: Wire) -> None:
    """The workers carry it out."""
    stored(a_plan(), store)
    assert herder("pause", "p1").exit_code == 0
    assert wire.job("p1-1")["control"] == "pause"


def test_servers_that_do_not_answer_are_all_named() -> None:
    """Nothing has moved, and the exit code says that a server is away."""
    result = herder("evacuate", "s1:", "--to", "s2:", "--yes")
    assert result.exit_code == 4
    for name in ("s1", "s2"):
        assert f"{name}: " in result.stderr
    assert "tries again by itself" not in result.stderr, "at this point it does not"


def test_a_redis_that_does_not_answer_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the address that was tried."""
    monkeypatch.setattr("producer.session.connect", partial(connect, patient=False))
    monkeypatch.setenv("HERDER_REDIS_URL", "redis://127.0.0.1:1")
    result = herder("status")
    assert result.exit_code == 4
    assert "Redis at redis://127.0.0.1:1 does not answer" in result.stderr


def test_the_doctor_tells_facts_and_what_to_mend(store: JobStore) -> None:
    """A server that does not answer is a fact, not a crash; the code says that something is wrong."""
    store.sign_of_life("host:1:abc")
    result = herder("doctor", "--json")
    assert result.exit_code == 3
    checks = json.loads(result.stdout)
    wrong = {check["about"] for check in checks if not check["ok"]}
    assert wrong == {"s1", "s2"}
    assert all(check["fix"] for check in checks if not check["ok"])
    assert {"about": "redis", "fact": "appendonly yes", "ok": True, "fix": ""} in checks


def test_the_doctor_finds_that_nobody_works() -> None:
    """Plans that are submitted would wait for ever."""
    checks = json.loads(herder("doctor", "--json").stdout)
    (told,) = [check for check in checks if check["about"] == "workers"]
    assert told == {
        "about": "workers",
        "fact": "no worker is alive",
        "ok": False,
        "fix": "start one with `herder worker`",
    }


def test_watching_without_a_worker_says_that_nothing_moves(store: JobStore) -> None:
    """The person would wait for ever."""
    finished(store, State.DONE)
    assert "no worker is alive, so nothing moves" in herder("watch", "p1").stderr
    store.sign_of_life("host:1:abc")
    assert "no worker is alive" not in herder("watch", "p1").stderr


def test_the_doctor_finds_a_redis_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work would be lost without a word."""
    server = RedisServer()
    server.start()
    try:
        server.client().config_set("maxmemory-policy", "allkeys-lru")
        server.client().config_set("appendonly", "no")
        monkeypatch.setenv("HERDER_REDIS_URL", server.url)
        checks = json.loads(herder("doctor", "--json").stdout)
    finally:
        server.close()
    fixes = {check["fact"]: check["fix"] for check in checks if check["about"] == "redis" and not check["ok"]}
    assert fixes == {"maxmemory-policy allkeys-lru": "set it to noeviction", "appendonly no": "set it to yes"}
