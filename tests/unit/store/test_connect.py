"""How a Redis is named: every way that is understood, and what is said about the others."""

import pytest
from redis import Redis
from redis.sentinel import SentinelConnectionPool

from common.domain.errors import InputError
from common.store.connect import connect
from common.store.keys import Keys


def test_a_unix_socket() -> None:
    """As the embedded server has it."""
    assert (
        connect("unix:///run/herder/redis.sock").connection_pool.connection_kwargs["path"] == "/run/herder/redis.sock"
    )


def test_a_host_with_password_and_database() -> None:
    """In the URL, as all Redis tools write it."""
    options = connect("redis://user:secret@127.0.0.1:6380/3").connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["db"]) == ("127.0.0.1", 6380, 3)
    assert (options["username"], options["password"]) == ("user", "secret")


def test_sentinels_name_the_service_and_the_database() -> None:
    """The client follows the primary of that service."""
    pool = connect("redis+sentinel://:secret@10.0.0.1:26379,10.0.0.2:26380/herder/2").connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "herder"
    asked = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in asked] == [("10.0.0.1", 26379), ("10.0.0.2", 26380)]
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (2, "secret")


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:6379",
        "http://127.0.0.1",
        "redis+sentinel://10.0.0.1:26379",
        "redis+sentinel://10.0.0.1/herder",
        "redis+sentinel://10.0.0.1:26379/herder/two",
        "redis://127.0.0.1:port/0",
    ],
)
def test_what_names_no_redis_is_one_clear_error(url: str) -> None:
    """It quotes what was written and says how it is written."""
    with pytest.raises(InputError) as raised:
        connect(url)
    assert url in raised.value.message
    assert raised.value.hint.startswith("write redis")


def retries_of(client: Redis) -> int:
    """How often the client tries again before it gives up."""
    retry = client.connection_pool.connection_kwargs["retry"]
    return int(retry._retries)


def test_a_broker_fails_faster_than_a_patient_client() -> None:
    """A consumer that waits for Redis sends no heartbeat."""
    url = "redis://127.0.0.1"
    assert retries_of(connect(url, patient=False)) < retries_of(connect(url))


def test_all_keys_begin_with_the_namespace() -> None:
    """So that several herders can share a Redis."""
    keys = Keys("ns")
    named = [
        keys.dramatiq,
        keys.plans,
        keys.due,
        keys.listening,
        keys.workers,
        keys.plan("p"),
        keys.jobs("p"),
        keys.job("j"),
        keys.waiting("s1"),
        keys.result("s1", "o"),
        keys.progress("s1", "o"),
        keys.slots("s1:transfer"),
        keys.first("s1"),
        keys.listener("s1"),
        keys.events("p"),
    ]
    assert all(name.startswith(("ns:", "ns.")) for name in named)
    assert len(set(named)) == len(named)
