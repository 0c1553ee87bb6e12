"""Logs: events with keys."""

import logging

import pytest

from common.logs import event


def test_an_event_is_its_name_and_its_keys(caplog: pytest.LogCaptureFixture) -> None:
    """Empty values are left out; text with spaces is quoted, so that a line can be taken apart again."""
    with caplog.at_level(logging.INFO):
        event(logging.getLogger("herder.test"), "step.wait", job="p1-1", blocked_on="a slot", error="", took=1.5)
    assert caplog.messages == ["step.wait job=p1-1 blocked_on='a slot' took=1.5"]
