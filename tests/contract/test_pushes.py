"""Pushes from server to server: what differs from a pull."""

from dataclasses import replace

import pytest

from common.domain.errors import ServerRefused
from common.lxd.events import progress
from common.lxd.migration import Transfer
from tests.contract.sites import Site, await_push, begin_push
from tests.lab.pulls import MIB, done, finished

NAME = "c1"
RECEIVING = {"user.herder.state": "receiving"}


def names(site: Site) -> set[str]:
    return {each.name for each in site.client.instances()}


def test_a_push_brings_what_a_pull_brings(s1: Site, s2: Site) -> None:
    """With its snapshots and its data, and LXD's sign of completeness; a refresh brings the last data."""
    s1.launch(NAME)
    s1.write(NAME, mib=4)
    done(s1.client, s1.client.create_snapshot(NAME, "s0"))
    begin_push(s1, s2, NAME, config=RECEIVING).succeed()
    copy = s2.client.instance(NAME)
    assert (copy.is_stopped, copy.marks, copy.config["volatile.apply_template"]) == (
        True,
        {"state": "receiving"},
        "copy",
    )
    s1.write(NAME, mib=4)
    done(s1.client, s1.client.force_stop(NAME))
    done(s1.client, s1.client.create_snapshot(NAME, "s1"))
    begin_push(s1, s2, NAME, refresh=True).succeed()
    assert [each.name for each in s2.client.snapshots(NAME)] == ["s0", "s1"]
    assert s2.content(NAME) == s1.content(NAME)
    assert s2.client.instance(NAME).marks == {"state": "receiving"}


def test_a_push_tells_its_progress_on_the_source_and_cannot_be_cancelled(s1: Site, s2: Site) -> None:
    s1.launch(NAME)
    s1.write(NAME, mib=32)
    with s2.wire(hold_after=16 * MIB, push=True) as wire:
        moving = begin_push(s1, s2, NAME, wire=wire)
        wire.wait_held()
        s1.client.wait(moving.offered, timeout_seconds=1)
        wire.release(hold_after=24 * MIB)
        wire.wait_held()
        source = s1.client.wait(moving.offered, timeout_seconds=2)
        target = s2.client.operation(moving.received)
        assert source
        assert target
        for site, operation in ((s1, source), (s2, target)):
            assert not operation.may_cancel
            assert operation.instances == {NAME}
            with pytest.raises(ServerRefused, match="This operation can't be cancelled"):
                site.client.cancel(operation.id)
        told = progress(source)
        assert told
        assert (told.volume, told.bytes > 4 * MIB) == (NAME, True)
        wire.release()
        moving.succeed()
    assert (source.description, target.description) == ("Migrating instance", "Creating instance")


def test_a_source_that_does_not_get_through_is_refused_and_the_target_gives_up(s1: Site, s2: Site) -> None:
    """At once, without a trace on the source; the target waits out its 10 s, and then nothing is left."""
    s1.launch(NAME)
    before = {each.id for each in s1.client.operations()}
    awaited = await_push(s1, s2, NAME)
    right = Transfer(offer=awaited, address=s2.address, certificate=s2.certificate)
    assert names(s2) == {NAME}
    for wrong, said in (
        (replace(right, address="https://127.0.0.1:9"), r"Unable to connect to: 127\.0\.0\.1:9"),
        (replace(right, certificate=s1.certificate), "x509: certificate signed by unknown authority"),
        (replace(right, offer=replace(awaited, secrets={**awaited.secrets, "fs": "0" * 64})), "bad handshake"),
    ):
        with pytest.raises(ServerRefused, match=said):
            s1.client.push(NAME, wrong)
    assert {each.id for each in s1.client.operations()} <= before
    ended = finished(s2.client, awaited.operation)
    assert ended.error == "Error transferring instance data: Timed out waiting for migration connections"
    assert names(s2) == set()
    with pytest.raises(ServerRefused, match="bad handshake"):
        s1.client.push(NAME, right)


def test_a_target_that_waited_in_vain_for_a_refresh_keeps_its_copy(s1: Site, s2: Site) -> None:
    s1.launch(NAME)
    s1.write(NAME, mib=4)
    begin_push(s1, s2, NAME).succeed()
    content = s2.content(NAME)
    assert not finished(s2.client, await_push(s1, s2, NAME, refresh=True).operation).succeeded
    assert s2.content(NAME) == content
    done(s2.client, s2.client.start(NAME))


def test_a_cut_push_leaves_nothing_on_the_target(s1: Site, s2: Site) -> None:
    s1.launch(NAME)
    s1.write(NAME)
    with s2.wire(hold_after=4 * MIB, push=True) as wire:
        moving = begin_push(s1, s2, NAME, wire=wire)
        wire.wait_held()
        wire.cut()
        source, target = moving.ended()
    assert (source.succeeded, target.succeeded) == (False, False)
    assert names(s2) == set()


def test_a_source_that_is_killed_in_a_push_leaves_nothing_on_the_target(s1: Site, s2: Site) -> None:
    s1.launch(NAME)
    s1.write(NAME)
    with s2.wire(hold_after=4 * MIB, push=True) as wire:
        moving = begin_push(s1, s2, NAME, wire=wire)
        wire.wait_held()
        s1.kill()
        wire.cut()
        assert not finished(s2.client, moving.received).succeeded
    s1.start()
    assert names(s2) == set()
    begin_push(s1, s2, NAME).succeed()
