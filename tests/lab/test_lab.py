"""What the lab promises to the tests that use it, checked on the lab itself."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab import INCUS_SERVERS, SERVERS, Lab, LabError, LabServer, RefusedError, host, image
from tests.lab import lab as lab_module
from tests.lab.daemon import Daemon
from tests.lab.host import Process
from tests.lab.lab import CHECKOUT
from tests.lab.product import PRODUCTS

pytestmark = [pytest.mark.lab, pytest.mark.exhaustive]


@pytest.fixture
def launched() -> Iterator[Callable[..., str]]:
    """Launches a container on a server and returns its name; they are gone after the test."""
    made: list[tuple[LabServer, str]] = []

    def launch(server: LabServer, **how: Any) -> str:
        name = f"lab-check-{len(made)}"
        server.lxc("delete", "--force", name, check=False)  # of a run that was broken off
        made.append((server, name))
        server.launch(name, **how)
        return name

    yield launch
    for server, name in made:
        server.lxc("delete", "--force", name)


def state_of(server: LabServer, name: str) -> dict[str, Any]:
    state: dict[str, Any] = server.query("GET", f"/1.0/instances/{name}/state")
    return state


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_answers_with_its_pool_and_its_images(lab: Lab, name: str) -> None:
    server = lab.servers[name]
    facts = server.query("GET", "/1.0")
    pool = server.query("GET", "/1.0/storage-pools/default")
    aliases = {alias["name"] for alias in server.query("GET", "/1.0/images/aliases?recursion=1")}
    assert facts["environment"]["server_pid"] == server.pid
    assert facts["environment"]["addresses"] == [server.address.removeprefix("https://")]
    assert facts["config"]["images.auto_update_interval"] == "0"
    assert (pool["driver"], pool["status"]) == (server.driver, "Created")
    assert aliases == {"tiny", "stubborn"}


def test_a_lab_of_one_product_is_not_taken_for_one_of_the_other(lab: Lab) -> None:
    other = next(name for name in PRODUCTS if name != lab.servers["s1"].product.name)
    with pytest.raises(LabError, match=f"not of {other}"):
        Lab.up(["s1"], lab.root, product=other)


@pytest.mark.parametrize("remote", ["s1", "s2", "d1", "cluster"])
def test_the_lxc_client_of_the_lab_is_trusted_by_every_server(lab: Lab, remote: str) -> None:
    facts = json.loads(lab.lxc("query", f"{remote}:/1.0"))
    server = lab.servers["c1" if remote == "cluster" else remote]
    assert facts["auth"] == "trusted"
    assert facts["environment"]["certificate_fingerprint"] == server.fingerprint


def test_the_members_make_one_cluster(lab: Lab) -> None:
    members = lab.servers["c3"].query("GET", "/1.0/cluster/members?recursion=1")
    assert {(member["server_name"], member["status"]) for member in members} == {
        (name, "Online") for name in ("c1", "c2", "c3")
    }


@pytest.mark.usefixtures("lab")
def test_a_second_up_changes_nothing() -> None:
    before = Lab.load().status()
    assert Lab.up().status() == before


@pytest.mark.usefixtures("lab")
def test_status_as_json_is_complete() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "tests.lab", "status", "--json"], cwd=CHECKOUT, capture_output=True, check=True
    )
    status = json.loads(printed.stdout)
    assert status == Lab.load().status()
    assert status.keys() == {"root", "lxc_conf", "bridge", "servers"}
    assert status["servers"].keys() >= set(SERVERS)
    for name, server in status["servers"].items():
        assert server["pool"] == {"name": "default", "driver": "dir" if name == "d1" else "btrfs"}
        assert server["cluster"] == ("cluster" if name.startswith("c") else None)
        assert server["state"] == "running"
        assert Path(server["certificate"]).is_file()
        assert Path(server["socket"]).is_socket()


@pytest.mark.parametrize("name", ["s1", "d1", "c2"])
def test_a_launched_container_runs_with_a_network_card(lab: Lab, launched: Callable[..., str], name: str) -> None:
    """In a cluster it runs on the member that was asked."""
    server = lab.servers[name]
    guest = launched(server, config={"user.colour": "red"})
    record = server.query("GET", f"/1.0/instances/{guest}")
    state = state_of(server, guest)
    assert record["status"] == "Running"
    assert record["config"]["user.colour"] == "red"
    assert record["location"] == (name if server.cluster else "none")
    assert state["network"]["eth0"]["hwaddr"] == record["config"]["volatile.eth0.hwaddr"]
    assert Process.find(state["pid"])


def test_tiny_stops_when_it_is_asked_to(lab: Lab, launched: Callable[..., str]) -> None:
    server = lab.servers["s1"]
    guest = launched(server)
    server.lxc("stop", guest, "--timeout", "60")
    assert state_of(server, guest)["status"] == "Stopped"


def test_stubborn_goes_on_until_it_is_forced(lab: Lab, launched: Callable[..., str]) -> None:
    server = lab.servers["s1"]
    guest = launched(server, image="stubborn")
    with pytest.raises(RefusedError, match="Failed shutting down instance"):
        server.query("PUT", f"/1.0/instances/{guest}/state", {"action": "stop", "timeout": 1, "force": False})
    assert state_of(server, guest)["status"] == "Running"
    server.lxc("stop", "--force", guest)
    assert state_of(server, guest)["status"] == "Stopped"


def test_a_guest_runs_its_writer_and_reaps_its_orphans(lab: Lab, launched: Callable[..., str]) -> None:
    server = lab.servers["s1"]
    guest = launched(server)
    writer = "( : & ) ; while :; do date +%N >>/root/written; sleep 0.1; done"
    server.lxc("exec", guest, "--", "sh", "-c", f"echo '{writer}' >/root/writer")
    server.lxc("restart", guest)

    def written() -> int:
        return len(server.lxc("exec", guest, "--", "cat", "/root/written", check=False).splitlines())

    host.wait_until("three lines", lambda: written() >= 3)
    assert "Z" not in server.lxc("exec", guest, "--", "ps", "-o", "stat").split()


@pytest.mark.parametrize("name", ["s2", "d1", "c3"])
def test_containers_survive_a_killed_daemon(lab: Lab, launched: Callable[..., str], name: str) -> None:
    server = lab.servers[name]
    guest = launched(server)
    pid, daemon = state_of(server, guest)["pid"], server.pid
    server.kill()
    assert server.pid is None
    assert lab.status()["servers"][name]["state"] == "stopped"
    with pytest.raises(LabError):
        server.query("GET", "/1.0")
    server.start()
    assert server.pid not in {None, daemon}
    assert state_of(server, guest)["pid"] == pid
    assert state_of(server, guest)["status"] == "Running"


def test_a_daemon_that_crashes_is_started_again_and_one_that_is_killed_is_not(lab: Lab) -> None:
    """As its service does on Debian; SIGABRT is a crash to a program of Go."""
    server = lab.servers["s2"]
    crashed = server.daemon.process
    assert crashed
    crashed.send(signal.SIGABRT)
    host.wait_until("another daemon", lambda: server.pid not in {None, crashed.pid})
    server.daemon.wait_ready()
    again = server.daemon.process
    assert again
    again.send(signal.SIGABRT)
    host.wait_until("the end of the other", lambda: not again.alive)
    server.kill()
    assert not [it.command for it in host.processes() if f"keeper-of-{server.lxd_dir}" in it.command]
    assert server.pid is None
    server.start()


def test_a_frozen_daemon_is_silent_until_it_thaws(lab: Lab) -> None:
    server = lab.servers["s2"]
    server.freeze()
    try:
        state = Path(f"/proc/{server.pid}/status")
        host.wait_until("the daemon to stand still", lambda: "State:\tT" in state.read_text())
        with pytest.raises(LabError):
            server.query("GET", "/1.0", seconds=0.2)
    finally:
        server.thaw()
    assert server.query("GET", "/1.0")["auth"] == "trusted"


def test_both_images_come_out_the_same_at_every_build(tmp_path: Path) -> None:
    first, second = image.build(tmp_path / "first"), image.build(tmp_path / "second")
    assert {alias: tarball.read_bytes() for alias, tarball in first.items()} == {
        alias: tarball.read_bytes() for alias, tarball in second.items()
    }


def test_delete_all_leaves_nothing(other_root: Path) -> None:
    """Running, frozen, stubborn and protected instances, and those of other projects."""
    server = Lab.up(["s1"], root=other_root).servers["s1"]
    server.query(
        "POST", "/1.0/projects", {"name": "away", "config": {"features.profiles": "false", "features.images": "false"}}
    )
    server.launch("protected", config={"security.protection.delete": "true"})
    server.launch("stubborn", image="stubborn")
    server.launch("frozen")
    server.query("PUT", "/1.0/instances/frozen/state", {"action": "freeze"})
    server.lxc("snapshot", "frozen", "s0")
    server.lxc("launch", "tiny", "elsewhere", "--project", "away")
    server.delete_all()
    assert server.query("GET", "/1.0/instances?all-projects=true") == []


def test_delete_all_takes_away_what_a_killed_receiver_leaves(other_root: Path) -> None:
    """LXD cannot delete such a record by itself: snapshots arrived, the instance's own volume did not."""
    lab = Lab.up(["s1", "s2"], root=other_root)
    source, target = lab.servers["s1"], lab.servers["s2"]
    source.launch("big")
    source.lxc("exec", "big", "--", "dd", "if=/dev/urandom", "of=/root/data", "bs=1M", "count=300")
    source.lxc("snapshot", "big", "s0")
    containers = target.lxd_dir / "storage-pools/default/containers"
    with copying(lab, "s1:big", "s2:"):
        host.wait_until("the first data", lambda: any(containers.glob("migration.*/s0")))
        target.kill()
    target.start()
    assert target.query("GET", "/1.0/instances") == ["/1.0/instances/big"]
    with pytest.raises(RefusedError, match="Failed setting subvolume writable"):
        target.query("DELETE", "/1.0/instances/big")

    target.delete_all()

    assert target.query("GET", "/1.0/instances") == []
    assert list(containers.iterdir()) == []
    lab.lxc("copy", "s1:big", "s2:", "--stateless")
    assert target.query("GET", "/1.0/instances") == ["/1.0/instances/big"]


def test_delete_all_ends_transfers_that_cannot_be_cancelled(other_root: Path) -> None:
    """Receiving from a server that hangs: LXD would wait for ever."""
    lab = Lab.up(["s1", "s2"], root=other_root)
    source, target = lab.servers["s1"], lab.servers["s2"]
    source.launch("big")
    source.lxc("exec", "big", "--", "dd", "if=/dev/urandom", "of=/root/data", "bs=1M", "count=300")
    containers = target.lxd_dir / "storage-pools/default/containers"
    with copying(lab, "s1:big", "s2:"):
        host.wait_until("the first data", lambda: any(containers.glob("migration.*")))
        source.freeze()
        target.delete_all()
        source.thaw()
    assert target.query("GET", "/1.0/instances") == []
    assert list(containers.iterdir()) == []


@contextmanager
def copying(lab: Lab, source: str, target: str) -> Iterator[None]:
    """A copy by the `lxc` client that goes on meanwhile."""
    client = subprocess.Popen(
        ["lxc", "copy", source, target, "--stateless", "--quiet"],
        env={"LXD_CONF": str(lab.lxc_conf), "PATH": host.PATH},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        client.kill()
        client.wait()


def test_down_leaves_nothing_behind(other_root: Path) -> None:
    """Not even of guests that are frozen or do not obey, of a daemon that hangs and of one that was killed."""
    lab = Lab.up(["s1", "s2", "d1"], root=other_root)
    for server in lab.servers.values():
        server.launch("tiny")
        server.launch("stubborn", image="stubborn")
    addresses = {
        instance["config"]["volatile.eth0.hwaddr"]
        for server in lab.servers.values()
        for instance in server.query("GET", "/1.0/instances?recursion=1")
    }
    cards_of_guests = {path.name for path in Path(f"/sys/class/net/{lab.bridge}/brif").iterdir()}
    lab.servers["s1"].query("PUT", "/1.0/instances/tiny/state", {"action": "freeze"})
    guests = [state_of(server, name)["pid"] for server in lab.servers.values() for name in ("tiny", "stubborn")]
    lab.servers["s2"].freeze()
    lab.servers["d1"].kill()

    lab.down()

    assert not other_root.exists()
    assert not [pid for pid in guests if Process.find(pid)]
    assert not [process for process in host.processes() if str(other_root) in process.command]
    assert not [process for process in host.processes() if str(other_root) in process.environment.get("LXD_DIR", "")]
    assert host.mounts_under(other_root) == []
    assert str(other_root) not in host.run("losetup", "--list")
    cards = {path.parent.name: path.read_text().strip() for path in Path("/sys/class/net").glob("*/address")}
    assert len(addresses) == len(cards_of_guests) == len(guests)
    assert not cards.keys() & {lab.bridge, *cards_of_guests}
    assert not addresses & set(cards.values())
    assert not other_root.with_name(other_root.name + ".lock").exists()


def test_up_mends_what_a_crashed_up_left(other_root: Path) -> None:
    """A daemon that runs, but has no pool, and of which there is no note."""
    Lab.up([], root=other_root)
    remains = Daemon(other_root / "s1")
    remains.spawn()
    remains.wait_ready()
    remains.note.unlink()
    left = remains.process
    assert left
    lab = Lab.up(["s1"], root=other_root)
    assert not left.alive
    assert lab.servers["s1"].query("GET", "/1.0/storage-pools") == ["/1.0/storage-pools/default"]


def test_no_two_labs_have_the_same_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though their paths lead to the same; the ports of one that is gone are free again."""
    monkeypatch.setattr(lab_module, "CLAIMS", tmp_path / "claims")
    monkeypatch.setattr(lab_module, "_digest", lambda _: "2f")
    roots = [tmp_path / name for name in ("one", "two", "three")]
    for root in roots:
        root.mkdir()
    first = [lab_module._first_port(root) for root in roots]
    assert len(set(first)) == 3
    assert [lab_module._first_port(root) for root in roots] == first
    roots[1].rmdir()
    other = tmp_path / "other"
    other.mkdir()
    assert lab_module._first_port(other) == first[1]


def test_up_starts_what_was_killed_and_keeps_what_it_had(other_root: Path) -> None:
    lab = Lab.up(["cluster"], root=other_root)
    lab.servers["c1"].launch("kept")
    for member in lab.servers.values():
        member.kill()
    again = Lab.up(["cluster"], root=other_root)
    assert {name: server.port for name, server in again.servers.items()} == {
        name: server.port for name, server in lab.servers.items()
    }
    assert state_of(again.servers["c2"], "kept")["status"] == "Running"


def test_up_remakes_a_server_that_was_lost_and_its_client_trusts_the_new_one(other_root: Path) -> None:
    lab = Lab.up(["s1", "s2"], root=other_root)
    lab.servers["s1"].daemon.destroy()
    lab = Lab.up(["s1", "s2"], root=other_root)
    assert json.loads(lab.lxc("query", "s1:/1.0"))["auth"] == "trusted"


def test_a_note_of_another_process_is_not_believed(other_root: Path) -> None:
    """The number of a daemon that ended may belong to anybody by now."""
    daemon = Daemon(Lab.up([], root=other_root).root / "s1")
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        process = Process.find(stranger.pid)
        assert process
        daemon.note.write_text(json.dumps({"pid": process.pid, "started": process.started}))
        assert daemon.process is None
        daemon.kill()
        assert process.alive
    finally:
        stranger.send_signal(signal.SIGKILL)
        stranger.wait()


def test_unknown_servers_and_long_roots_are_refused(other_root: Path) -> None:
    with pytest.raises(LabError, match="no such server: s9"):
        Lab.up(["s9"], root=other_root)
    with pytest.raises(LabError, match="too long"):
        Lab.up(["s1"], root=other_root / ("x" * 100))


def test_a_directory_that_is_no_lab_is_neither_used_nor_removed(other_root: Path) -> None:
    precious = other_root / "precious"
    precious.touch()
    with pytest.raises(LabError, match="not a lab"):
        Lab.up(["s1"], root=other_root)
    with pytest.raises(LabError, match="not a lab"):
        Lab(other_root, {}).down()
    assert precious.exists()
    precious.unlink()


def test_load_says_how_to_make_a_lab_where_there_is_none(other_root: Path) -> None:
    with pytest.raises(LabError, match=r"python -m tests\.lab up"):
        Lab.load(other_root)


@pytest.mark.parametrize("name", INCUS_SERVERS)
def test_a_server_of_incus_answers_trusts_the_client_and_runs_containers(
    incus: Lab, name: str, launched: Callable[..., str]
) -> None:
    server = incus.servers[name]
    facts = json.loads(incus.lxc("query", f"{name}:/1.0"))
    assert (facts["auth"], facts["environment"]["server"]) == ("trusted", "incus")
    assert facts["environment"]["server_version"].startswith("6.0.")
    assert facts["environment"]["server_pid"] == server.pid
    assert incus.status()["servers"][name]["product"] == "incus"
    assert state_of(server, launched(server))["status"] == "Running"


def test_a_server_of_incus_goes_away_with_its_containers(other_root: Path) -> None:
    lab = Lab.up(["i1"], other_root)
    server = lab.servers["i1"]
    server.launch("c1")
    guest = Process.find(state_of(server, "c1")["pid"])
    daemon = server.daemon.process
    assert guest
    assert daemon
    lab.down()
    assert not guest.alive
    assert not daemon.alive
    assert not other_root.exists()
    assert host.mounts_under(other_root) == []
