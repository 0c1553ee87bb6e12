"""Custom volumes that go by themselves: their ways, what keeps them, and where a lost job goes on."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.eligibility import POOL_RESERVE, volume_findings
from common.domain.fleet import Pool, Server
from common.domain.itinerary import UNDO_VOLUME, VOLUME_MOVE, VOLUME_REFRESH, VOLUME_WAYS, Phase, forward_of
from common.domain.job import Job
from common.domain.plan import Finding, Method, Overrides
from common.domain.recovery import continued_volume
from common.domain.volume import COPIED_BY, Volume
from tests.builders import GIB, a_job, a_lone_move, a_server, a_server_info, a_volume, an_instance, volumes_by_key

MARKS = {"user.herder.job": "p1-1", "user.herder.state": "complete", "user.herder.pass": "2"}
METHODS = tuple(VOLUME_WAYS)


def a_source(*volumes: Volume, **changes: Any) -> Server:
    """``s1``, with ``data``, which nobody attaches, or with these."""
    return a_server("s1", volumes=volumes_by_key(*(volumes or (a_volume(used_by=()),))), **changes)


def found(
    method: Method = Method.VOLUME_MOVE,
    *,
    source: Server | None = None,
    target: Server | None = None,
    own_job: str = "",
) -> tuple[Finding, ...]:
    """About ``default/data`` on its way from ``s1`` to ``s2``."""
    return volume_findings(a_lone_move(method), source or a_source(), target or a_server("s2"), own_job=own_job)


def codes(findings: tuple[Finding, ...], *, refusals: bool = True) -> list[str]:
    return [each.code for each in findings if each.is_refusal is refusals]


def on_s2(**changes: Any) -> Server:
    """With a volume ``default/data``, of which something may differ."""
    return a_server("s2", volumes=volumes_by_key(a_volume(**{"used_by": (), **changes})))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_its_own_way_although_the_move_names_a_volume(method: Method) -> None:
    """What instances take along is another table."""
    assert forward_of(a_lone_move(method)) is VOLUME_WAYS[method]


def test_a_source_is_retired_after_its_copy_was_verified_and_counts() -> None:
    names = [step.name for step in VOLUME_MOVE.steps]
    order = ["check_volume", "send_volume", "verify_volume", "accept_volume", "retire_volume", "settle_volume"]
    assert names == order
    assert [step.name for step in VOLUME_MOVE.steps if step.commit] == ["accept_volume"]


def test_what_a_refreshed_volume_was_goes_after_the_new_one_was_verified_and_has_its_name() -> None:
    names = [step.name for step in VOLUME_REFRESH.steps]
    assert names.index("verify_volume") < names.index("swap_volume") < names.index("drop_kept_volume")
    assert [step.name for step in VOLUME_REFRESH.steps if step.commit] == ["swap_volume"]
    assert {step.phase for step in UNDO_VOLUME.steps} == {Phase.UNDO}


@pytest.mark.parametrize("method", [Method.VOLUME_MOVE, Method.VOLUME_COPY])
def test_a_volume_goes_where_nothing_keeps_it(method: Method) -> None:
    assert found(method) == ()


@pytest.mark.parametrize(
    ("user", "told"),
    [("/1.0/instances/web1", "web1"), ("/1.0/profiles/ssd", "profile ssd"), ("/1.0/instances/a?project=b", "a of pro")],
)
def test_one_that_somebody_attaches_does_not_move_and_its_users_are_named(user: str, told: str) -> None:
    """Whether they run or not. A copy leaves it where it is."""
    source = a_source(a_volume(used_by=(user,)))
    (refusal,) = found(source=source)
    assert refusal.code == "in_use"
    assert f"default/data is attached by {told}" in refusal.message
    assert codes(found(Method.VOLUME_COPY, source=source)) == []


@pytest.mark.parametrize(
    ("driver", "status", "warned"),
    [("dir", "Running", ["inconsistent"]), ("dir", "Stopped", []), ("btrfs", "Running", [])],
)
def test_a_copy_of_one_that_is_written_to_is_warned_of_where_no_snapshot_is_sent(
    driver: str, status: str, warned: list[str]
) -> None:
    pool = {"default": Pool(name="default", driver=driver, total=9 * GIB)}
    source = a_source(a_volume(), pools=pool)
    source = replace(source, instances=(an_instance("web1", status=status),))
    findings = found(Method.VOLUME_COPY, source=source)
    assert (codes(findings), codes(findings, refusals=False)) == ([], warned)


@pytest.mark.parametrize("method", [Method.VOLUME_MOVE, Method.VOLUME_COPY])
def test_a_name_that_is_taken_is_refused_unless_by_the_job_itself(method: Method) -> None:
    assert codes(found(method, target=on_s2())) == ["volume_taken"]
    assert codes(found(method, target=on_s2(config=MARKS), own_job="p1-1")) == []
    (retired,) = found(method, target=on_s2(config={**MARKS, "user.herder.state": "retired"}))
    assert "the retired one of job p1-1" in retired.message


@pytest.mark.parametrize(
    ("there", "code"),
    [
        ({}, ""),
        ({"used_by": ("/1.0/instances/web1",)}, "in_use"),
        ({"content_type": "block"}, "volume"),
        ({"config": MARKS}, "claimed"),
        ({"config": {**MARKS, "user.herder.state": "retired"}}, "retired"),
    ],
)
def test_only_a_volume_at_rest_is_replaced_by_a_refresh(there: dict[str, Any], code: str) -> None:
    assert codes(found(Method.VOLUME_REFRESH, target=on_s2(**there))) == ([code] if code else [])


def test_a_volume_to_replace_must_be_there() -> None:
    assert codes(found(Method.VOLUME_REFRESH)) == ["no_copy"]


@pytest.mark.parametrize("method", METHODS)
def test_to_a_server_that_it_would_crash_a_volume_goes_as_a_backup(method: Method) -> None:
    """And the plan says so, whatever it is that the volume shall do."""
    there = on_s2() if method is Method.VOLUME_REFRESH else a_server()
    target = replace(there, info=a_server_info("s2", product="incus", version="6.0.4"))
    (finding,) = found(method, target=target)
    assert (finding.code, finding.is_refusal) == ("volume_as_backup", False)
    assert finding.message.startswith("it goes as a backup, carried by a worker: Incus 6.0.4 crashes")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("source", "target", "code"),
    [
        ({}, {"pools": {}}, "pool"),
        ({}, {"pools": {"default": Pool(name="default", driver="dir", total=POOL_RESERVE - 1)}}, "space"),
        ({"info": a_server_info("s1", extensions=frozenset({"instances"}))}, {}, "extension"),
        ({"info": a_server_info("s2")}, {}, "same_server"),
        ({"info": a_server_info("s1", clustered=True)}, {}, "server_kind"),
    ],
)  # fmt: skip
def test_servers_that_cannot_do_it_are_told_apart(
    method: Method, source: dict[str, Any], target: dict[str, Any], code: str
) -> None:
    servers = (
        replace(a_source(), **source),
        replace(on_s2() if method is Method.VOLUME_REFRESH else a_server(), **target),
    )
    assert code in codes(found(method, source=servers[0], target=servers[1]))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"content_type": "block"}, "volume"),
        ({"config": {"user.herder.job": "p9-1", "user.herder.state": "moving"}}, "claimed"),
    ],
)
def test_a_volume_that_herder_cannot_send_stays(changes: dict[str, Any], code: str) -> None:
    """One of another job that has ended is free."""
    assert codes(found(source=a_source(a_volume(used_by=(), **changes)))) == [code]
    retired = {"user.herder.job": "p9-1", "user.herder.state": "retired"}
    assert codes(found(source=a_source(a_volume(used_by=(), config=retired)))) == []


def test_what_its_last_job_wrote_on_it_is_not_its_own() -> None:
    """A copy of a copy does not have it."""
    assert a_volume(config={COPIED_BY: "p1-1", "user.a": "1", **MARKS}).own_config == {"user.a": "1"}


def lone_job(method: Method = Method.VOLUME_MOVE, **changes: Any) -> Job:
    return a_job("check_volume", move=a_lone_move(method), itinerary=VOLUME_WAYS[method].name, **changes)


@pytest.mark.parametrize(
    ("method", "step"),
    [
        (Method.VOLUME_MOVE, "retire_volume"),
        (Method.VOLUME_COPY, "settle_volume"),
        (Method.VOLUME_REFRESH, "drop_kept_volume"),
    ],
)
def test_a_lost_job_whose_copy_counts_goes_on_behind_the_commit_point(method: Method, step: str) -> None:
    there = a_volume(used_by=(), config={**MARKS, COPIED_BY: "p1-1"})
    assert continued_volume(lone_job(method), there, [there]).step == step


def test_a_lost_job_begins_again_and_sends_what_it_had_sent_once_more() -> None:
    """Nobody knows who has attached the source meanwhile."""
    there = a_volume(used_by=(), config=MARKS)
    job = continued_volume(lone_job(), there, [there])
    assert (job.step, job.facts["next_pass"], job.facts["whole_from"]) == ("check_volume", 3, 3)


def test_what_is_beside_a_refreshed_volume_has_the_name_of_its_job() -> None:
    """The old one's and the new one's; a long name is cut."""
    job = lone_job(Method.VOLUME_REFRESH)
    assert [job.name_beside(pattern) for pattern in ("{}-copy-{}", "{}-kept-{}")] == [
        "data-copy-p1-1",
        "data-kept-p1-1",
    ]
    assert a_lone_move(overrides=Overrides()).volumes[0].target_name == "data"
