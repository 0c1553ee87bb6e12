"""Every error raised on purpose, and who acts next.

* HerderError
  + InputError              the person who typed: nothing has moved; names the file, line, server or instance
    - UnknownRemote
    - PlanFileError
    - PlanDrifted
  + TemporaryError          the queue: the same step again, after a delay
    - ServerUnreachable
    - ServerBusy            503 while shutting down, or the server's own "busy, try again"
    - OperationLost         the daemon forgot the operation: look at the world, then decide
    - TransferFailed        a pass broke: look at the world, then pass again
    - TransferStalled       a pass moved no byte for too long and was cancelled
    - CutoverBroken         the source was started again before the hand-over: give back, then pass again
    - CopyLost              what was copied is not there any more: give back, then pass again
    - ArchiveUnreachable    no answer from the archive of exports, or an input/output error
  + PermanentError          a person: the job is undone or parked, ``hint`` says what to do
    - PreflightRefused
    - IdentityMismatch      the instance is not the one that was planned
    - StopRefused           the guest did not obey and the plan says to give back
    - OutOfSpace
    - ArchiveRefused        the archive is not there, or may not be written or read
    - VerificationFailed    the target runs but is not what was promised
    - ServerRefused         the server said no, and asking again would not change that
      . NotFound
      . NotTrusted          our certificate, or the server's, is not the one agreed on
      . PreconditionFailed  the instance changed since it was read
  + RecordLost              a person: Redis has forgotten a plan; `herder recover` rebuilds it from the servers
  + FenceLost               nobody: another worker owns the job; stop, write nothing

An error of any other type is a bug: the attempt is recorded, tried a few times and then parked with its traceback.
"""

from typing import ClassVar


class HerderError(Exception):
    """Base of all errors raised on purpose; ``code`` is stable and documented, ``hint`` is for a person."""

    code: ClassVar[str] = "error"
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint


class InputError(HerderError):
    """What was typed or written cannot be carried out; nothing has moved."""

    code = "input"


class UnknownRemote(InputError):
    """No remote of this name is in the client's configuration."""

    code = "unknown_remote"


class PlanFileError(InputError):
    """A plan file says something that cannot be understood; the message starts with file, line and column."""

    code = "plan_file"


class PlanDrifted(InputError):
    """The servers are not as they were when the plan was made."""

    code = "plan_drifted"
    default_hint = "make the plan again with `herder plan`"


class TemporaryError(HerderError):
    """The same step may succeed later; ``server`` is the remote that serves nobody now, if that is why."""

    code = "temporary"

    def __init__(self, message: str, *, server: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.server = server


class ServerUnreachable(TemporaryError):
    """No answer from the server: refused, timed out or cut."""

    code = "server_unreachable"
    default_hint = "herder tries again by itself; see that the server is up and reachable"


class ServerBusy(TemporaryError):
    """The server answered that it cannot do it now."""

    code = "server_busy"


class OperationLost(TemporaryError):
    """The server no longer knows the operation, and the world does not show its effect."""

    code = "operation_lost"


class TransferFailed(TemporaryError):
    """A pass ended with an error on the source or on the target."""

    code = "transfer_failed"


class TransferStalled(TemporaryError):
    """A pass made no progress for the stall time-out and was cancelled."""

    code = "transfer_stalled"


class CutoverBroken(TemporaryError):
    """The source runs, or ran, again after it was stopped for the cutover; what was passed since is stale."""

    code = "cutover_broken"


class CopyLost(TemporaryError):
    """The copy that had been made is gone, or nobody's; it is made again."""

    code = "copy_lost"


class ArchiveUnreachable(TemporaryError):
    """The directory or bucket of exports does not answer, or answers with an error of its own."""

    code = "archive_unreachable"
    default_hint = "herder tries again by itself; see that the archive is up and reachable from the workers"


class PermanentError(HerderError):
    """Trying again would not help; a person has to change something first."""

    code = "permanent"
    default_hint = "look at both servers, then `herder retry`"


class PreflightRefused(PermanentError):
    """The instance cannot move to this target as things are."""

    code = "preflight_refused"


class IdentityMismatch(PermanentError):
    """The instance or the copy is not the one that this job is about."""

    code = "identity_mismatch"


class StopRefused(PermanentError):
    """The guest did not shut down within its grace."""

    code = "stop_refused"
    default_hint = (
        "shut the guest down by hand, then `herder retry`; or plan again with a longer --grace or --stop-then force"
    )


class OutOfSpace(PermanentError):
    """The target pool is full."""

    code = "out_of_space"
    default_hint = "free or add space in the target's pool, then `herder retry`"


class ArchiveRefused(PermanentError):
    """The directory or bucket of exports cannot be used as it is."""

    code = "archive_refused"
    default_hint = "the archive must be there, and the workers must be able to use it; then `herder retry`"


class VerificationFailed(PermanentError):
    """The target is up but differs from what was promised."""

    code = "verification_failed"


class ServerRefused(PermanentError):
    """The server answered with an error that asking again would not change; ``status`` is the HTTP status."""

    code = "server_refused"

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class NotFound(ServerRefused):
    """HTTP 404."""

    code = "not_found"


class NotTrusted(ServerRefused):
    """HTTP 403, or a certificate that is not the pinned one."""

    code = "not_trusted"
    default_hint = "add the client certificate to the server's trust store: `herder remote add NAME ADDRESS`"


class PreconditionFailed(ServerRefused):
    """HTTP 412: the instance is not as it was when its ETag was read."""

    code = "precondition_failed"


class RecordLost(HerderError):
    """Redis does not know a plan any more that it knew a moment ago."""

    code = "record_lost"
    default_hint = "`herder recover` rebuilds its jobs from what they wrote on the servers"


class FenceLost(HerderError):
    """Another worker owns the job now."""

    code = "fence_lost"
