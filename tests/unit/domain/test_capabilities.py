"""What a server can be used for is told by its API extensions."""

from common.domain.capabilities import CAPABILITIES, missing
from tests.builders import a_server_info

EVERYTHING = frozenset().union(*(capability.extensions for capability in CAPABILITIES))


def test_a_server_with_all_extensions_can_do_everything() -> None:
    """Nothing is missing, whatever else it has."""
    assert list(missing(a_server_info("s1", extensions=EVERYTHING | {"other"}))) == []


def test_what_is_missing_is_told_by_what_it_is_for() -> None:
    """Only what depends on the extension, and with the name of it."""
    without = a_server_info("s1", extensions=EVERYTHING - {"clustering_groups"})
    assert [(each.name, lacking, each.is_required) for each, lacking in missing(without)] == [
        ("choose members by group", ("clustering_groups",), False)
    ]


def test_one_capability_is_what_herder_cannot_do_without() -> None:
    """A server without incremental copies is of no use, and the doctor says that it must be upgraded."""
    without = a_server_info("s1", extensions=EVERYTHING - {"projects"})
    assert [each.is_required for each, _ in missing(without)] == [True]
