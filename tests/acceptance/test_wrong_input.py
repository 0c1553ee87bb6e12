"""What cannot be carried out is refused in one sentence that names the culprit, before anything has moved."""

import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance import world
from tests.acceptance.choke import changed_configuration
from tests.acceptance.story import INPUT, NOT_ALL, UNREACHABLE, Herder
from tests.acceptance.world import Wish
from tests.lab import Lab

pytestmark = pytest.mark.lab


@dataclass(frozen=True)
class Place:
    """Two servers with an instance ``sheep`` on the first, and a user of both."""

    lab: Lab
    herder: Herder
    home: Path

    def picture(self) -> dict[str, dict[str, object]]:
        return {name: world.picture(self.lab.servers[name]) for name in ("s1", "s2")}

    def refuses(self, herder: Herder, *arguments: str, code: int, culprits: tuple[str, ...]) -> None:
        """It ends with this code and one error that names the culprits; no server has changed, nothing is submitted."""
        before = self.picture()
        ran = herder.run(*arguments, "--yes").ended(code)
        for culprit in culprits:
            assert culprit in ran.error
        assert self.picture() == before
        assert not (self.home / "state").exists()


@pytest.fixture(scope="module")
def sheepfold(lab: Lab) -> Iterator[Lab]:
    """s1 has a profile, a project and a pool that s2 lacks, a volume that s2 has too, and an instance with each."""
    s1, s2 = lab.servers["s1"], lab.servers["s2"]
    for server in (s1, s2):
        world.strip(server)
    s1.query("POST", "/1.0/profiles", {"name": "only-here", "config": {}, "devices": {}})
    s1.query("POST", "/1.0/projects", {"name": "only-here", "config": world.OWN_NOTHING})
    s1.query("POST", "/1.0/storage-pools", {"name": "only-here", "driver": "dir"})
    for server in (s1, s2):
        server.query("POST", "/1.0/storage-pools/default/volumes/custom", {"name": "everywhere", "type": "custom"})
    root = {"type": "disk", "path": "/", "pool": "only-here"}
    volume = {"type": "disk", "pool": "default", "source": "everywhere", "path": "/data"}
    world.make(s1, Wish(name="sheep"))
    world.make(s1, Wish(name="namesake", is_started=False))
    world.make(s2, Wish(name="namesake", is_started=False))
    world.make(s1, Wish(name="profiled", profiles=("default", "only-here"), is_started=False))
    world.make(s1, Wish(name="pooled", devices={"root": root}, is_started=False))
    world.make(s1, Wish(name="with-volume", devices={"data": volume}, is_started=False))
    world.make(s1, Wish(name="projected", project="only-here", is_started=False))
    yield lab
    for server in (s1, s2):
        world.strip(server)


@pytest.fixture
def place(sheepfold: Lab, home: Path) -> Place:
    return Place(sheepfold, Herder.of(sheepfold, home), home)


@pytest.mark.parametrize(
    ("arguments", "code", "culprits"),
    [
        pytest.param(("move", "s9:sheep", "s2:"), INPUT, ("'s9'",), id="unknown source"),
        pytest.param(("evacuate", "s1:", "--to", "s9:"), INPUT, ("'s9'",), id="unknown target"),
        pytest.param(("move", "s1:ship", "s2:"), INPUT, ("ship", "s1"), id="unknown instance"),
        pytest.param(("move", "s1:sheep", "s1:goat"), INPUT, ("s1", "source and a target"), id="source is target"),
        pytest.param(("evacuate", "s1:sheep", "--to", "s2:"), INPUT, ("s1:sheep",), id="instance for a server"),
        pytest.param(("move", "s1:namesake", "s2:"), NOT_ALL, ("s2", "instance namesake already"), id="name taken"),
        pytest.param(("move", "s1:profiled", "s2:"), NOT_ALL, ("s2", "no profile only-here"), id="no such profile"),
        pytest.param(("move", "s1:pooled", "s2:"), NOT_ALL, ("s2", "no pool only-here", "default"), id="no such pool"),
        pytest.param(("move", "s1:sheep", "s2:", "--storage", "nopool"), NOT_ALL, ("no pool nopool",), id="storage"),
        pytest.param(
            ("move", "s1:with-volume", "s2:"), NOT_ALL, ("volume default/everywhere", "s2"), id="volume taken"
        ),
        pytest.param(
            ("move", "s1:sheep", "s2:", "--device", "eth0,parent=nobridge"), NOT_ALL, ("nobridge", "s2"), id="network"
        ),
        pytest.param(
            ("move", "s1:projected", "s2:", "--project", "only-here"), NOT_ALL, ("s2", "only-here"), id="target project"
        ),
        pytest.param(("evacuate", "s1:", "--to", "s2:", "--project", "nope"), INPUT, ("s1", "nope"), id="project"),
        pytest.param(("move", "s1:sheep", "s2:", "--downtime", "soon"), INPUT, ("--downtime", "soon"), id="duration"),
        pytest.param(("move", "s1:sheep", "s2:", "--config", "user.x"), INPUT, ("--config", "user.x"), id="config"),
        pytest.param(("move", "s1:sheep", "s2:", "--mode", "carrier-pigeon"), INPUT, ("--mode",), id="mode"),
        pytest.param(("run", "/nowhere/plan.yaml"), INPUT, ("/nowhere/plan.yaml",), id="no such file"),
    ],
)
def test_an_impossible_request_names_its_culprit(
    place: Place, arguments: tuple[str, ...], code: int, culprits: tuple[str, ...]
) -> None:
    place.refuses(place.herder, *arguments, code=code, culprits=culprits)


def _other_certificate(lab: Lab, folder: Path) -> Path:
    """s2 is known by the certificate of another server."""
    changed = changed_configuration(lab, folder, {})
    shutil.copy(lab.servers["d1"].certificate, changed / "servercerts" / "s2.crt")
    return changed


def _stranger(lab: Lab, folder: Path) -> Path:
    """A client certificate that no server trusts."""
    changed = changed_configuration(lab, folder, {})
    shutil.copy(lab.servers["d1"].certificate, changed / "client.crt")
    shutil.copy(lab.servers["d1"].lxd_dir / "server.key", changed / "client.key")
    return changed


def _nobody_there(lab: Lab, folder: Path) -> Path:
    """s2 is at a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    return changed_configuration(lab, folder, {"s2": {"addr": f"https://127.0.0.1:{port}"}})


@pytest.mark.parametrize(
    ("configuration", "code", "culprits"),
    [
        pytest.param(_other_certificate, INPUT, ("s2", "certificate"), id="another server's certificate"),
        pytest.param(_stranger, INPUT, ("s1", "s2", "trust"), id="an untrusted client"),
        pytest.param(_nobody_there, UNREACHABLE, ("s2",), id="a server that is down"),
    ],
)
def test_a_server_that_is_not_as_agreed_is_named(
    place: Place, configuration: Callable[[Lab, Path], Path], code: int, culprits: tuple[str, ...]
) -> None:
    herder = place.herder.having(configuration(place.lab, place.home / "conf"))
    place.refuses(herder, "move", "s1:sheep", "s2:", code=code, culprits=culprits)


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        pytest.param(("move", "s9:sheep", "s2:"), INPUT, "unknown_remote", id="input"),
        pytest.param(("move", "s1:namesake", "s2:"), NOT_ALL, "preflight_refused", id="refusal"),
    ],
)
def test_a_program_gets_the_error_as_json(place: Place, arguments: tuple[str, ...], code: int, kind: str) -> None:
    told = place.herder.run(*arguments, "--yes", "--json").ended(code).json
    assert told.keys() == {"error"}
    assert told["error"].keys() == {"code", "message", "hint"}
    assert told["error"]["code"] == kind


def test_a_typo_in_a_request_file_is_shown_with_line_and_column(place: Place) -> None:
    file = place.home / "request.yaml"
    file.write_text("plan: x\nselect: {source: s1}\ntargets: [s2]\nlimits:\n  downtme: 5s\n")
    before = place.picture()
    error = place.herder.run("plan", str(file)).ended(INPUT).error
    assert f"{file}:5:3" in error
    assert "downtme" in error
    assert place.picture() == before


def test_a_typo_in_a_plan_is_shown_with_line_and_column(place: Place) -> None:
    file = place.home / "plan.yaml"
    place.herder.run("plan", "evacuate", "s1:", "--to", "s2:", "-o", str(file)).ended(NOT_ALL)
    lines = file.read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if line.lstrip("- ").startswith("grace:"))
    lines[number - 1] = lines[number - 1].replace("grace:", "grase:")
    file.write_text("\n".join(lines))
    column = lines[number - 1].index("grase") + 1
    place.refuses(place.herder, "run", str(file), code=INPUT, culprits=(f"{file}:{number}:{column}", "grase"))


def test_of_several_instances_all_that_stands_in_the_way_is_told_at_once(place: Place) -> None:
    """Nothing moves, not even what could; `--skip-refused` moves that, and the exit code still says: not all."""
    with_culprits = ("namesake", "profiled", "pooled", "with-volume", "4 of 5", "--skip-refused")
    place.refuses(place.herder, "evacuate", "s1:", "--to", "s2:", code=NOT_ALL, culprits=with_culprits)
