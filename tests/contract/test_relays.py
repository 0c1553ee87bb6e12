"""Relays: both servers wait, and whoever began it carries the bytes."""

from tests.contract.sites import Site, begin_relay
from tests.lab.pulls import MIB, done, finished

NAME = "c1"
RECEIVING = {"user.herder.state": "receiving"}


def names(site: Site) -> set[str]:
    return {each.name for each in site.client.instances()}


def test_a_relay_brings_what_a_pull_brings(s1: Site, s2: Site) -> None:
    """With its snapshots and its data, and LXD's sign of completeness; a refresh brings the last data."""
    s1.launch(NAME)
    s1.write(NAME, mib=4)
    done(s1.client, s1.client.create_snapshot(NAME, "s0"))
    begin_relay(s1, s2, NAME, config=RECEIVING).succeed()
    copy = s2.client.instance(NAME)
    assert (copy.is_stopped, copy.marks, copy.config["volatile.apply_template"]) == (
        True,
        {"state": "receiving"},
        "copy",
    )
    s1.write(NAME, mib=4)
    done(s1.client, s1.client.force_stop(NAME))
    done(s1.client, s1.client.create_snapshot(NAME, "s1"))
    begin_relay(s1, s2, NAME, refresh=True).succeed()
    assert [each.name for each in s2.client.snapshots(NAME)] == ["s0", "s1"]
    assert s2.content(NAME) == s1.content(NAME)


def test_a_relay_comes_to_a_dir_pool_too(s1: Site, d1: Site) -> None:
    s1.launch(NAME)
    s1.write(NAME, mib=4)
    done(s1.client, s1.client.force_stop(NAME))
    begin_relay(s1, d1, NAME).succeed()
    assert d1.content(NAME) == s1.content(NAME)


def test_a_relay_is_cancelled_on_its_source_and_leaves_nothing(s1: Site, s2: Site) -> None:
    """Only there; the target learns it by its connection, which whoever relays closes then."""
    s1.launch(NAME)
    s1.write(NAME, mib=64)
    moving = begin_relay(s1, s2, NAME, limit=8 * MIB)
    source, target = s1.client.operation(moving.offered), s2.client.operation(moving.received)
    assert source
    assert target
    assert (source.may_cancel, target.may_cancel) == (True, False)
    s1.client.cancel(moving.offered)
    assert not finished(s1.client, moving.offered).succeeded
    assert not finished(s2.client, moving.received).succeeded
    s1.wait_until(lambda: names(s2) == set())


def test_a_source_that_is_killed_in_a_relay_leaves_nothing_on_the_target(s1: Site, s2: Site) -> None:
    s1.launch(NAME)
    s1.write(NAME, mib=64)
    moving = begin_relay(s1, s2, NAME, limit=8 * MIB)
    s1.kill()
    assert not finished(s2.client, moving.received).succeeded
    s1.start()
    assert names(s2) == set()
    begin_relay(s1, s2, NAME).succeed()
