"""The error tree: the drawing in the docstring is the classes, and the codes are stable names."""

import re

import pytest

from common.domain import errors
from common.domain.errors import (
    FenceLost,
    HerderError,
    InputError,
    PermanentError,
    RecordLost,
    ServerRefused,
    TemporaryError,
)

_ENTRY = re.compile(r"^(?P<indent> *)[*+.-] (?P<name>[A-Z]\w+)", re.MULTILINE)


def every_class(root: type[HerderError] = HerderError) -> list[type[HerderError]]:
    """The class and all that derive from it, as long as they are declared in the module."""
    own = [sub for sub in root.__subclasses__() if sub.__module__ == errors.__name__]
    return [root, *(each for sub in own for each in every_class(sub))]


def drawn() -> dict[str, str]:
    """Class name -> name of the class above it, as the docstring draws them."""
    above: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for entry in _ENTRY.finditer(errors.__doc__ or ""):
        indent = len(entry["indent"])
        path = [(depth, name) for depth, name in path if depth < indent]
        above[entry["name"]] = path[-1][1] if path else "Exception"
        path.append((indent, entry["name"]))
    return above


def test_the_drawing_matches_the_classes() -> None:
    """Every class is in the drawing under the class that it derives from, and nothing else is."""
    assert drawn() == {each.__name__: each.__bases__[0].__name__ for each in every_class()}


def test_codes_are_unique_and_readable() -> None:
    """They are documented, stored with jobs and answered in JSON."""
    codes = [each.code for each in every_class()]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_every_class_has_a_docstring_of_its_own() -> None:
    """It says what happened."""
    assert not [each.__name__ for each in every_class() if not each.__doc__ or not each.__doc__.strip()]


def test_each_branch_says_who_acts_next() -> None:
    """The person who typed, the queue, a person, or nobody: the branches do not overlap."""
    branches = (InputError, TemporaryError, PermanentError, RecordLost, FenceLost)
    leaves = [each for each in every_class() if each is not HerderError]
    assert all(sum(issubclass(each, branch) for branch in branches) == 1 for each in leaves)


@pytest.mark.parametrize("kind", every_class(), ids=lambda kind: kind.__name__)
def test_an_error_says_what_it_was_told(kind: type[HerderError]) -> None:
    """A hint that is given wins over the hint of the class."""
    assert str(kind("it broke")) == kind("it broke").message == "it broke"
    assert kind("it broke").hint == kind.default_hint
    assert kind("it broke", hint="mend it").hint == "mend it"


def test_a_refusal_of_a_server_keeps_its_status() -> None:
    """The HTTP status tells more than the text."""
    assert ServerRefused("no", status=409).status == 409
