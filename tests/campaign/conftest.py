"""Redis for trials inside a test run: the run's own server, and in it a database that trials may empty."""

import pytest
import redis

from tests.campaign.line import load_scripts


@pytest.fixture(scope="session")
def pool(redis_url: str) -> redis.ConnectionPool:
    """Connections to the database of trials."""
    made = redis.ConnectionPool.from_url(f"{redis_url}?db=15")
    load_scripts(made)
    return made
