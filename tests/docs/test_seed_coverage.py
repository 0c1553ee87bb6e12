"""The page that compares herder with LXD's how-to has all of that, and claims nothing without a test."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.pages import DOCS, ROOT

#: What the how-to says about behaviour, in its order and its words, from its title to its last related page.
HOW_TO = (
    "migrate or copy instances from one LXD server (remote or local) to another",
    "export an instance from one server and import it to another",
    "To migrate an instance (move it from one LXD server to another)",
    "When migrating a container, you must stop it first",
    "When migrating a virtual machine, you must either enable",
    "if you want to duplicate the instance",
    "use the --refresh flag to update the copy",
    "you don't need to specify the source remote if it is your default remote",
    "you can leave out the target instance name if you want to use the same",
    "specify that member's name with the --target flag",
    "In this case, do not specify the source and target remote",
    "pull (default)",
    '"push"',
    '"relay"',
    "using --config, --device, --storage or --target-project",
    "using --no-profiles or --profile",
    "for all available flags",
    "Virtual machines can be migrated to another server while they are running",
    "For containers, there is limited support",
    "set migration.stateful to true",
    "can only be updated when the machine is stopped",
    "virtiofs shares are disabled, and files are only shared via the 9P protocol",
    "the lxd-agent will not function for these guests",
    "must be set to at least the size of limits.memory",
    "a remote storage pool like Ceph RBD",
    "must not depend on any resources specific to its current host, such as local storage or a local (non-OVN) bridge",
    "use the evacuate and restore operations to temporarily migrate all instances from one cluster member",
    "These operations can also live-migrate eligible instances",
    "Migrate instances in a cluster",
    "howto-projects-work-move-instance",
    "Import machines to LXD instances",
    "secondary-backup-server",
    "instances-backup-export-instance",
    "instances-backup-import-instance",
    "Move or copy storage volumes",
)


def rows() -> Iterator[tuple[str, str]]:
    """What the how-to says, and the test that shows what herder makes of it."""
    for line in (DOCS / "reference" / "seed-coverage.md").read_text().splitlines():
        if line.startswith("|") and not line.startswith(("|---", "| the how-to |")):
            said, _, shown = (cell.strip() for cell in line.strip("|").split(" | "))
            yield said, shown.strip("`")


def test_every_sentence_of_the_how_to_has_a_row_in_its_order() -> None:
    page = "\n".join(said for said, _ in rows())
    places = [page.find(sentence) for sentence in HOW_TO]
    assert [sentence for sentence, place in zip(HOW_TO, places, strict=True) if place < 0] == []
    assert places == sorted(places)


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
