"""One way to reach Redis, for both sides: ``redis://``, ``rediss://``, ``unix://`` and Sentinel.

Sentinel is written ``redis+sentinel://host:port,host:port/SERVICE/DB``.
"""

from urllib.parse import urlsplit

from redis import Redis, Sentinel
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from common.domain.errors import InputError

_SOCKET_TIMEOUT = 5.0


def connect(url: str, *, patient: bool = True) -> "Redis":
    """A client. ``patient`` ones bridge a restart or failover of a few seconds; a broker must rather fail fast.

    Nothing is sent yet. Raises InputError if the URL cannot be understood.
    """
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), 12 if patient else 1)
    options = {
        "retry": retry,
        "retry_on_error": [RedisConnectionError, RedisTimeoutError],
        "socket_timeout": _SOCKET_TIMEOUT,
        "socket_connect_timeout": _SOCKET_TIMEOUT,
        "health_check_interval": 15,
    }
    parts = urlsplit(url)
    if parts.scheme == "redis+sentinel":
        return _from_sentinel(url, options)
    if parts.scheme == "unix":
        options.pop("socket_connect_timeout")
    try:
        return Redis.from_url(url, **options)
    except ValueError as error:
        raise InputError(f"redis_url {url!r}: {error}", hint="write redis://HOST:PORT/DB") from error


def _from_sentinel(url: str, options: dict[str, object]) -> "Redis":
    parts = urlsplit(url)
    path = parts.path.strip("/").split("/")
    hosts = [host.rpartition("@")[2].rpartition(":") for host in parts.netloc.split(",")]
    if not path[0] or not all(part.isdigit() for part in (*path[1:2], *(port for _, _, port in hosts))):
        raise InputError(
            f"redis_url {url!r} is not a Sentinel address",
            hint="write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB",
        )
    sentinel = Sentinel([(host, int(port)) for host, _, port in hosts], socket_timeout=_SOCKET_TIMEOUT)
    db = int(path[1]) if len(path) > 1 else 0
    password = parts.password
    return sentinel.master_for(path[0], db=db, password=password, **options)  # type: ignore[no-any-return]
