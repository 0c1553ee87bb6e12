"""Every command line in the documentation is one that works, as far as that shows without running it."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from tests.docs.commands import command_lines, complaint, herder_arguments, simple_commands
from tests.docs.pages import ROOT, all_blocks, inline_code, pages

LINES = [(str(block), line) for block in all_blocks("sh", "console") for line in command_lines(block)]
WORDS = [(place, words) for place, line in LINES for words in simple_commands(line)]


@pytest.mark.parametrize(
    ("place", "words"), [(place, words) for place, words in WORDS if herder_arguments(words) is not None]
)
def test_herder_understands_the_command(place: str, words: list[str]) -> None:
    """Its commands, arguments, options and values, parsed and not run."""
    arguments = herder_arguments(words)
    assert arguments is not None
    assert complaint(arguments) == "", place


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_herder_understands_what_the_prose_mentions(page: Path) -> None:
    """In running text an argument may be left out; a command or an option that does not exist may not be there."""
    mentioned = [shlex.split(code)[1:] for code in inline_code(page) if code.startswith("herder ")]
    complaints = [(words, complaint(words)) for words in mentioned]
    assert [each for each in complaints if each[1] and not re.search("Missing|requires an argument", each[1])] == []


def test_a_wrong_command_is_noticed() -> None:
    """The tests above would be worth nothing if the hollow herder took everything."""
    assert complaint(["evacuate", "s1:", "--to", "s2:", "--retire", "burn"])
    assert complaint(["evacuate"])
    assert complaint(["vacuate", "s1:", "--to", "s2:"])
    assert simple_commands("A=1 herder status | head -3 && make demo  # look") == [
        ["herder", "status"],
        ["head", "-3"],
        ["make", "demo"],
    ]


def test_every_verb_of_make_exists() -> None:
    """In command lines and in running text."""
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {words[1] for _, words in WORDS if words[0] == "make" and len(words) > 1}
    used |= {code.split()[1] for page in pages() for code in inline_code(page) if code.startswith("make ")}
    assert used - verbs == set()


def test_every_module_that_is_run_exists() -> None:
    """`python -m tests.lab` and its like."""
    modules = {words[words.index("-m") + 1] for _, words in WORDS if "-m" in words and "python" in words[0]}
    modules |= {m[1] for page in pages() for code in inline_code(page) if (m := re.match(r"python -m (\S+)", code))}
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []
