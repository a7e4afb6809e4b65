"""The errors that a user is meant to read, and the exit codes of a run."""

import errno
import re
from collections.abc import Iterator

EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_RUN_FAILED = 3
# Between 42 and 255 launchers such as XPK start a job again by default.
EXIT_PREEMPTED = 42
EXIT_INTERRUPTED = 130  # what shells say of a program that Ctrl-C ended
EXIT_PIPE = 141  # the same of SIGPIPE: nobody reads its output
# What a reader of JSON raises where there is none, or of another form.
DAMAGED_JSON = (
  *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
  RecursionError,  # brackets nested without end
)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What a disk or a network says that may be back after a while.
_STORAGE_LOST = (
  *(errno.EIO, errno.EREMOTEIO, errno.ESTALE),
  *(errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN),
)
_NOT_ALLOWED = (
  *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
)
# What only the machine and its user can be the cause of, not our own code.
_OF_THE_SYSTEM = (
  *_NOT_ALLOWED,
  *(errno.EROFS, errno.ENAMETOOLONG, errno.EMLINK, errno.ELOOP, errno.EBUSY),
)
# What to do about an error of the file system; others have to speak for
# themselves.
_REMEDIES = {
  _DISK_FULL: "make room",
  _STORAGE_LOST: "check the disk, or the server that holds it",
  (errno.EACCES,): "get permission there",
  (errno.EPERM,): "lift what forbids it, such as the flag of `chattr +i`",
  (errno.EROFS,): "mount it writable, or use another disk",
  (errno.ENAMETOOLONG,): "use a shorter path",
  (
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
  ): "move away what stands in its place",
  (errno.ENOENT,): "find out what removes it",
  (errno.EMFILE, errno.ENFILE): "allow more open files (`ulimit -n`)",
  (errno.EMLINK,): "put fewer folders into one",
  (errno.ELOOP,): "fix its symbolic links",
  (errno.EBUSY, errno.ETXTBSY): "end what uses it",
  (errno.ENOMEM,): "free memory",
}


class UserError(ValueError):
  """Bad input, shown as one line: what is wrong, the value, what to do."""


class GoneError(UserError):
  """A checkpoint that its run deleted while another command read it."""


class Stopped(BaseException):
  """SIGTERM; no `Exception`, so that nobody catches it on its way up."""


_STOPPED = (Stopped, KeyboardInterrupt)


class RunError(RuntimeError):
  """A run that cannot go on although its input was accepted."""


class RestartableError(RunError):
  """A run that cannot go on here and now, but may when it is started again."""


def is_storage_lost(error: BaseException | None) -> bool:
  """Returns whether an error comes from storage that is gone for now."""
  return any(number in _STORAGE_LOST for number in _numbers(error))


def is_inconclusive(error: BaseException) -> bool:
  """Returns whether nobody could look, so that a file may well be sound."""
  numbers = (*_STORAGE_LOST, *_NOT_ALLOWED)
  return any(number in numbers for number in _numbers(error))


def _numbers(error: BaseException | None) -> Iterator[int]:
  """Yields the system's error numbers of an error and of its causes.

  Python has the number as an attribute, TensorStore in its text.
  """
  while error:
    if isinstance(error, OSError) and error.errno is not None:
      yield error.errno
    ours = isinstance(error, UserError | RunError)  # They quote users' files.
    match = re.search(r"\[os_error_code='(\d+)'\]", str(error))
    if match and not ours:
      yield int(match[1])
    error = error.__cause__


def remedy(error: BaseException) -> str:
  """Returns what to do where the system refused, such as "make room", or ""."""
  for number in _numbers(error):
    for numbers, advice in _REMEDIES.items():
      if number in numbers:
        return advice
  return ""


def run_again(error: BaseException) -> str:
  """Returns what to do before a command is run again, and that it is to be."""
  advice = remedy(error)
  return f"{advice}{' and ' if advice else ''}run the same command again"


def explain_unwritable(error: OSError) -> str:
  """Explains why a folder cannot be written to, and says what to do."""
  reason, advice = error.strerror or str(error), remedy(error)
  expected = "expected a folder with write permission and free space"
  return f"{reason}; {expected}{': ' if advice else ''}{advice}"


def explain_refusal(error: OSError) -> str:
  """Explains why the system refused and what to do: halves of a sentence."""
  reason, advice = error.strerror or str(error), remedy(error)
  return f"{reason}; {advice}" if advice else reason


def exit_status(error: BaseException) -> tuple[int, str] | None:
  """Returns how a command ends after an error.

  Storage that is gone may come back: whatever was made of such an error on its
  way up, the exit code says that the command may be started again.

  Args:
    error: what the command raised.

  Returns:
    The exit code and a message for the user; None: the error is a bug.
  """
  # So a compiled module ends that is stopped while it is imported.
  if isinstance(error, ImportError) and isinstance(error.__cause__, _STOPPED):
    error = error.__cause__
  if isinstance(error, Stopped):
    reason = "stopped by a signal; what is finished is kept, run it again."
    return EXIT_PREEMPTED, reason
  if isinstance(error, KeyboardInterrupt):
    reason = "interrupted; run the same command again to continue."
    return EXIT_INTERRUPTED, reason
  lost = is_storage_lost(error)
  if isinstance(error, UserError | RunError):
    code = EXIT_BAD_INPUT if isinstance(error, UserError) else EXIT_RUN_FAILED
    again = lost or isinstance(error, RestartableError)
    return EXIT_PREEMPTED if again else code, str(error)
  if lost:
    return EXIT_PREEMPTED, f"lost storage: {error}; start it again."
  if not isinstance(error, OSError):
    return None
  action = f"{explain_refusal(error)} and run it again."
  if error.errno in _DISK_FULL:
    return EXIT_RUN_FAILED, f"cannot write: {action}"
  if error.errno in _OF_THE_SYSTEM:
    where = f" {error.filename}" if error.filename else ""
    return EXIT_RUN_FAILED, f"the system refuses{where}: {action}"
  return None


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's text, or its type, as a sentence."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip(".") + "."


def kind_and_reason(error: BaseException) -> str:
  """Returns the type of an error, and the first line of its text if it has one.

  Args:
    error: what a user's own code raised, such as a recipe.

  Returns:
    Such as "KeyError: 'lang'", without a full stop.
  """
  kind, line = type(error).__name__, first_line(error).rstrip(".")
  return f"{kind}: {line}" if str(error).strip() else kind


def without_secrets(text: object) -> str:
  """Cuts tokens and passwords out of a message, so that it may be shown."""
  shown = re.sub(r"\bhf_[A-Za-z0-9]{8,}", "hf_...", str(text))
  shown = re.sub(r"\b(wandb_v\d+_)\w{8,}", r"\1...", shown)
  shown = re.sub(r"(WANDB_API_KEY\W{1,4})\w{8,}", r"\1...", shown)
  return re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:...@", shown)
