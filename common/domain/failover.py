"""What a failover knows: whose part the instance takes that is made of a generation, and what was said of its home."""

from dataclasses import dataclass

from common.domain.generation import origin


@dataclass(frozen=True, kw_only=True)
class FailoverOrder:
    """The *stale* instance, which must not run any more, on the server at home.

    ``identity`` tells it from another one of its name. ``source_is_down``: that server did not answer, and the operator
    has said that nothing runs there. ``starts``: whether the instance ran when it was backed up.
    """

    remote: str
    project: str
    instance: str
    identity: str = ""
    source_is_down: bool = False
    starts: bool = True

    @property
    def source(self) -> str:
        """``REMOTE:PROJECT/INSTANCE``."""
        return origin(self.remote, self.project, self.instance)

    def __str__(self) -> str:
        return f"{self.remote}:{self.instance}"
