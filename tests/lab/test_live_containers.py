"""What LXD 5.0.2 does with a container that shall move live, and why herder moves none so.

CRIU works here: see `criu`. Each test is one fact, with the real daemons. A test that fails here with a newer server
means that the decision may be taken differently.
"""

import time
from collections.abc import Iterator

import pytest

from common.domain.errors import ServerRefused
from common.domain.instance import GUARD_DEVICE, Devices
from tests.lab import Lab, RefusedError, criu, host
from tests.lab.criu import Criu
from tests.lab.pulls import MIB, Pull, Site, cleaned, done, finished, pull
from tests.lab.wire import Wire

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

NAME = "live"
GUARD = {"type": "unix-char", "source": "/dev/herder-guard", "path": "/dev/herder-guard", "required": "true"}
#: Counts in its memory, and has a file for every number.
COUNTER = "i=0; while :; do i=$((i+1)); : >/root/seen-$i; sleep 0.1; done"


@pytest.fixture(scope="module", autouse=True)
def working(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Criu]:
    """A CRIU that works, which the daemons of two servers use."""
    sites = Site.of(lab, "s1"), Site.of(lab, "s2")
    made = criu.make(tmp_path_factory.mktemp("criu"), one=sites[0].server.lxd_dir, two=sites[1].server.lxd_dir)
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(host, "PATH", made.path)
        for site in sites:
            site.clean()
            site.restart()
        yield made
    for site in sites:
        site.restart()
        site.clean()


@pytest.fixture
def source(lab: Lab) -> Iterator[Site]:
    """A server on which a container counts."""
    yield from cleaned(lab, "s1")


@pytest.fixture
def target(lab: Lab) -> Iterator[Site]:
    """Another one."""
    yield from cleaned(lab, "s2")


@pytest.fixture
def held(working: Criu) -> Iterator[Criu]:
    """No restore begins until the test says so."""
    working.hold_restores()
    yield working
    working.release()


def test_between_btrfs_pools_a_live_move_takes_the_memory_and_loses_what_was_written_before_it(
    source: Site, target: Site
) -> None:
    """Its memory goes on. But its disk is that of the snapshot with which the sending began, and nothing is sent later.

    What it has written in between, and its memory knows of, is gone; nobody is told.
    """
    launch(source)
    source.write(NAME)
    with Wire(source.server, hold_after=MIB) as wire:
        moving = move_live(source, target, address=wire.address)
        wire.wait_held()
        at_snapshot = last(source)
        host.wait_until("it to count on", lambda: last(source) > at_snapshot + 3)
        wire.release()
        moving.succeed()
    assert source.client.instance(NAME).is_stopped
    assert counts(target)
    known = set(range(1, last(target) + 1))
    on_source, on_target = seen(source), seen(target)
    assert on_source | on_target == known, "it has counted on with its memory"
    assert len(on_source - on_target) >= 3, "which its source had on its disk, and the target has not"


@pytest.mark.exhaustive
def test_a_copy_cannot_have_the_guard_and_a_source_whose_copy_fails_hangs_until_its_server_starts_anew(
    source: Site, target: Site
) -> None:
    """LXD starts the copy in the operation that sends it. When that fails, the source is called running, but is not.

    CRIU holds it, and waits for an answer that LXD does not give. The operation that does that cannot be cancelled.
    """
    launch(source)
    fail_with_guard(source, target)
    assert target.client.instances() == ()
    assert source.client.instance(NAME).is_running
    assert not counts(source)
    running = [each for each in source.client.operations() if not each.is_finished]
    (hanging,) = [each for each in running if each.description == "Live-migrating instance"]
    with pytest.raises(ServerRefused, match="This operation can't be cancelled"):
        source.client.cancel(hanging.id)
    source.restart()
    assert counts(source)


@pytest.mark.exhaustive
def test_one_that_hangs_like_that_cannot_be_stopped_either(source: Site, target: Site) -> None:
    """Not even by force: so it can neither be moved in another way, nor be deleted."""
    launch(source)
    fail_with_guard(source, target)
    stopping = source.client.wait(source.client.force_stop(NAME), timeout_seconds=5)
    assert stopping is not None
    assert not stopping.is_finished
    with pytest.raises(RefusedError, match=r"busy|running"):
        source.server.query("DELETE", f"/1.0/instances/{NAME}")


def test_a_connection_that_breaks_before_the_answer_ends_with_one_container_twice(
    source: Site, target: Site, held: Criu
) -> None:
    """The target has restored it, and the source has not heard of that. Its next daemon lets it go on, guard or not."""
    launch(source)
    guard_by_profile(source)
    break_before_the_answer(source, target, held)
    assert (counts(source), counts(target)) == (False, True)
    source.restart()
    assert source.client.instance(NAME).is_guarded
    assert (counts(source), counts(target)) == (True, True)


@pytest.mark.exhaustive
def test_a_target_that_dies_before_it_has_restored_runs_it_all_the_same_and_then_it_runs_twice(
    source: Site, target: Site, held: Criu
) -> None:
    """What the daemon has begun goes on without it. When it returns, it calls the copy running, and that is true."""
    launch(source)
    move_live(source, target)
    held.wait_held()
    target.server.kill()
    held.release()
    host.wait_until("the copy to go on", lambda: counts(target))
    target.server.start()
    assert target.client.instance(NAME).is_running
    assert not counts(source)
    source.restart()
    assert (counts(source), counts(target)) == (True, True)


@pytest.mark.exhaustive
def test_a_source_that_dies_before_its_copy_goes_on_goes_on_itself(source: Site, target: Site, held: Criu) -> None:
    """And the target, which has heard that, does not: here nothing is lost, and nothing runs twice."""
    launch(source)
    moving = move_live(source, target)
    held.wait_held()
    assert not counts(source)
    source.restart()
    assert counts(source)
    assert not finished(target.client, moving.received).succeeded
    held.release()
    host.wait_until("the target to remove it", lambda: target.client.instances() == ())
    assert counts(source)


@pytest.mark.exhaustive
def test_one_that_is_frozen_first_runs_on_neither_side_then(source: Site, target: Site, held: Criu) -> None:
    """So it would not run twice. But it stands still while all of it is sent, and what breaks still hangs.

    The target calls it running, and takes no request to let it go on before one to freeze it.
    """
    launch(source)
    done(source.client, source.client.freeze(NAME))
    break_before_the_answer(source, target, held)
    source.restart()
    assert (source.client.instance(NAME).status, target.client.instance(NAME).status) == ("Frozen", "Running")
    assert (counts(source), counts(target)) == (False, False)
    assert "already running" in finished(target.client, target.client.unfreeze(NAME)).error


@pytest.mark.exhaustive
def test_one_that_is_stopped_with_its_memory_can_have_the_guard_and_goes_on_with_it(source: Site, target: Site) -> None:
    """Here two requests stop and start it, and between them it is sent as any stopped one."""
    launch(source)
    done(source.client, source.client.stop_with_memory(NAME))
    stopped_at = last(source)
    devices = source.client.instance(NAME).devices
    assert source.client.instance(NAME).stateful
    pull(source, target, NAME, devices={**devices, GUARD_DEVICE: GUARD}, stateful=True).succeed()
    assert GUARD_DEVICE in finished(target.client, target.client.start(NAME, stateful=True)).error
    copy = target.client.instance(NAME)
    assert copy.stateful
    done(target.client, target.client.replace(copy, config=copy.config, devices=devices))
    done(target.client, target.client.start(NAME, stateful=True))
    assert counts(target)
    assert seen(target) == set(range(1, last(target) + 1)), "it has counted on, and all of it is on its disk"
    assert last(target) > stopped_at
    assert source.client.instance(NAME).stateful, "the source has its memory still"


def launch(there: Site) -> None:
    """Start a container that counts; without a network card, which would bring nothing to these facts."""
    body = {"name": NAME, "source": {"type": "image", "alias": "tiny"}, "devices": {"eth0": {"type": "none"}}}
    there.server.query("POST", "/1.0/instances", body)
    (there.root_of(NAME) / "root/writer").write_text(COUNTER)
    done(there.client, there.client.start(NAME))
    host.wait_until("it to count", lambda: last(there) > 0)


def last(there: Site) -> int:
    """The last number that it has written to its disk."""
    return max(seen(there), default=0)


def seen(there: Site) -> set[int]:
    """Every number that it has written to its disk."""
    return {int(file.name.removeprefix("seen-")) for file in (there.root_of(NAME) / "root").glob("seen-*")}


def counts(there: Site) -> bool:
    """Whether it runs, whatever its server says."""
    before = last(there)
    time.sleep(0.7)
    return last(there) != before


def guard_by_profile(there: Site) -> None:
    """As herder guards a source that runs."""
    there.client.create_profile("herder-fact")
    there.client.patch(NAME, profiles=("default", "herder-fact"))
    seen_profile = there.client.profile("herder-fact")
    there.client.replace_profile(seen_profile, description="", config={}, devices={GUARD_DEVICE: GUARD})
    assert there.client.instance(NAME).is_guarded


def fail_with_guard(source: Site, target: Site) -> None:
    """Move it live onto a target that may not start it."""
    devices = {**source.client.instance(NAME).devices, GUARD_DEVICE: GUARD}
    ended = move_live(source, target, devices=devices).ended()
    assert [each.succeeded for each in ended] == [False, False]
    assert GUARD_DEVICE in ended[1].error


def break_before_the_answer(source: Site, target: Site, held: Criu) -> None:
    """Move it live, and cut the connection when the target has all, but the source has not heard that it goes on."""
    with Wire(source.server) as wire:
        moving = move_live(source, target, address=wire.address)
        held.wait_held()
        wire.hold()
        held.release()
        assert finished(target.client, moving.received).succeeded
        wire.cut()
        assert not finished(source.client, moving.offered).succeeded


def move_live(source: Site, target: Site, *, address: str | None = None, devices: Devices | None = None) -> Pull:
    """Begin it, as `lxc move` does."""
    streams = {"control", "fs", "criu"}
    return pull(source, target, NAME, address=address, devices=devices, profiles=("default",), live=streams)
