"""Plan files: what may be written, what each mistake is answered with, and that nothing is lost on the way."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from common.domain.errors import PlanFileError
from common.domain.plan import (
    AfterGrace,
    Health,
    Limits,
    Method,
    Mode,
    NameMap,
    Overrides,
    Own,
    Policy,
    Request,
    Retire,
    Selection,
)
from producer.planfile import read_plan, read_request, write_plan
from tests.builders import a_full_plan, a_move, a_plan, a_request

SMALLEST = """\
plan: empty-s1
select: {source: s1}
targets: [s2]
"""

LARGEST = """\
# Empty lxd-a before its maintenance on Sunday.
plan: empty-lxd-a
method: warm
select:
  source: "lxd-a:"
  project: shop
  instances: [web1, web2]
  match: {user.tier: web*, limits.cpu: 4, boot.autostart: true}
targets: ["lxd-b:", lxd-c]
target_project: shop2
limits: {per_source: 3, per_target: 5, cutovers: 7, downtime: 500ms, stall: 90, rate: 200MiB/s}
stop: {grace: 5m, then: give-back}
retire: delete
mode: relay
health: {command: [systemctl, is-system-running], timeout: 2m}
overrides:
  config: {limits.memory: 4GiB, security.nesting: yes}
  devices: {eth0: {network: br1, mtu: 9000}}
  profiles: [default, ssd]
  storage: fast
map:
  profiles: {default: prod}
  networks: {br0: br1}
  pools: {default: ssd}
  projects: {shop: store}
each:
  web1: {name: shop1, overrides: {config: {limits.cpu: 2}, storage: ssd, instance_only: true, ephemeral: true}}
  web2: {overrides: {profiles: []}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file under test is written."""
    return tmp_path / "move.yaml"


def request_in(path: Path, text: str) -> Request:
    """What the request file asks for."""
    path.write_text(text)
    return read_request(path)


def error_in(path: Path, text: str) -> str:
    """What is said about a request file that is wrong, with ``FILE`` for its path."""
    with pytest.raises(PlanFileError) as raised:
        request_in(path, text)
    return raised.value.message.replace(str(path), "FILE")


def test_three_lines_are_a_request_and_the_rest_has_defaults(path: Path) -> None:
    """The defaults are those of the domain, so that a file and the command line mean the same."""
    assert request_in(path, SMALLEST) == Request(name="empty-s1", select=Selection(source="s1"), targets=("s2",))


def test_everything_can_be_said_in_a_request(path: Path) -> None:
    """Remotes may end with a colon, as `lxc` writes them; config values become the strings that LXD knows."""
    assert request_in(path, LARGEST) == Request(
        name="empty-lxd-a",
        select=Selection(
            source="lxd-a",
            project="shop",
            instances=("web1", "web2"),
            match={"user.tier": "web*", "limits.cpu": "4", "boot.autostart": "true"},
        ),
        targets=("lxd-b", "lxd-c"),
        target_project="shop2",
        policy=Policy(
            method=Method.WARM,
            downtime=timedelta(milliseconds=500),
            grace=timedelta(minutes=5),
            after_grace=AfterGrace.GIVE_BACK,
            retire=Retire.DELETE,
            mode=Mode.RELAY,
            stall=timedelta(seconds=90),
            rate=200 * 1024**2,
            health=Health(command=("systemctl", "is-system-running"), timeout=timedelta(minutes=2)),
        ),
        limits=Limits(per_source=3, per_target=5, cutovers=7),
        overrides=Overrides(
            config={"limits.memory": "4GiB", "security.nesting": "true"},
            devices={"eth0": {"network": "br1", "mtu": "9000"}},
            profiles=("default", "ssd"),
            storage="fast",
            map=NameMap(
                profiles={"default": "prod"},
                networks={"br0": "br1"},
                pools={"default": "ssd"},
                projects={"shop": "store"},
            ),
        ),
        each={
            "web1": Own(
                name="shop1",
                overrides=Overrides(config={"limits.cpu": "2"}, storage="ssd", instance_only=True, ephemeral=True),
            ),
            "web2": Own(overrides=Overrides(profiles=())),
        },
    )


def test_members_are_those_of_the_target_which_may_be_the_source_itself(path: Path) -> None:
    """Then the instances change their member."""
    into = request_in(path, SMALLEST + "members: [c2, '@gpu', c2]\n")
    assert (into.targets, into.members) == (("s2",), ("c2", "@gpu"))
    within = request_in(path, SMALLEST.replace("[s2]", "[s1]") + "members: [c2]\n")
    assert (within.targets, within.members) == ((), ("c2",))


def test_no_profiles_is_not_the_same_as_those_of_the_source(path: Path) -> None:
    """An empty list means none."""
    assert request_in(path, SMALLEST + "overrides: {profiles: []}").overrides.profiles == ()
    assert request_in(path, SMALLEST).overrides.profiles is None


MISTAKES = [
    ("an unknown key", SMALLEST + "retrie: stop\n", "FILE:4:1: retrie: there is no such key"),
    (
        "an unknown key further down",
        "plan: x\nselect:\n  source: s1\n  instance: [web1]\ntargets: [s2]\n",
        "FILE:4:3: select.instance: there is no such key",
    ),
    ("a missing key", "plan: x\ntargets: [s2]\n", "FILE:1:1: select: is missing"),
    (
        "a missing key further down",
        "plan: x\nselect: {project: p}\ntargets: [s2]\n",
        "FILE:2:1: select.source: is missing",
    ),
    (
        "a word that is not one of ours",
        SMALLEST + "method: lukewarm\n",
        "FILE:4:1: method: Input should be 'warm', 'cold', ",
    ),
    (
        "a duration that is none",
        SMALLEST + "limits:\n  per_source: 2\n  downtime: 5 parsecs\n",
        "FILE:6:3: limits.downtime: '5 parsecs' is not a duration; write 30s, 5m, 2h or 500ms",
    ),
    ("a limit of nothing", SMALLEST + "limits: {per_source: 0}\n", "FILE:4:10: limits.per_source: Input should be"),
    ("no targets", "plan: x\nselect: {source: s1}\ntargets: []\n", "FILE:3:1: targets: List should have at least 1"),
    (
        "a target without a name",
        "plan: x\nselect: {source: s1}\ntargets:\n  - s2\n  - ''\n",
        "FILE:5:5: targets.1: Value should have at least 1",
    ),
    ("text where a list is wanted", SMALLEST.replace("[s2]", "s2"), "FILE:3:1: targets: Input should be a valid list"),
    (
        "a health check without a command",
        SMALLEST + "health: {command: []}\n",
        "FILE:4:10: health.command: List should",
    ),
    ("a list instead of a request", "- plan: x\n", "FILE:1:1: the file: Input should be"),
    ("an empty file", "", "FILE:1:1: the file: Input should be"),
    ("a bracket that is not closed", "plan: x\ntargets: [s2\n", "FILE:3:1: expected ',' or ']'"),
    ("a tab", "plan: x\n\tselect: y\n", "FILE:2:1: found character '\\t'"),
    ("a key that is given twice", SMALLEST + "plan: other\n", "FILE:4:1: plan: given twice"),
    (
        "a key that is given twice further down",
        "plan: x\nselect: {source: s1, source: s3}\ntargets: [s2]\n",
        "FILE:2:22: source: given twice",
    ),
    ("a date that is none", SMALLEST.replace("empty-s1", "2025-13-45"), "FILE: month must be in 1..12"),
    ("a control character", SMALLEST.replace("empty-s1", "bell\x07"), "FILE: unacceptable character"),
    ("a list that contains itself", SMALLEST.replace("[s2]", "&it [*it]"), "FILE"),
    ("two documents", SMALLEST + "---\n" + SMALLEST, "FILE:4:1: but found another document"),
]


@pytest.mark.parametrize(("text", "said"), [case[1:] for case in MISTAKES], ids=[case[0] for case in MISTAKES])
def test_a_mistake_is_named_with_its_place(path: Path, text: str, said: str) -> None:
    """File, line and column, where YAML lets us know them, and what is wrong in words."""
    assert said in error_in(path, text)


def test_all_mistakes_are_named_at_once(path: Path) -> None:
    """Each on its own line."""
    lines = error_in(path, "plan: x\nselect: {sauce: s1}\ntargets: [s2]\nretire: burn\n").splitlines()
    assert [line.split(": ")[1] for line in lines] == ["select.source", "select.sauce", "retire"]


def test_a_file_that_is_not_there_is_said_so(path: Path) -> None:
    """For requests and plans alike."""
    for read in (read_request, read_plan):
        with pytest.raises(PlanFileError, match=f"{path}: No such file or directory"):
            read(path)


def test_a_file_that_is_not_text_is_said_so(path: Path) -> None:
    """A picture is no plan."""
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(PlanFileError, match="it is not UTF-8 text"):
        read_request(path)


def test_a_plan_survives_being_written_and_read(path: Path) -> None:
    """With every field at another value than its default."""
    plan = a_full_plan()
    write_plan(plan, path)
    assert read_plan(path) == plan


def test_an_empty_plan_survives_too(path: Path) -> None:
    """With every field at its default."""
    plan = a_plan()
    write_plan(plan, path)
    assert read_plan(path) == plan


def test_a_written_plan_begins_with_how_to_carry_it_out(path: Path) -> None:
    """People open it first to see what it is."""
    write_plan(a_plan(a_move("c1"), a_move("c2")), path)
    assert path.read_text().splitlines()[0] == f"# 2 moves, 0 refused. Carry it out with: herder run {path}"


def test_a_plan_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    """The directory is not there, for example."""
    with pytest.raises(PlanFileError, match="No such file or directory"):
        write_plan(a_plan(), tmp_path / "nowhere" / "plan.yaml")


TYPOS = [
    ("reason: ''", "raison: because", "moves.0.raison: there is no such key"),
    ("method: warm", "method: lukewarm", "moves.0.method: Input should be"),
    ("per_source: 2", "per_source: many", "request.limits.per_source: Input should be"),
    ("cutovers: 4", "cutover: 4", "request.limits.cutover: there is no such key"),
    ("fingerprint: ''", "fingerprints: ''", "fingerprints: there is no such key"),
]


@pytest.mark.parametrize(("right", "wrong", "said"), TYPOS, ids=[typo[1] for typo in TYPOS])
def test_a_typo_in_a_plan_is_named_with_its_place(path: Path, right: str, wrong: str, said: str) -> None:
    """Plans are there to be reviewed and edited; a key that is not understood must not be passed over."""
    write_plan(a_plan(), path)
    before, found, after = path.read_text().partition(right)
    assert found
    path.write_text(before + wrong + after)
    above, _, indent = before.rpartition("\n")
    line, column = above.count("\n") + 2, len(indent) + 1
    with pytest.raises(PlanFileError) as raised:
        read_plan(path)
    assert f"{path}:{line}:{column}: {said}" in raised.value.message


def test_a_key_that_a_plan_lacks_is_named_with_the_place_where_it_belongs(path: Path) -> None:
    """Which is the mapping that lacks it."""
    write_plan(a_plan(), path)
    path.write_text(path.read_text().replace("created_at: ", "created: "))
    with pytest.raises(PlanFileError) as raised:
        read_plan(path)
    assert f"{path}:2:1: created_at: is missing" in raised.value.message


def test_a_request_and_a_plan_are_not_mistaken_for_each_other(path: Path) -> None:
    """The hint names the command that the file is for."""
    path.write_text(SMALLEST)
    with pytest.raises(PlanFileError, match="this is a request, not a plan") as raised:
        read_plan(path)
    assert raised.value.hint == f"`herder plan {path}` makes a plan of it"
    write_plan(a_plan(), path)
    with pytest.raises(PlanFileError, match="this is a plan, not a request") as raised:
        read_request(path)
    assert raised.value.hint == f"`herder run {path}` carries it out"


def test_a_written_plan_is_plain_yaml(path: Path) -> None:
    """Anybody's tools can read it."""
    write_plan(a_plan(request=a_request(name="große Räumung")), path)
    assert "große Räumung" in path.read_text()
    assert yaml.safe_load(path.read_text())["moves"][0]["instance"] == "web1"
