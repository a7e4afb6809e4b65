"""`python -m time_jax COMMAND`, the same as `time-jax COMMAND`."""

import sys
import traceback

from time_jax import cli
from time_jax.errors import EXIT_BUG, without_secrets


def main() -> None:
  """Runs the command that was typed and exits with its code."""
  try:
    code = cli.main(sys.argv[1:])
  except Exception:
    print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)
    code = EXIT_BUG
  sys.exit(code)


if __name__ == "__main__":
  main()
