"""`python -m tests.docs.servers`: ask the servers of the lab what they can, and write it into the reference.

The columns are real servers that have been asked; a version that no lab has run is not on the page.
"""

from collections.abc import Iterable

from common.domain.capabilities import CAPABILITIES
from common.domain.fleet import ServerInfo
from tests.docs.generate import table
from tests.docs.pages import DOCS, with_region
from tests.lab import Lab
from tests.lab.pulls import Site

PAGE = DOCS / "reference" / "servers.md"
#: One server of each product that the lab knows.
ASKED = ("s1", "i1")
_TITLES = {"lxd": "LXD", "incus": "Incus"}


def page_as_asked(lab: Lab) -> str:
    """The page as it should be after these servers have been asked."""
    asked = [Site.of(lab, name).client.info() for name in ASKED]
    return with_region(PAGE.read_text(), "capabilities", _capabilities(asked))


def _capabilities(asked: Iterable[ServerInfo]) -> str:
    asked = tuple(asked)
    heading = " | ".join(f"{_TITLES[info.product]} {info.version}" for info in asked)
    rows = [
        (
            capability.name,
            ", ".join(f"`{name}`" for name in sorted(capability.extensions)),
            *("no" if capability.lacks(info) else "yes" for info in asked),
        )
        for capability in CAPABILITIES
    ]
    return table(f"herder can | if the server has | {heading}", rows)


if __name__ == "__main__":
    PAGE.write_text(page_as_asked(Lab.up(ASKED)))
