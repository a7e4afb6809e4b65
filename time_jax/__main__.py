"""`python -m time_jax COMMAND`, the same as `time-jax COMMAND`."""

import sys

from time_jax import cli


def main() -> None:
  """Runs the command that was typed and exits with its code."""
  sys.exit(cli.main(sys.argv[1:]))


if __name__ == "__main__":
  main()
