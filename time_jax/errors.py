"""The errors that a user is meant to read, and the exit codes of a run."""

import re

EXIT_BAD_INPUT = 2
EXIT_RUN_FAILED = 3
# Between 42 and 255 launchers such as XPK start a job again by default.
EXIT_PREEMPTED = 42


class UserError(ValueError):
  """Bad input, shown as one line: what is wrong, the value, what to do."""


class RunError(RuntimeError):
  """A run that cannot go on although its input was accepted."""


class RestartableError(RunError):
  """A run that cannot go on here and now, but may when it is started again."""


def without_secrets(text: object) -> str:
  """A message that may be shown: tokens and passwords in addresses cut out."""
  hidden = re.sub(r"\bhf_[A-Za-z0-9]{8,}", "hf_...", str(text))
  return re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:...@", hidden)
