"""The errors that a user is meant to read, and the exit codes of a run."""

import errno
import re
from collections.abc import Iterator

EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_RUN_FAILED = 3
# Between 42 and 255 launchers such as XPK start a job again by default.
EXIT_PREEMPTED = 42
EXIT_INTERRUPTED = 130  # As shells have it of Ctrl-C.
# What a shell says of a program that SIGPIPE ended: nobody reads its output.
EXIT_PIPE = 141
# What reading JSON of another form than expected, or none at all, ends with.
DAMAGED_JSON = (
  *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
  RecursionError,  # brackets nested without end
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What a disk or a network says that may be back after a while.
_LOST = (
  *(errno.EIO, errno.EREMOTEIO, errno.ESTALE),
  *(errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN),
)

# What to do about what a disk says. Of others its own words have to do.
_REMEDIES = {
  **dict.fromkeys(_FULL, "make room"),
  **dict.fromkeys(_LOST, "see to the disk, or the server that it is on"),
  errno.EACCES: "get permission there",
  errno.EPERM: "lift what forbids it, such as the flag of `chattr +i`",
  errno.EROFS: "mount it writable, or use another disk",
  errno.ENAMETOOLONG: "use a shorter path",
  **dict.fromkeys(
    (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
    "move away what stands in its place",
  ),
  errno.ENOENT: "see who removes it",
  **dict.fromkeys(
    (errno.EMFILE, errno.ENFILE), "allow more open files (`ulimit -n`)"
  ),
  errno.EMLINK: "put fewer folders into one",
  errno.ELOOP: "mend its symbolic links",
  **dict.fromkeys((errno.EBUSY, errno.ETXTBSY), "end what uses it"),
  errno.ENOMEM: "free memory",
}
_NOT_ALLOWED = (
  *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
)
# What only the machine and its user can be the cause of, not our own code.
_OF_THE_SYSTEM = (
  *_NOT_ALLOWED,
  *(errno.EROFS, errno.ENAMETOOLONG, errno.EMLINK, errno.ELOOP, errno.EBUSY),
)


class UserError(ValueError):
  """Bad input, shown as one line: what is wrong, the value, what to do."""


class GoneError(UserError):
  """A checkpoint that its run deleted while another command read it."""


class Stopped(BaseException):
  """SIGTERM: no error, so that nothing takes it for one on its way up."""


class RunError(RuntimeError):
  """A run that cannot go on although its input was accepted."""


class RestartableError(RunError):
  """A run that cannot go on here and now, but may when it is started again."""


def is_lost(error: BaseException | None) -> bool:
  """Whether an error comes from storage that is gone, and may come back."""
  return any(number in _LOST for number in _numbers(error))


def is_unseen(error: BaseException) -> bool:
  """Whether nobody could look: an error that says nothing of what is there."""
  return any(number in (*_LOST, *_NOT_ALLOWED) for number in _numbers(error))


def _numbers(error: BaseException | None) -> Iterator[int]:
  """What the system said by number, of an error and of those that it is from.

  Python tells it by a number, TensorStore in its text.
  """
  while error:
    if isinstance(error, OSError) and error.errno is not None:
      yield error.errno
    if not isinstance(error, UserError | RunError):  # They quote users' files.
      found = re.search(r"\[os_error_code='(\d+)'\]", str(error))
      if found:
        yield int(found[1])
    error = error.__cause__


def remedy(error: BaseException) -> str:
  """What to do where the system refused, such as "make room"; may be empty."""
  known = (_REMEDIES[n] for n in _numbers(error) if n in _REMEDIES)
  return next(known, "")


def run_again(error: BaseException) -> str:
  """What to do before a command is run again, and that it is to be."""
  found = remedy(error)
  return f"{found}{' and ' if found else ''}run the same command again"


def unwritable(error: OSError) -> str:
  """Why a folder cannot be written to, what was expected, and what to do."""
  reason = error.strerror or str(error)
  expected = "expected a folder with write permission and free space"
  found = remedy(error)
  return f"{reason}; {expected}{': ' if found else ''}{found}"


def refused(error: OSError) -> str:
  """Why the system refused, and what to do: two halves of a sentence."""
  reason = error.strerror or str(error)
  return f"{reason}; {found}" if (found := remedy(error)) else reason


def verdict(error: BaseException) -> tuple[int, str] | None:
  """Exit code and message that a command ends with; None: a bug.

  Whatever was made of it on its way up, an error of storage that is gone says
  that the command may be started again.
  """
  if isinstance(error, Stopped):
    reason = "stopped by a signal; what is finished is kept, run it again."
    return EXIT_PREEMPTED, reason
  if isinstance(error, KeyboardInterrupt):
    reason = "interrupted; run the same command again to continue."
    return EXIT_INTERRUPTED, reason
  lost = is_lost(error)
  if isinstance(error, UserError | RunError):
    code = EXIT_BAD_INPUT if isinstance(error, UserError) else EXIT_RUN_FAILED
    again = lost or isinstance(error, RestartableError)
    return EXIT_PREEMPTED if again else code, str(error)
  if lost:
    return EXIT_PREEMPTED, f"lost storage: {error}; start it again."
  if isinstance(error, OSError) and error.errno in _FULL:
    return EXIT_RUN_FAILED, f"cannot write: {refused(error)} and run it again."
  if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
    where = f" {error.filename}" if error.filename else ""
    reason = f"the system refuses{where}: {refused(error)} and run it again."
    return EXIT_RUN_FAILED, reason
  return None


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's text, or its type, as a sentence."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip(".") + "."


def without_secrets(text: object) -> str:
  """A message that may be shown: tokens and passwords in addresses cut out."""
  hidden = re.sub(r"\bhf_[A-Za-z0-9]{8,}", "hf_...", str(text))
  hidden = re.sub(r"\b(wandb_v\d+_)\w{8,}", r"\1...", hidden)
  hidden = re.sub(r"(WANDB_API_KEY\W{1,4})\w{8,}", r"\1...", hidden)
  return re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:...@", hidden)
