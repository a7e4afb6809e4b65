"""The errors that a user is meant to read, and the exit codes of a run."""

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
