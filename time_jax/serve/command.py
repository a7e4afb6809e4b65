"""`time-jax-serve FOLDER`: answers requests until it is told to stop."""

import argparse
import importlib
import json
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from time_jax.core.errors import (
  EXIT_BAD_INPUT,
  EXIT_INTERRUPTED,
  UserError,
  explain_refusal,
)
from time_jax.serve import folder as folders
from time_jax.serve import model as models

_NAME = "time-jax-serve"
_SPARE = 2  # seconds to write answers in, when told to stop


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command that was typed, and returns the exit code.

  Args:
    arguments: what was typed after the name; None: what the process was
      started with.
  """
  parsed = make_parser().parse_args(arguments)
  try:
    serve(parsed)
  except UserError as error:
    print(f"{_NAME}: {error}", file=sys.stderr)
    return EXIT_BAD_INPUT
  except KeyboardInterrupt:
    print(f"{_NAME}: stopped before the model was there.", file=sys.stderr)
    return EXIT_INTERRUPTED
  return 0


def run() -> None:
  """Runs the command and ends the process, as the script of that name does."""
  sys.exit(main())


def make_parser() -> argparse.ArgumentParser:
  """Returns what reads the command line."""
  parser = argparse.ArgumentParser(
    _NAME,
    description="Answers requests with an export that has ONNX files, on the "
    "CPU, without JAX: POST /predict with "
    '{"inputs": [...]}, GET /health, GET /metrics.',
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("folder", help="what `time-jax export --onnx` wrote")
  add(
    "--host",
    default="127.0.0.1",
    help="address to listen at (%(default)s); 0.0.0.0 is every address of the "
    "machine, as a container needs it",
  )
  add(
    "--port",
    type=_number(int, 0, 65535),
    default=8000,
    help="0: a free one (%(default)s)",
  )
  add("--int8", action="store_true", help="compute with matrices in 8 bits")
  add(
    "--max_bytes",
    type=_number(int, 1),
    default=1_000_000,
    help="bytes of a request's body (%(default)s)",
  )
  add(
    "--timeout",
    type=_number(float, 1e-3),
    default=30.0,
    help="seconds for a body to come, and again for the answer (%(default)s)",
  )
  add(
    "--waiting",
    type=_number(int, 1),
    default=64,
    help="requests at once; more are refused with 503 (%(default)s)",
  )
  return parser


def _number(kind: type, least: float, most: float = 1e9) -> Any:
  """Returns a function that reads a number in a range, for argparse."""

  def read(text: str) -> Any:
    value = kind(text)
    if not least <= value <= most:
      raise ValueError
    return value

  # What argparse calls it in its message.
  read.__name__ = f"number from {least:g} to {most:g}"
  return read


def serve(options: argparse.Namespace) -> None:
  """Serves a model until SIGTERM or Ctrl-C; then ends what it has begun.

  Args:
    options: what `main` takes.

  Raises:
    UserError: there is no such model, a package is missing, or the port is
      taken.
  """
  try:
    uvicorn = importlib.import_module("uvicorn")
    app = importlib.import_module("time_jax.serve.app")
  except ModuleNotFoundError as error:
    raise UserError(
      f"{error.name} is not installed, and a server needs it: pip install -e "
      "'.[serve]' in the repository."
    ) from None
  listening = _listen(options.host, options.port)
  model = models.load(options.folder, int8=options.int8)
  opened = folders.read(options.folder, options.int8)
  about = {"task": opened.task, "int8": opened.int8, "example": model.example}
  limits = app.Limits(options.max_bytes, options.timeout, options.waiting)
  server = uvicorn.Server(
    uvicorn.Config(
      app.Service(model, about, limits).app(),
      log_level="warning",
      access_log=False,
      server_header=False,
      timeout_graceful_shutdown=int(options.timeout) + _SPARE,
    )
  )
  # uvicorn raises them again once it has ended everything: not to be killed.
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: None)
  host, port = listening.getsockname()[:2]
  host = f"[{host}]" if ":" in host else host
  example = json.dumps({"inputs": [model.example]})
  print(
    f"{opened.task} of {opened.path} on http://{host}:{port}; try:\n"
    f"  curl http://{host}:{port}/predict -H 'Content-Type: application/json' "
    f"-d '{example}'",
    flush=True,
  )
  server.run(sockets=[listening])
  print("Stopped; every request that had come was answered.", flush=True)


def _listen(host: str, port: int) -> socket.socket:
  """Returns a socket that listens at an address.

  Raises:
    UserError: the address is not one of this machine, or the port is taken.
  """
  try:
    family, *_, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address[:2], family=family, backlog=128)
  except (OSError, OverflowError) as error:
    reason = explain_refusal(error) if isinstance(error, OSError) else error
    raise UserError(
      f"--host={host} --port={port}: {reason}; expected an address of this "
      "machine and a port that is free."
    ) from None
