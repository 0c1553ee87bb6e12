"""Our client against real LXD servers: every call, and a migration from the first pass to the refresh."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from common.domain.errors import NotFound, NotTrusted, PreconditionFailed, ServerRefused
from common.domain.instance import Instance
from common.lxd.client import LxdClient
from common.lxd.connect import connect
from common.lxd.events import Event, events
from common.lxd.migration import Transfer, receive_body
from common.lxd.remotes import Remotes
from common.lxd.tls import fingerprint
from common.lxd.trust import add_remote, first_contact
from tests.lab import CLUSTER, Lab, LabServer
from tests.lab.pulls import booted, done, finished

pytestmark = pytest.mark.lab


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"t{uuid4().hex[:8]}"


@pytest.fixture
def s1(lab: Lab) -> Iterator[LabServer]:
    yield lab.servers["s1"]
    lab.servers["s1"].delete_all()


@pytest.fixture
def s2(lab: Lab) -> Iterator[LabServer]:
    yield lab.servers["s2"]
    lab.servers["s2"].delete_all()


@pytest.fixture
def remotes(lab: Lab, s1: LabServer) -> Remotes:
    """What the lab's lxc knows; ``local`` is s1 by its unix socket."""
    return Remotes.load({"LXD_CONF": str(lab.lxc_conf), "LXD_DIR": str(s1.lxd_dir)}, Path("/nowhere"))


@pytest.fixture(params=["local", "s1"])
def client(request: pytest.FixtureRequest, remotes: Remotes) -> LxdClient:
    """s1, by its unix socket and by HTTPS."""
    return connect(remotes.get(request.param))


def test_a_server_tells_who_it_is_and_what_it_has(client: LxdClient, s1: LabServer) -> None:
    info = client.info()
    assert (info.product, info.pid, info.trusted, info.clustered) == ("lxd", s1.pid, True, False)
    assert info.certificate.strip() == s1.certificate.read_text().strip()
    assert client.addresses() == (s1.address,)
    assert client.projects() == ("default",)
    (pool,) = client.pools()
    assert (pool.name, pool.driver) == ("default", "btrfs")
    assert 0 < pool.free < pool.total
    (profile,) = client.profiles()
    assert profile.devices["root"]["pool"] == "default"
    assert profile.devices["eth0"]["parent"] in client.networks()


def test_custom_volumes_are_listed_with_pool_and_project(client: LxdClient, s1: LabServer, name: str) -> None:
    s1.query("POST", "/1.0/storage-pools/default/volumes/custom", {"name": name, "type": "custom"})
    try:
        assert name in {each.name for each in client.volumes()}
    finally:
        s1.query("DELETE", f"/1.0/storage-pools/default/volumes/custom/{name}")
    assert name not in {each.name for each in client.volumes()}


def test_an_instance_is_changed_step_by_step(client: LxdClient, s1: LabServer, name: str) -> None:
    s1.launch(name, config={"user.a": "1"})
    running = client.instance(name)
    assert (running.is_running, running.location, running.config["user.a"]) == (True, "", "1")
    assert running.root_pool == "default"
    assert running.addresses.keys() == {"eth0"}
    assert [each.name for each in client.instances()] == [each.name for each in client.instances(None)] == [name]

    done(client, client.freeze(name))
    assert client.instance(name).status == "Frozen"
    done(client, client.unfreeze(name))
    booted(client, name)
    done(client, client.stop(name, grace_seconds=30))
    assert client.instance(name).is_stopped

    client.patch(name, config={"user.a": "", "user.b": "2"}, devices={"bin": {"type": "none"}})
    patched = client.instance(name)
    assert ("user.a" in patched.config, patched.config["user.b"], set(patched.devices)) == (False, "2", {"bin"})

    done(client, client.replace(patched, config={**patched.config, "user.c": "3"}, devices={}))
    replaced = client.instance(name)
    assert (replaced.config["user.b"], replaced.config["user.c"], replaced.devices) == ("2", "3", {})
    with pytest.raises(PreconditionFailed, match="ETag doesn't match"):
        client.replace(patched, config={}, devices={})

    done(client, client.start(name))
    assert finished(client, client.start(name)).error == "The instance is already running"
    done(client, client.force_stop(name))
    done(client, client.rename(name, f"{name}-new"))
    done(client, client.delete(f"{name}-new"))
    with pytest.raises(NotFound, match="Instance not found"):
        client.instance(name)


def test_a_guest_that_does_not_obey_runs_on(client: LxdClient, s1: LabServer, name: str) -> None:
    s1.launch(name, image="stubborn")
    assert "Failed shutting down instance" in finished(client, client.stop(name, grace_seconds=1)).error
    assert client.instance(name).is_running


def test_snapshots_come_and_go(client: LxdClient, s1: LabServer, name: str) -> None:
    s1.launch(name)
    done(client, client.create_snapshot(name, "b"))
    done(client, client.create_snapshot(name, "a"))
    older, newer = client.snapshots(name)
    assert (older.name, newer.name) == ("b", "a")
    assert older.created_at < newer.created_at
    done(client, client.delete_snapshot(name, "b"))
    assert [each.name for each in client.snapshots(name)] == ["a"]
    with pytest.raises(NotFound):
        client.delete_snapshot(name, "b")


def test_a_command_tells_its_exit_code(client: LxdClient, s1: LabServer, name: str) -> None:
    s1.launch(name)
    command = client.execute(name, ["sh", "-c", 'exit "$CODE"'], environment={"CODE": "7"})
    assert finished(client, command).metadata["return"] == 7


def test_an_operation_can_be_found_cancelled_and_forgotten(client: LxdClient, s1: LabServer, name: str) -> None:
    s1.launch(name)
    offer = client.offer(name)
    assert offer.secrets.keys() == {"control", "fs"}
    seen = client.operation(offer.operation)
    assert seen is not None
    assert (seen.is_finished, seen.may_cancel, seen.description) == (False, True, "Migrating instance")
    assert seen.resources["instances"] == (f"/1.0/instances/{name}",)
    assert offer.operation in {each.id for each in client.operations()}
    still = client.wait(offer.operation, timeout_seconds=0)
    assert still is not None
    assert not still.is_finished
    client.cancel(offer.operation)
    assert not finished(client, offer.operation).succeeded
    client.cancel("00000000-0000-0000-0000-000000000000")
    assert client.operation("00000000-0000-0000-0000-000000000000") is None


def test_what_cannot_be_cancelled_says_so(client: LxdClient, s1: LabServer, name: str) -> None:
    s1.launch(name, image="stubborn")
    stopping = client.stop(name, grace_seconds=2)
    with pytest.raises(ServerRefused, match="can't be cancelled"):
        client.cancel(stopping)
    finished(client, stopping)


def test_another_project_is_another_world(client: LxdClient, s1: LabServer, name: str) -> None:
    s1.query(
        "POST", "/1.0/projects", {"name": name, "config": {"features.profiles": "false", "features.images": "false"}}
    )
    try:
        body = {"name": "c1", "source": {"type": "image", "alias": "tiny"}}
        s1.query("POST", f"/1.0/instances?project={name}", body)
        assert name in client.projects()
        assert client.instance("c1", project=name).project == name
        assert client.instances() == ()
        assert [(each.name, each.project) for each in client.instances(None)] == [("c1", name)]
        with pytest.raises(NotFound):
            client.instance("c1")
        done(client, client.delete("c1", project=name))
    finally:
        s1.query("DELETE", f"/1.0/projects/{name}")


def test_events_tell_of_operations_and_of_what_they_did(client: LxdClient, s1: LabServer, name: str) -> None:
    stream = events(client.transport)
    s1.launch(name)
    seen: list[Event] = []
    while not (seen and seen[-1].metadata.get("action") == "instance-started"):
        seen.append(next(stream))
    actions = [event.metadata["action"] for event in seen if event.kind == "lifecycle"]
    assert actions == ["instance-created", "instance-started"]
    ended = [event.operation for event in seen if event.operation and event.operation.succeeded]
    assert "Creating instance" in {operation.description for operation in ended}


class TestMigration:
    """A pull from s1, seen by its unix socket or by HTTPS, to s2."""

    @pytest.fixture
    def target(self, remotes: Remotes, s2: LabServer) -> LxdClient:
        assert s2.pid
        return connect(remotes.get("s2"))

    def pull(self, source: LxdClient, target: LxdClient, instance: Instance, *, refresh: bool) -> None:
        offer = source.offer(instance.name)
        transfer = Transfer(
            address=source.addresses()[0], certificate=source.info().certificate, offer=offer, refresh=refresh
        )
        body = receive_body(
            instance,
            name=instance.name,
            config={**instance.own_config, **instance.identity, "user.herder.job": "j1", "boot.autostart": "false"},
            devices=instance.own_devices,
            profiles=instance.profiles,
            source=transfer,
        )
        done(target, target.receive(body))
        done(source, offer.operation)

    def test_the_copy_is_the_same_machine(self, client: LxdClient, target: LxdClient, s1: LabServer, name: str) -> None:
        s1.launch(name, config={"user.a": "1"})
        done(client, client.create_snapshot(name, "s0"))
        instance = client.instance(name)
        self.pull(client, target, instance, refresh=False)
        copy = target.instance(name)
        assert (copy.is_stopped, copy.marks, copy.config["user.a"]) == (True, {"job": "j1"}, "1")
        assert copy.addresses == instance.addresses
        assert copy.identity == instance.identity
        assert [each.name for each in target.snapshots(name)] == ["s0"]

    def test_a_refresh_brings_what_changed(
        self, client: LxdClient, target: LxdClient, s1: LabServer, s2: LabServer, name: str
    ) -> None:
        s1.launch(name)
        done(client, client.create_snapshot(name, "s0"))
        instance = client.instance(name)
        self.pull(client, target, instance, refresh=False)
        done(client, client.execute(name, ["sh", "-c", "echo new > /root/file"]))
        done(client, client.create_snapshot(name, "s1"))
        self.pull(client, target, instance, refresh=True)
        assert s2.lxc("file", "pull", f"{name}/root/file", "-") == "new\n"
        assert [each.name for each in target.snapshots(name)] == ["s0", "s1"]
        assert target.instance(name).marks == {"job": "j1"}


class TestCluster:
    """All through one member, which passes on what is for another."""

    @pytest.fixture
    def members(self, lab: Lab) -> Iterator[dict[str, LabServer]]:
        yield {name: lab.servers[name] for name in CLUSTER}
        lab.servers["c1"].delete_all()

    @pytest.fixture
    def cluster(self, remotes: Remotes) -> LxdClient:
        return connect(remotes.get("cluster"))

    def test_a_copy_goes_to_the_member_that_was_chosen(
        self, cluster: LxdClient, remotes: Remotes, s1: LabServer, members: dict[str, LabServer], name: str
    ) -> None:
        source = connect(remotes.get("s1"))
        s1.launch(name)
        instance = source.instance(name)
        offer = source.offer(name)
        transfer = Transfer(address=s1.address, certificate=s1.certificate.read_text(), offer=offer)
        body = receive_body(instance, name=name, config={}, devices={}, profiles=instance.profiles, source=transfer)
        done(cluster, cluster.at("c3").receive(body))
        assert cluster.instance(name).location == "c3"
        assert "c3" in members

    def test_operations_on_another_member_are_followed(
        self, cluster: LxdClient, members: dict[str, LabServer], name: str
    ) -> None:
        stream = events(cluster.transport, types=["operation"])
        members["c2"].launch(name)
        done(cluster, cluster.force_stop(name))
        offer = cluster.offer(name)
        cluster.cancel(offer.operation)
        assert not finished(cluster, offer.operation).succeeded
        seen = next(event for event in stream if event.operation and event.operation.id == offer.operation)
        assert seen.location == "c2"

    def test_each_member_has_its_own_space(self, cluster: LxdClient, members: dict[str, LabServer]) -> None:
        assert cluster.info().clustered
        for member in members:
            (pool,) = cluster.at(member).pools()
            assert pool.total > 0


class TestTrust:
    """A client that no server knows, in a directory of its own."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        return tmp_path / "lxc"

    def test_a_token_makes_a_remote_that_the_real_lxc_can_use(
        self, s1: LabServer, directory: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        token = s1.lxc("config", "trust", "add", "--name", "test", "--quiet").split()[-1]
        add_remote(directory, "new", confirm=lambda _: False, token=token)
        remote = Remotes.load({"LXD_CONF": str(directory)}, Path("/nowhere")).get("new")
        assert remote.client_certificate
        try:
            assert connect(remote).info().trusted
            s1.launch(name)
            monkeypatch.setenv("LXD_CONF", str(directory))
            listed = subprocess.run(["lxc", "list", "new:", "-f", "csv", "-c", "n"], check=True, capture_output=True)
            assert listed.stdout.decode().split() == [name]
        finally:
            s1.query("DELETE", f"/1.0/certificates/{fingerprint(remote.client_certificate.read_text())}")

    def test_a_restricted_certificate_sees_its_projects_only(self, s1: LabServer, directory: Path, name: str) -> None:
        s1.query("POST", "/1.0/projects", {"name": name, "config": {"features.images": "false"}})
        restricted = ["--restricted", "--projects", name]
        token = s1.lxc("config", "trust", "add", "--name", "test", *restricted, "--quiet").split()[-1]
        add_remote(directory, "new", confirm=lambda _: False, token=token)
        remote = Remotes.load({"LXD_CONF": str(directory)}, Path("/nowhere")).get("new")
        assert remote.client_certificate
        try:
            root = {"root": {"type": "disk", "path": "/", "pool": "default"}}
            body = {"name": "mine", "source": {"type": "image", "alias": "tiny"}, "devices": root}
            s1.query("POST", f"/1.0/instances?project={name}", body)
            s1.launch("other")
            client = connect(remote)
            assert client.projects() == (name,)
            assert [each.name for each in client.instances(None)] == ["mine"]
            with pytest.raises(NotTrusted, match="not authorized"):
                client.instance("other")
            done(client, client.delete("mine", project=name))
        finally:
            s1.query("DELETE", f"/1.0/certificates/{fingerprint(remote.client_certificate.read_text())}")
            s1.query("DELETE", f"/1.0/projects/{name}")

    def test_a_stranger_is_told_so(self, s1: LabServer, directory: Path) -> None:
        pem, found = first_contact(s1.address)
        assert (pem.strip(), found) == (s1.certificate.read_text().strip(), s1.fingerprint)
        with pytest.raises(NotTrusted, match="does not know our certificate"):
            add_remote(directory, "new", s1.address, confirm=lambda shown: shown == found)
