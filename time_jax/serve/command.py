"""`time-jax-serve FOLDER`: answers requests until it is told to stop."""

import argparse
import importlib
import json
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import time_jax
from time_jax.core.errors import (
  EXIT_BAD_INPUT,
  EXIT_INTERRUPTED,
  UserError,
  explain_refusal,
)
from time_jax.serve import folder as folders
from time_jax.serve import model as models
from time_jax.serve.folder import Folder

_NAME = "time-jax-serve"
_SPARE = 2  # seconds to write answers in, when told to stop
_CONNECTIONS = 16  # for each request that may be answered at once
_BACKLOG = 128


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
  add(
    "--max_inputs",
    type=_number(int, 1),
    default=1024,
    help="inputs of a request (%(default)s)",
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
      f"{error.name} is not installed, and a server needs it: pip install "
      "./launch/serve in the repository, or beside time-jax -e '.[serve]'."
    ) from None
  with _bound(options.host, options.port) as listening:
    opened = folders.read(options.folder, options.int8)
    model = models.open_model(opened)
    about = {
      "task": opened.task,
      "model": opened.path.resolve().name,
      "int8": opened.int8,
      "version": time_jax.__version__,
      "example": model.example,
    }
    limits = app.Limits(
      options.max_bytes, options.timeout, options.waiting, options.max_inputs
    )
    server = uvicorn.Server(
      uvicorn.Config(
        app.Service(model, about, limits).app(),
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS * options.waiting,
        timeout_graceful_shutdown=int(2 * options.timeout) + _SPARE,
      )
    )
    # uvicorn raises them again once it has ended everything: not to be killed.
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    _listen(listening)
    _tell(opened, model.example, listening)
    server.run(sockets=[listening])
  print("Stopped.", flush=True)


def _tell(opened: Folder, example: Any, listening: socket.socket) -> None:
  """Prints what is served where, and a command to try it."""
  host, port = listening.getsockname()[:2]
  place = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
  body = json.dumps({"inputs": [example]})
  print(
    f"{opened.task} of {opened.path} on {place}; try:\n"
    f"  curl {place}/predict -H 'Content-Type: application/json' -d '{body}'",
    flush=True,
  )


def _bound(host: str, port: int) -> socket.socket:
  """Returns a socket at an address, which nobody can reach yet.

  Raises:
    UserError: the address is not one of this machine, or the port is taken.
  """
  try:
    family, kind, *_, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind)
    # A port is free as soon as the server before has ended.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
    return bound
  except (OSError, UnicodeError) as error:
    raise _not_free(f"--host={host} --port={port}", error) from None


def _listen(bound: socket.socket) -> None:
  """Lets clients connect; raises UserError if another process listens there."""
  try:
    bound.listen(_BACKLOG)
  except OSError as error:
    raise _not_free(str(bound.getsockname()[:2]), error) from None


def _not_free(place: str, error: Exception) -> UserError:
  reason = explain_refusal(error) if isinstance(error, OSError) else str(error)
  return UserError(
    f"{place}: {reason}; expected an address of this machine and a port that "
    "is free."
  )
