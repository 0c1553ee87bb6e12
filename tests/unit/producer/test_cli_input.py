"""Wrong input: one clear error on standard error, a hint, exit code 2, and nothing has been touched."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from producer.cli.main import app
from producer.planfile import write_plan
from tests.builders import a_plan

CONFIG = """\
default-remote: s1
remotes:
  s1: {addr: "https://127.0.0.1:1", protocol: lxd}
  s2: {addr: "https://127.0.0.1:1", protocol: lxd}
  images: {addr: "https://images.invalid", protocol: simplestreams, public: true}
"""

REQUEST = "plan: empty-s1\nselect: {source: s1}\ntargets: [s2]\n"


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user with two servers and no other settings, in a directory of his own."""
    directory = tmp_path / "lxc"
    directory.mkdir()
    (directory / "config.yml").write_text(CONFIG)
    for name in ("HERDER_CONFIG", "HERDER_REDIS_URL", "INCUS_CONF", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LXD_CONF", str(directory))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HERDER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def herder(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, list(arguments))


def said(result: Result) -> str:
    """What was said on standard error, on one line."""
    return " ".join(result.stderr.split())


MISTAKES: Sequence[tuple[str, list[str], str]] = [
    ("an unknown source", ["evacuate", "s9:", "--to", "s2:", "--yes"], "no remote 's9'; known: local, s1, s2"),
    ("an unknown target", ["evacuate", "s1:", "--to", "s9:", "--yes"], "no remote 's9'"),
    (
        "a drill in an archive",
        ["backup", "drill", "/srv/web.tar"],
        "/srv/web.tar: a generation in an archive cannot be",
    ),
    ("a server of images", ["evacuate", "images:", "--to", "s2:", "--yes"], "gives out images and runs no instances"),
    ("an instance where a server is meant", ["evacuate", "s1:web1", "--to", "s2:"], "'s1:web1' names an instance"),
    (
        "a limit that is no rate",
        ["move", "s1:web1", "s2:", "--limit", "fast", "--yes"],
        "--limit: 'fast' is not a rate; write 200MiB/s or 50MB/s",
    ),
    (
        "a map of no kind",
        ["evacuate", "s1:", "--to", "s2:", "--map", "volume:a=b"],
        "--map 'volume:a=b': write KIND:NAME=NAME; a KIND is profile, network, pool or project",
    ),
    (
        "a volume without its pool",
        ["volume", "move", "s1:data", "s2:", "--yes"],
        "'data': a volume is written POOL/VOLUME",
    ),
    (
        "a snapshot of a volume",
        ["volume", "copy", "s1:default/data/monday", "s2:", "--yes"],
        "a snapshot is not copied by itself",
    ),
    (
        "a volume left to workers elsewhere that are none",
        ["volume", "copy", "s1:default/data", "s2:", "--detach", "--yes"],
        "--detach needs workers that run elsewhere",
    ),
    ("no volume", ["volume", "refresh", "s1:", "s2:", "--yes"], "s1: names no volume"),
    (
        "volumes of a pool, and one by name",
        ["volume", "copy", "s1:default/data", "s2:", "--pool", "fast"],
        "names and --all or --pool exclude each other",
    ),
    ("a volume to nowhere", ["volume", "move", "s1:default/data", "data2"], "'data2' names no server"),
    ("a volume's name without its pool", ["volume", "move", "s1:default/data", "s2:/x"], "write TARGET:[POOL[/NAME]]"),
    ("volumes of two servers", ["volume", "copy", "s1:a/b", "s2:a/b", "s2:"], "s1 and s2 are two sources"),
    ("a map to nowhere", ["move", "s1:web1", "s2:", "--map", "pool:a"], "--map 'a': write KEY=VALUE"),
    (
        "a map to two names",
        ["copy", "s1:web1", "s2:", "--map", "pool:a=b", "--map", "pool:a=c"],
        "--map: pool a has two names",
    ),
    (
        "a downtime that is none",
        ["evacuate", "s1:", "--to", "s2:", "--downtime", "soon"],
        "--downtime: 'soon' is not a duration; write 30s, 5m, 2h or 500ms",
    ),
    (
        "a grace that is none",
        ["move", "s1:web1", "s2:", "--grace", "-5s"],
        "--grace: '-5s' is not a duration",
    ),
    (
        "a config that is no pair",
        ["move", "s1:web1", "s2:", "--config", "limits.cpu"],
        "--config 'limits.cpu': write KEY=VALUE",
    ),
    ("a config without a key", ["move", "s1:web1", "s2:", "-c", "=4"], "--config '=4': write KEY=VALUE"),
    ("a device that is no triple", ["move", "s1:web1", "s2:", "-d", "eth0"], "--device 'eth0': write DEVICE,KEY=VALUE"),
    (
        "a device without a value",
        ["move", "s1:web1", "s2:", "-d", "eth0,network"],
        "--device 'network': write KEY=VALUE",
    ),
    (
        "profiles and none",
        ["move", "s1:web1", "s2:", "--profile", "ssd", "--no-profiles"],
        "--no-profiles and --profile exclude each other",
    ),
    ("a target without a server", ["move", "s1:web1", "web2"], "'web2' names no server"),
    ("a source without an instance", ["move", "s1:", "s2:"], "'s1:' names no instance"),
    ("a request file that is not there", ["plan", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
    ("a plan file that is not there", ["run", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
    ("a member with options of servers", ["evacuate", "s1:c1", "--project", "x"], "all of a member leaves"),
    ("a member that keeps its sources", ["evacuate", "s1:c1", "--retire", "stop"], "would stay on the member"),
    ("members of two clusters", ["evacuate", "s1:c1", "s2:c1", "--yes"], "s1 and s2 are two clusters"),
    ("two servers at once", ["evacuate", "s1:", "s2:", "--to", "s2:"], "with --to there is one server"),
    (
        "members of two targets",
        ["evacuate", "s1:", "--to", "s2:", "--to", "s3:", "--target", "c1"],
        "--target names members of one cluster",
    ),
    (
        "another project within a cluster",
        ["move", "s1:web1", "--target", "c1", "--target-project", "x"],
        "--target-project does not go with --target within a cluster",
    ),
    ("a new name within a cluster", ["move", "s1:web1", "s1:web2", "--target", "c1"], "'web2' would be a new name"),
    ("a restore of no member", ["restore", "s1:", "--yes"], "names no member"),
    (
        "a request file with options of evacuate",
        ["plan", "r.yaml", "--to", "s2:"],
        "a request file says source and targets",
    ),
    (
        "a detached run without workers elsewhere",
        ["run", "plan.yaml", "--detach"],
        "--detach needs workers that run elsewhere",
    ),
    ("a worker without a Redis to share", ["worker"], "herder worker needs a Redis that the producers use too"),
    ("a remote that is there already", ["remote", "add", "s1", "https://127.0.0.1:1"], "there is a remote s1 already"),
    ("an unknown server to examine", ["doctor", "s9:"], "no remote 's9'"),
]


@pytest.mark.parametrize(("arguments", "words"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_clear_error(own_home: Path, arguments: list[str], words: str) -> None:
    """No traceback, no half-done work: neither a Redis nor a worker was started."""
    write_plan(a_plan(), own_home / "plan.yaml")
    (own_home / "r.yaml").write_text(REQUEST)
    result = herder(*arguments)
    assert result.exit_code == 2, result.output
    assert words in said(result)
    assert said(result).startswith("error: ")
    assert result.stdout == ""
    assert not (own_home / "state" / "redis.sock").exists()


USAGE = [
    ["evacuate", "s1:"],
    ["plan", "evacuate", "s1:"],
    ["evacuate", "s1:", "--to", "s2:", "--method", "lukewarm"],
    ["evacuate", "s1:", "--to", "s2:", "--transfers", "0"],
    ["evacuate", "s1:", "--to", "s2:", "--retire", "burn"],
    ["move", "s1:web1"],
    ["fly"],
    ["status", "--jason"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage_is_answered_with_the_usage(arguments: list[str]) -> None:
    """Unknown words and missing arguments are found before anything is asked."""
    result = herder(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_a_typo_in_a_request_is_shown_with_its_place(own_home: Path) -> None:
    """File, line and column, and where the keys are described."""
    (own_home / "r.yaml").write_text(REQUEST + "retrie: stop\n")
    result = herder("plan", "r.yaml")
    assert result.exit_code == 2
    assert "r.yaml:4:1: retrie: there is no such key" in said(result)
    assert "hint: see docs/reference/plan-file.md" in said(result)


def test_a_typo_in_a_plan_is_shown_with_its_place(own_home: Path) -> None:
    """Before anything runs."""
    write_plan(a_plan(), own_home / "plan.yaml")
    text = (own_home / "plan.yaml").read_text()
    (own_home / "plan.yaml").write_text(text.replace("fingerprint:", "fingerprints:"))
    result = herder("run", "plan.yaml", "--yes")
    assert result.exit_code == 2
    assert "fingerprints: there is no such key" in said(result)


def test_a_request_is_not_run_and_a_plan_is_not_planned(own_home: Path) -> None:
    """The hint names the right command."""
    (own_home / "r.yaml").write_text(REQUEST)
    write_plan(a_plan(), own_home / "plan.yaml")
    assert "hint: `herder plan r.yaml` makes a plan of it" in said(herder("run", "r.yaml"))
    assert "hint: `herder run plan.yaml` carries it out" in said(herder("plan", "plan.yaml"))


def test_a_wrong_setting_is_shown_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """By every command that needs the settings."""
    monkeypatch.setenv("HERDER_WORKERS", "several")
    result = herder("status")
    assert result.exit_code == 2
    assert "HERDER_WORKERS: workers: Input should be a valid integer" in said(result)


def test_a_broken_client_configuration_is_shown_with_its_line(own_home: Path) -> None:
    """It is the file of `lxc`, so it must be named."""
    (own_home / "lxc" / "config.yml").write_text("remotes:\n  s1: {protocol: lxd}\n")
    result = herder("remote", "list")
    assert result.exit_code == 2
    assert f"{own_home / 'lxc' / 'config.yml'}:2: a remote needs an addr" in said(result)


def test_a_mistake_is_told_in_json_too() -> None:
    """Scripts read standard output; people still see it on standard error."""
    result = herder("evacuate", "s9:", "--to", "s2:", "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "unknown_remote"
    assert error["message"].startswith("no remote 's9'")
    assert "remote add" in error["hint"]
    assert "no remote 's9'" in said(result)


def test_text_of_people_is_not_taken_for_markup() -> None:
    """Square brackets are printed as they are."""
    assert "no remote '[bold]x'" in said(herder("evacuate", "[bold]x:", "--to", "s2:"))


def test_the_version_is_printed() -> None:
    """And nothing else."""
    result = herder("--version")
    assert result.exit_code == 0
    assert result.stdout.strip().count(".") == 2


@pytest.mark.parametrize("verb", ["plan", "run", "evacuate", "move", "status", "cancel", "retry", "pause", "resume"])
def test_help_ends_with_the_exit_codes(verb: str) -> None:
    """They are what a script decides on."""
    result = herder(verb, "--help")
    assert result.exit_code == 0
    assert "EXIT STATUS" in result.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("policies: [", "policies.yaml:"),
        ("nights: 7\n", "policies.yaml:1:1: policies: is missing"),
        ("policies: [{name: nightly, select: {source: s1}, targets: [{remote: s2}]}]\n", "schedule"),
        (
            "policies: [{name: nightly, select: {source: s1}, schedule: {when: daily}, targets: [{shelf: /srv}]}]\n",
            "targets.0.shelf: there is no such key",
        ),
    ],
)
def test_a_wrong_policy_file_is_told_before_anything_is_asked(own_home: Path, text: str | None, words: str) -> None:
    """By what is wrong in it; no server is asked."""
    if text is not None:
        (own_home / "policies.yaml").write_text(text)
    result = herder("backup", "run", "policies.yaml")
    assert (result.exit_code, result.stderr.count("error:")) == (2, 1), result.stderr
    assert words in said(result)


def test_a_policy_that_the_file_lacks_is_told_with_those_that_it_has(own_home: Path) -> None:
    """And a moment that is none."""
    one = "{name: nightly, select: {source: s1}, schedule: {when: daily}, targets: [{remote: s2}]}"
    (own_home / "policies.yaml").write_text(f"policies: [{one}]\n")
    assert "it has nightly" in said(herder("backup", "run", "policies.yaml", "weekly"))
    assert "--at: Invalid isoformat" in said(herder("backup", "run", "policies.yaml", "--at", "tuesday"))
