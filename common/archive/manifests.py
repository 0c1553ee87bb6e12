"""Manifest <-> JSON, which people read too."""

import json

from pydantic import TypeAdapter, ValidationError

from common.domain.archive import MANIFEST_VERSION, Manifest
from common.domain.errors import ArchiveRefused

_ADAPTER = TypeAdapter(Manifest)


def written(manifest: Manifest) -> bytes:
    """The manifest as JSON."""
    return json.dumps(_ADAPTER.dump_python(manifest, mode="json"), indent=2).encode() + b"\n"


def read(text: bytes, name: str) -> Manifest:
    """The manifest. Raises ArchiveRefused, naming it, for one that cannot be understood."""
    try:
        record = json.loads(text)
        version = record["version"]
        if version > MANIFEST_VERSION:
            raise ArchiveRefused(f"{name}: is of version {version}", hint="import it with a newer herder")
        return _ADAPTER.validate_python(record)
    except (ValueError, ValidationError, KeyError, TypeError) as error:
        raise ArchiveRefused(
            f"{name}: is not the manifest of an export: {error}", hint="remove it, or restore it from a copy"
        ) from error
