"""From LXD to Incus and between servers of Incus, on real servers: data, snapshots and addresses as before."""

from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.acceptance import world
from tests.acceptance.story import DONE, INPUT, NOT_ALL, Herder, worker
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, host
from tests.lab.product import PROGRAMS

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

NAMES = ("web1", "web2", "web3", "off")


@pytest.fixture
def s1(incus: Lab) -> Iterator[LabServer]:
    """A server of LXD."""
    yield from world.cleaned(incus.servers["s1"])


@pytest.fixture
def i1(incus: Lab) -> Iterator[LabServer]:
    """A server of Incus."""
    yield from world.cleaned(incus.servers["i1"])


@pytest.fixture
def i2(incus: Lab) -> Iterator[LabServer]:
    """Another server of Incus."""
    yield from world.cleaned(incus.servers["i2"])


@pytest.fixture
def herder(incus: Lab, home: Path) -> Herder:
    """A user of all servers of the lab."""
    return Herder.of(incus, home)


def populate(server: LabServer) -> dict[str, tuple[object, ...]]:
    """Three running instances and a stopped one; returns what must be the same afterwards."""
    for name in NAMES:
        config = {"boot.autostart": "true", "limits.kernel.nofile": "4096", "user.owner": name}
        world.make(
            server, Wish(name=name, config=config, files={"/root/data": name * 1000}, description=f"it is {name}")
        )
        world.take_snapshot(server, name, "s0")
        world.write(server, name, "/root/later", f"written by {name} after its snapshot")
    world.stop(server, "off")
    return {name: described(server, name) for name in NAMES}


def described(server: LabServer, name: str) -> tuple[object, ...]:
    record = world.get(server, name)
    own = [snap for snap in world.snapshots(server, name).items() if not snap[0].startswith(world.SNAPSHOT)]
    kept = {key: record["config"].get(key) for key in ("volatile.uuid", "volatile.cloud-init.instance-id")}
    return (
        record["status"],
        record["description"],
        record["profiles"],
        world.owners_config(record),
        kept,
        own,
        world.tree(world.rootfs(server, name) / "root"),
        world.tree(world.rootfs(server, name, snapshot="s0") / "root"),
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["warm", "cold"])
@pytest.mark.parametrize("source", ["s1", "i1"])
def test_an_evacuation_to_incus_brings_everything(
    i2: LabServer, herder: Herder, source: str, method: str, request: pytest.FixtureRequest
) -> None:
    """From LXD and from Incus; no instance ever runs twice, and the sources cannot start any more."""
    origin: LabServer = request.getfixturevalue(source)
    before = populate(origin)
    with NeverTwice(origin, i2):
        herder.run("evacuate", f"{source}:", "--to", "i2:", "--method", method, "--yes").ended(DONE)
    assert {name: described(i2, name) for name in NAMES} == before
    for name in NAMES:
        world.assert_cannot_start(origin, name)
        assert world.traces_on(i2, name) == []
        if name != "off":
            world.assert_moved(origin, i2, name)


@pytest.mark.parametrize("mode", ["push", "relay"])
def test_a_move_from_lxd_to_incus_by_push_or_relay_brings_everything(
    s1: LabServer, i2: LabServer, herder: Herder, mode: str
) -> None:
    """Of running instances and of a stopped one, with their snapshots, as a pull does."""
    before = populate(s1)
    with NeverTwice(s1, i2):
        report = herder.run("move", "s1:", "i2:", "--all", "--mode", mode, "--yes", "--json").ended(DONE).json
    assert {job["way"].partition(":")[0] for job in report["jobs"]} == {mode}
    assert {name: described(i2, name) for name in NAMES} == before
    for name in NAMES:
        world.assert_cannot_start(s1, name)
        assert world.traces_on(i2, name) == []


@pytest.mark.parametrize("step", ["full_pass", "hand_over", "start_target"])
def test_a_killed_worker_leaves_a_move_to_incus_that_another_finishes(
    s1: LabServer, i2: LabServer, herder: Herder, redis_url: str, step: str
) -> None:
    """SIGKILL right before the step; a worker that comes later takes over what the first has begun."""
    world.make(s1, Wish(name="web1", files={"/root/data": "data"}))
    world.take_snapshot(s1, "web1", "s0")
    before = described(s1, "web1")
    user = herder.having(HERDER_REDIS_URL=redis_url, HERDER_NAMESPACE=f"incus-{step}")
    log = herder.home / "worker.log"
    with NeverTwice(s1, i2):
        running = user.start("move", "s1:web1", "i2:", "--yes")
        dies = worker(user, "--at", "before", step, "--flag", str(herder.home / "died"), log=log)
        assert dies.wait(60) == -9, log.read_text()
        heir = worker(user, log=log)
        running.wait().ended(DONE)
        heir.terminate()
        heir.wait(30)
    assert described(i2, "web1") == before
    world.assert_moved(s1, i2, "web1")


@pytest.mark.of_lxd
def test_config_that_incus_does_not_know_is_refused_by_name_before_anything_moves(
    s1: LabServer, i2: LabServer, herder: Herder
) -> None:
    """Other instances of the plan go; nothing is dropped silently."""
    world.make(s1, Wish(name="web1", config={"security.devlxd": "false"}))
    before = world.picture(s1), world.picture(i2)
    ran = herder.run("move", "s1:web1", "i2:", "--yes").ended(NOT_ALL)
    assert "security.devlxd=false: Unknown configuration key" in ran.out + ran.err
    assert "lxc config unset s1:web1 security.devlxd" in ran.out + ran.err
    assert (world.picture(s1), world.picture(i2)) == before


@pytest.mark.of_lxd
def test_snapshots_do_not_go_from_incus_to_lxd_and_the_instance_without_them_does(
    s1: LabServer, i1: LabServer, herder: Herder
) -> None:
    """LXD 5.0.2 refuses what Incus says of a snapshot; herder says so first, and how it can be done."""
    world.make(i1, Wish(name="web1", files={"/root/data": "data"}))
    address = world.get(i1, "web1")["config"]["volatile.eth0.hwaddr"]
    refused = herder.run("move", "i1:web1", "s1:", "--yes").ended(NOT_ALL)
    assert "cannot take snapshots" in refused.out + refused.err
    assert world.status(i1, "web1") == "Running"
    herder.run("move", "i1:web1", "s1:", "--method", "cold", "--instance-only", "--yes").ended(DONE)
    world.assert_moved(i1, s1, "web1")
    assert world.get(s1, "web1")["config"]["volatile.eth0.hwaddr"] == address


def bring_in(lab: Lab, server: LabServer, machine: Path, name: str) -> None:
    """Make an instance of a file system as the vendor's tool does, which only asks."""
    tool = pexpect.spawn(str(lab.root / PROGRAMS / "usr/bin/incus-migrate"), encoding="utf-8", timeout=60)
    for question, answer in (
        ("server URL", server.address),
        ("ok", "y"),
        ("authentication mechanism", "2"),
        ("certificate path", str(lab.lxc_conf / "client.crt")),
        ("keyfile path", str(lab.lxc_conf / "client.key")),
        ("container", "1"),
        ("Name of", name),
        ("root filesystem", str(machine)),
        ("additional filesystem", "no"),
        ("pick one", "1"),
        ("successfully created", ""),
    ):
        tool.expect(question)
        if answer:
            tool.sendline(answer)
    tool.expect(pexpect.EOF)


@pytest.fixture
def old_machine(incus: Lab, tmp_path: Path) -> Path:
    """The file system of a machine that is no instance."""
    host.run("tar", "--extract", "--file", str(incus.root / "images" / "tiny.tar.gz"), "--directory", str(tmp_path))
    (tmp_path / "rootfs" / "root" / "data").write_text("of the old machine")
    return tmp_path / "rootfs"


@pytest.mark.parametrize("source", ["s1", "i1"])
def test_a_machine_that_is_no_instance_is_brought_in_and_moved_on(
    incus: Lab, i2: LabServer, herder: Herder, old_machine: Path, source: str
) -> None:
    """By the tool of Incus, which speaks with LXD 5.0 too; from then on it is an instance like any other."""
    first = incus.servers[source]
    for clean in world.cleaned(first):
        bring_in(incus, clean, old_machine, "oldbox")
        world.start(first, "oldbox")
        herder.run("move", f"{source}:oldbox", "i2:", "--yes").ended(DONE)
        world.assert_moved(first, i2, "oldbox")
        assert (world.rootfs(i2, "oldbox") / "root" / "data").read_text() == "of the old machine"


def test_a_server_of_incus_becomes_a_remote_by_its_token(i1: LabServer, herder: Herder, home: Path) -> None:
    """Without one, the error says how to make it."""
    user = herder.having(home / "lxc")
    (home / "lxc").mkdir()
    refused = user.run("remote", "add", "i1", i1.address, "--accept-certificate").ended(INPUT)
    assert "incus config trust add herder" in refused.error
    token = i1.lxc("config", "trust", "add", "herder-test", "--quiet").split()[-1]
    added = user.run("remote", "add", "i1", token).ended(DONE)
    assert "i1 is incus 6.0" in added.out
    assert user.run("doctor", "i1:").ended(DONE)
