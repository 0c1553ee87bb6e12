"""What is in an archive that is a directory, and what an export has left on its server."""

import json
from pathlib import Path

from tests.acceptance import world
from tests.lab import LabServer


def manifests(shelf: Path) -> list[world.Record]:
    return [json.loads(each.read_text()) for each in sorted(shelf.glob("*.json"))]


def backups(server: LabServer, name: str) -> list[str]:
    """The backups that the server keeps of an instance."""
    return list(server.query("GET", f"/1.0/instances/{name}/backups"))
