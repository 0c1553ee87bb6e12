"""What can go wrong with the lab itself.

LabError
├── LabUnavailableError   this machine cannot run a lab, and why, in one sentence
└── RefusedError          an LXD server answered a request with an error, or its operation failed
"""


class LabError(Exception):
    """The lab could not do what was asked."""


class LabUnavailableError(LabError):
    """The machine cannot run a lab: not Linux, not root, or no way to install LXD."""


class RefusedError(LabError):
    """An LXD server said no; `status` is the HTTP status, or the operation's status code (400 = Failure)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{text} ({status})")
        self.status = status
        self.text = text
