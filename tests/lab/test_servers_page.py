"""What the reference says of each version of a server is what that server says of itself."""

import pytest

from tests.docs import servers
from tests.lab import Lab

pytestmark = pytest.mark.lab


def test_the_table_of_servers_is_what_they_answer(incus: Lab) -> None:
    """Otherwise: `python -m tests.docs.servers`."""
    assert servers.page_as_asked(incus) == servers.PAGE.read_text()
