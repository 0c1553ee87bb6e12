"""No link in the documentation leads nowhere, and every page is found from the first one."""

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, anchors, links, pages


def _target(page: Path, link: str) -> tuple[Path, str]:
    path, _, anchor = link.partition("#")
    return ((page.parent / path).resolve() if path else page), anchor


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """To a file or folder that exists, and to a heading that the page has."""
    dead = []
    for link in links(page):
        target, anchor = _target(page, link)
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_every_page_can_be_found_from_the_first_one() -> None:
    """By following links from README.md."""
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        todo += [target for link in links(page) if (target := _target(page, link)[0]).suffix == ".md"]
    assert set(DOCS.rglob("*.md")) - seen == set()
