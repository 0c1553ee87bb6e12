"""What can go wrong on the way to a server, as herder's own errors.

This is the one place where exceptions of ``requests``, ``ssl`` and ``websocket`` and the server's error answers are
translated. ``transport`` and ``events`` are its only users. Every message starts with the server's name.
"""

import json
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import requests
import websocket

from common.domain.errors import (
    HerderError,
    InputError,
    NotFound,
    NotTrusted,
    PreconditionFailed,
    ServerBusy,
    ServerRefused,
    ServerUnreachable,
)

_REFUSALS = {401: NotTrusted, 403: NotTrusted, 404: NotFound, 412: PreconditionFailed}
_BUSY_STATUSES = (502, 503, 504)
_FAILED = 500

_OTHER_CERTIFICATE = "Fingerprints did not match"
_NO_PERMISSION = "Permission denied"
# LXD answers by 500, as if it were an error of its own: a collision with another change of the same instance, and
# whatever comes while a cluster elects the leader of its database.
_BUSY_TEXTS = (
    "A matching non-reusable operation has now succeeded",
    "Instance is busy",
    "context deadline exceeded",
)
# Incus says so for as long as a guest runs that did not shut down in time; a stop that goes well takes a moment.
_STOPPING = 'busy running a "stop" operation'
_UNTIL = "; if its guest did not shut down in time, this lasts until it has stopped or Incus is restarted"
# Any member answers for the others; these are its 500s when the member that is meant is down, and when it has just
# gone down or goes down before it has answered (Go's words for a request that got no answer, whatever the reason).
_MEMBER_DOWN = re.compile(
    r"Missing event connection with target cluster member"
    r'|^[A-Z][a-z]+ "https://[^"]+/1\.0/[^"]*": '
)


def refusal(server: str, status: int, text: str) -> HerderError:
    """The error for an error answer: its HTTP status and the server's own words."""
    message = f"{server}: {text or f'HTTP {status}'}"
    if status in _BUSY_STATUSES:
        return ServerBusy(message, server=server)
    if status == _FAILED and any(busy in text for busy in _BUSY_TEXTS):
        return ServerBusy(message + _UNTIL if _STOPPING in text else message)
    if status == _FAILED and _MEMBER_DOWN.search(text):
        return ServerUnreachable(message)
    return _REFUSALS.get(status, ServerRefused)(message, status=status)


def wrong_certificate(server: str) -> NotTrusted:
    """The error for a server that shows another certificate than the one agreed on."""
    return NotTrusted(
        f"{server}: shows another certificate than the one we trust",
        hint="if the server really has a new one, remove the remote and add it again; if not, somebody is in between",
    )


def is_worth_another_try(error: BaseException) -> bool:
    """Whether the same harmless request may succeed at once: the server is busy or the connection broke.

    Not after a time-out: a server that was silent for that long has taken enough of our time.
    """
    if isinstance(error, ServerUnreachable):
        cause = error.__cause__
        return isinstance(cause, requests.ConnectionError) and not isinstance(cause, requests.Timeout)
    return isinstance(error, ServerBusy)


@contextmanager
def translated(server: str) -> Iterator[None]:
    """Turn foreign exceptions into ours.

    Raises NotTrusted for a certificate that cannot be verified, InputError for an address that cannot be used,
    ServerUnreachable for everything that breaks on the way, and the refusal for a refused websocket.
    """
    try:
        yield
    except (requests.exceptions.SSLError, ssl.SSLError) as error:
        raise _tls_error(server, error) from error
    except requests.RequestException as error:
        raise _request_error(server, error) from error
    except websocket.WebSocketBadStatusException as error:
        raise refusal(server, error.status_code, _error_text(error.resp_body)) from error
    except websocket.WebSocketTimeoutException as error:
        raise ServerUnreachable(f"{server}: no answer in time", server=server) from error
    except websocket.WebSocketException as error:
        raise ServerUnreachable(f"{server}: {_reason(error)}", server=server) from error
    except OSError as error:
        raise _system_error(server, error) from error


def _tls_error(server: str, error: Exception) -> HerderError:
    text = str(error)
    if _OTHER_CERTIFICATE in text:
        return wrong_certificate(server)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return NotTrusted(f"{server}: no authority vouches for its certificate, and we do not know it ourselves")
    return ServerUnreachable(f"{server}: {_reason(error)}", server=server)


def _request_error(server: str, error: requests.RequestException) -> HerderError:
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return InputError(f"{server}: {error}")
    if isinstance(error, requests.Timeout):
        return ServerUnreachable(f"{server}: no answer in time", server=server)
    if _NO_PERMISSION in str(error):
        return _no_permission(server)
    return ServerUnreachable(f"{server}: {_reason(error)}", server=server)


def _system_error(server: str, error: OSError) -> HerderError:
    if isinstance(error, PermissionError):
        return _no_permission(server)
    return ServerUnreachable(f"{server}: {_reason(error)}", server=server)


def _no_permission(server: str) -> NotTrusted:
    return NotTrusted(f"{server}: no permission to use its socket", hint="be root or in the server's group")


def _reason(error: BaseException) -> str:
    """The innermost cause in its own words: the outer ones only name Python objects."""
    while inner := _inner(error):
        error = inner
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _inner(error: BaseException) -> BaseException | None:
    wrapped = [getattr(error, "reason", None), *error.args, error.__cause__]
    return next((e for e in wrapped if isinstance(e, BaseException)), None)


def _error_text(body: bytes | None) -> str:
    """What the server says in an error answer, ``""`` if it is not JSON."""
    try:
        answer = json.loads(body or b"")
    except ValueError:
        return ""
    return str(answer.get("error", "")) if isinstance(answer, dict) else ""
