"""The lab for the tests in this folder.

It stays up afterwards, which makes the next run faster; `python -m tests.lab down` ends it.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    """All servers of the lab, running."""
    return Lab.up()


@pytest.fixture
def other_root() -> Iterator[Path]:
    """A place for a lab that only this test uses, and may destroy."""
    root = Path(tempfile.mkdtemp(prefix="herder-lab-", dir="/var/tmp"))
    yield root
    Lab(root, {}).down()
