"""Logging set-up: events with keys, ``step.completed job=… step=…``, on standard error."""

import logging
from typing import Any


def set_up(level: str) -> None:
    """Configure the root logger once per process."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("urllib3", "dramatiq", "requests"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def event(logger: logging.Logger, name: str, **keys: Any) -> None:
    """Log one event; values that are empty are left out."""
    pairs = " ".join(
        f"{key}={value!r}" if " " in str(value) else f"{key}={value}" for key, value in keys.items() if value
    )
    logger.info("%s %s", name, pairs)
