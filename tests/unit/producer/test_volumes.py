"""Plans of custom volumes that go by themselves."""

from typing import Any

import pytest

from common.domain.errors import InputError
from common.domain.plan import Method, Overrides, Plan, Policy, Selection
from common.domain.volume import Volume
from producer.volumes import plan_volumes
from tests.builders import a_fleet, a_request, a_server, a_volume, volumes_by_key

VOLUMES = (
    a_volume("b", used_by=()),
    a_volume("a", used_by=()),
    a_volume("c", pool="fast", used_by=()),
    a_volume("gone", used_by=(), config={"user.herder.job": "p0-1", "user.herder.state": "retired"}),
)


def planned(
    *names: str,
    method: Method = Method.VOLUME_MOVE,
    there: tuple[Volume, ...] = (),
    pools: tuple[str, ...] = (),
    project: str = "default",
    **request: Any,
) -> Plan:
    """The plan for these volumes of s1, or for all."""
    wanted = a_request(
        select=Selection(source="s1", project=project, instances=names, pools=pools),
        policy=Policy(method=method),
        **request,
    )
    pool = a_server("s2").pools["default"]
    target = a_server("s2", volumes=volumes_by_key(*there), pools={"default": pool, "fast": pool, "ssd": pool})
    return plan_volumes(wanted, a_fleet(a_server("s1", volumes=volumes_by_key(*VOLUMES)), target), plan_id="p1")


def test_all_are_taken_by_name_but_those_that_were_retired() -> None:
    moves = planned().moves
    assert [(move.instance, move.name) for move in moves] == [(p, p) for p in ("default/a", "default/b", "fast/c")]
    assert {(move.type, move.method, len(move.volumes)) for move in moves} == {("volume", Method.VOLUME_MOVE, 1)}


def test_those_of_a_pool_and_those_that_are_named_are_taken() -> None:
    """A retired one too, if it is named."""
    assert [move.instance for move in planned(pools=("fast",)).moves] == ["fast/c"]
    assert [move.instance for move in planned("fast/c", "default/a").moves] == ["default/a", "fast/c"]
    assert [move.instance for move in planned("default/gone").moves] == ["default/gone"]


def test_one_gets_another_pool_and_another_name() -> None:
    (move,) = planned("default/a", rename="x", overrides=Overrides(storage="ssd")).moves
    (volume,) = move.volumes
    assert (move.name, str(volume), volume.target_pool, volume.target_name) == ("ssd/x", "default/a", "ssd", "x")


def test_a_refresh_replaces_what_is_there_and_copies_what_is_not() -> None:
    plan = planned("default/a", "default/b", method=Method.VOLUME_REFRESH, there=(a_volume("a", used_by=()),))
    told = [(move.instance, move.method, move.reason) for move in plan.moves]
    assert told == [
        ("default/a", Method.VOLUME_REFRESH, "replaces the default/a that is there"),
        ("default/b", Method.VOLUME_COPY, "it is not there yet"),
    ]


def test_two_that_would_have_one_name_are_refused() -> None:
    """As volumes of two pools would in one."""
    clash = (*VOLUMES, a_volume("a", pool="fast", used_by=()))
    wanted = a_request(
        select=Selection(source="s1"), policy=Policy(method=Method.VOLUME_COPY), overrides=Overrides(storage="default")
    )
    fleet = a_fleet(a_server("s1", volumes=volumes_by_key(*clash)), a_server("s2"))
    (refusal,) = plan_volumes(wanted, fleet, plan_id="p1").refusals
    assert refusal.instance == "fast/a"
    assert refusal.findings[0].code == "name_taken"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"names": ("default/z",)}, "no custom volume default/z on s1"),
        ({"pools": ("slow",)}, "no custom volume in pool slow on s1"),
        ({"rename": "x"}, "a new name needs exactly one volume; 3 are selected"),
        ({"targets": ("s1",)}, "s1 is the source and the target at once"),
        ({"project": "nowhere"}, "s1 has no project nowhere"),
    ],
)
def test_what_cannot_be_meant_is_an_error(options: dict[str, Any], said: str) -> None:
    names = options.pop("names", ())
    with pytest.raises(InputError, match=said):
        planned(*names, **options)
