"""The documentation as data: its pages, and the code blocks, inline code, links, headings and tables of each.

Used by the tests beside it. Understands the Markdown that the pages use and no more.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^```(\S*)\s*$")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code; `line` is that of its first line of text, from 1."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every page that people read."""
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    begun: tuple[int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence and begun is None:
            begun, inside = (number + 1, fence[1]), []
        elif fence and begun is not None:
            yield Block(page, begun[0], begun[1], "\n".join(inside))
            begun = None
        else:
            inside.append(line)


def all_blocks(*languages: str) -> list[Block]:
    """The blocks of all pages in these languages; in all of them if none is given."""
    return [block for page in pages() for block in blocks(page) if not languages or block.language in languages]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```\s*$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def inline_code(page: Path) -> list[str]:
    """What stands between single backticks."""
    return _INLINE.findall(prose(page))


def links(page: Path) -> list[str]:
    """The targets of a page's links that do not lead to another site."""
    return [target for target in _LINK.findall(prose(page)) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The names that headings get on a rendered page: lower case, hyphens, no punctuation."""
    headings = _HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def first_cells(page: Path, heading: str) -> list[str]:
    """The code in the first cell of each row of the tables between this heading and the next."""
    text = page.read_text()
    begun = re.search(rf"^#+ {re.escape(heading)}$", text, re.MULTILINE)
    assert begun, f"{page.name} has no heading {heading!r}"
    section = re.split(r"^#+ ", text[begun.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)


def with_region(text: str, name: str, content: str) -> str:
    """A page's text with other content between its `<!-- begin: NAME -->` and `<!-- end: NAME -->`."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    before, found, rest = text.partition(begin)
    assert found, f"there is no region {name}"
    assert end in rest, f"region {name} does not end"
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"
