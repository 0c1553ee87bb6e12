"""The page that compares herder with LXD's how-to claims nothing without a test."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.pages import DOCS, ROOT


def rows() -> Iterator[tuple[str, str]]:
    """What the how-to says, and the test that shows it, where herder has it."""
    lines = (DOCS / "reference" / "seed-coverage.md").read_text().splitlines()
    for line in [line for line in lines if line.startswith("|")][2:]:
        said, _, shown = (cell.strip() for cell in line.strip("|").split(" | "))
        if shown != "not yet":
            yield said, shown.strip("`")


@pytest.mark.parametrize(("said", "shown"), list(rows()), ids=[said[:60] for said, _ in rows()])
def test_what_is_claimed_is_shown_by_a_test_with_real_servers(said: str, shown: str) -> None:
    file, *names = shown.split("::")
    text = (ROOT / file).read_text()
    inside = ast.parse(text).body
    for name in names:
        found = [n for n in inside if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name]
        assert found, said
        inside = found[0].body
    assert isinstance(found[0], ast.FunctionDef), said
    assert re.search(r"^pytestmark = .*pytest\.mark\.lab\b", text, re.MULTILINE), said
