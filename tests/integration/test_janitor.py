"""``herder janitor`` over a real Redis and servers that do not answer: what it believes then, and how it leaves."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from common.store.keys import Keys
from producer.cli.main import app

CONFIG = """\
remotes:
  s1: {addr: "https://127.0.0.1:1", protocol: lxd}
  s2: {addr: "https://127.0.0.1:2", protocol: lxd}
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_url: str, keys: Keys) -> None:
    """A user with two servers that do not answer, no local one, and the Redis of the tests."""
    (tmp_path / "config.yml").write_text(CONFIG)
    for name in ("HERDER_CONFIG", "INCUS_CONF", "XDG_CONFIG_HOME", "LXD_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LXD_CONF", str(tmp_path))
    monkeypatch.setenv("LXD_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HERDER_REDIS_URL", redis_url)
    monkeypatch.setenv("HERDER_NAMESPACE", keys.namespace)
    monkeypatch.chdir(tmp_path)


def janitor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["janitor", *arguments])


def test_servers_that_do_not_answer_are_named_and_nothing_is_called_clean() -> None:
    """The local socket that is not there is nobody's mistake; the exit code says that the answer is not whole."""
    ran = janitor("--json")
    told = json.loads(ran.stdout)
    assert ran.exit_code == 4
    assert (told["servers"], set(told["unseen"]), told["found"]) == ([], {"s1", "s2"}, [])
    assert "s1 was not looked at:" in janitor().stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--fix", "--json"], "--json shows nothing that you could agree to"),
        (["s9:"], "no remote 's9'"),
        (["s1:web1"], "'s1:web1' names an instance"),
        (["--stuck-after", "long"], "--stuck-after: 'long' is not a duration"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_error(arguments: list[str], error: str) -> None:
    """Before any server is asked."""
    ran = janitor(*arguments)
    assert ran.exit_code == 2
    assert error in ran.stderr
