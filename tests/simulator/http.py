"""A request to a simulated server and its answer, without any network: what ``Server.handle`` takes and gives."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request.

    ``path`` is unquoted part by part in ``parts``; ``client`` is the fingerprint of the certificate shown, if any.
    """

    method: str
    path: str
    parts: tuple[str, ...]
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    client: str = ""

    @property
    def project(self) -> str:
        return self.query.get("project") or "default"

    @property
    def is_recursive(self) -> bool:
        return self.query.get("recursion", "0") != "0"

    @cached_property
    def json(self) -> Json:
        """The body. Raises Refused if it is no JSON object."""
        try:
            found = json.loads(self.body or b"{}")
        except ValueError as error:
            raise Refused(400, str(error)) from error
        if not isinstance(found, dict):
            raise Refused(400, "json: cannot unmarshal into Go value")
        return found


@dataclass(frozen=True, kw_only=True)
class Response:
    """An answer; ``body`` is the whole JSON document as text."""

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """What a server answers instead: an HTTP status and its words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def answer(metadata: Any, *, etag: str = "") -> Response:
    """The result of a request that was done at once."""
    document = {
        "type": "sync",
        "status": "Success",
        "status_code": 200,
        "operation": "",
        "error_code": 0,
        "error": "",
        "metadata": metadata,
    }
    return Response(status=200, body=json.dumps(document), headers={"Etag": etag} if etag else {})


def created(location: str) -> Response:
    """The answer to a POST that made something at once."""
    document = {"type": "sync", "status": "Success", "status_code": 200, "metadata": {}}
    return Response(status=201, body=json.dumps(document), headers={"Location": location})


def begun(operation: Json) -> Response:
    """The answer to a request that began an operation."""
    location = f"/1.0/operations/{operation['id']}"
    document = {
        "type": "async",
        "status": "Operation created",
        "status_code": 100,
        "operation": location,
        "error_code": 0,
        "error": "",
        "metadata": operation,
    }
    return Response(status=202, body=json.dumps(document), headers={"Location": location})


def refused(refusal: Refused) -> Response:
    document = {"type": "error", "error": refusal.text, "error_code": refusal.status, "metadata": None}
    return Response(status=refusal.status, body=json.dumps(document))
