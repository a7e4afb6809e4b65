"""The errors that a user is meant to read, and the exit codes of a run."""

import errno
import re

EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_RUN_FAILED = 3
# Between 42 and 255 launchers such as XPK start a job again by default.
EXIT_PREEMPTED = 42
# What a shell says of a program that SIGPIPE ended: nobody reads its output.
EXIT_PIPE = 141
# What reading JSON of another form than expected, or none at all, ends with.
DAMAGED_JSON = (
  *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
  RecursionError,  # brackets nested without end
)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What a disk or a network says that may be back after a while.
_LOST = (
  *(errno.EIO, errno.EREMOTEIO, errno.ESTALE),
  *(errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN),
)


class UserError(ValueError):
  """Bad input, shown as one line: what is wrong, the value, what to do."""


class RunError(RuntimeError):
  """A run that cannot go on although its input was accepted."""


class RestartableError(RunError):
  """A run that cannot go on here and now, but may when it is started again."""


def is_lost(error: BaseException | None) -> bool:
  """Whether an error comes from storage that is gone, and may come back.

  Python tells it by a number, TensorStore in its text.
  """
  while error:
    number = error.errno if isinstance(error, OSError) else None
    if not isinstance(error, UserError | RunError):  # They quote users' files.
      found = re.search(r"\[os_error_code='(\d+)'\]", str(error))
      number = int(found[1]) if found else number
    if number in _LOST:
      return True
    error = error.__cause__
  return False


def verdict(error: BaseException) -> tuple[int, str] | None:
  """Exit code and message that a command ends with; None: a bug.

  Whatever was made of it on its way up, an error of storage that is gone says
  that the command may be started again.
  """
  lost = is_lost(error)
  if isinstance(error, UserError | RunError):
    code = EXIT_BAD_INPUT if isinstance(error, UserError) else EXIT_RUN_FAILED
    again = lost or isinstance(error, RestartableError)
    return EXIT_PREEMPTED if again else code, str(error)
  if lost:
    return EXIT_PREEMPTED, f"lost storage: {error}; start it again."
  if isinstance(error, OSError) and error.errno in _DISK_FULL:
    reason = f"cannot write: {error.strerror}; make room and run it again."
    return EXIT_RUN_FAILED, reason
  return None


def without_secrets(text: object) -> str:
  """A message that may be shown: tokens and passwords in addresses cut out."""
  hidden = re.sub(r"\bhf_[A-Za-z0-9]{8,}", "hf_...", str(text))
  hidden = re.sub(r"\b(wandb_v\d+_)\w{8,}", r"\1...", hidden)
  hidden = re.sub(r"(WANDB_API_KEY\W{1,4})\w{8,}", r"\1...", hidden)
  return re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:...@", hidden)
