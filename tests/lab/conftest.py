"""A place for the labs that tests in this folder may destroy."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab


@pytest.fixture
def other_root() -> Iterator[Path]:
    """A place for a lab that only this test uses, and may destroy."""
    root = Path(tempfile.mkdtemp(prefix="herder-lab-", dir="/var/tmp"))
    yield root
    Lab(root, {}).down()
