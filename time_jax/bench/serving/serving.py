"""`bench serving`: a server under load, in a process of its own.

Clients keep their connections, and each sends its next request as soon as the
last one is answered. They share the machine with the server, so that what they
take, a small part, is in the figures.
"""

import dataclasses
import http.client
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from time_jax.bench.common import flags, report
from time_jax.core.display import markdown_table
from time_jax.core.errors import RunError, UserError
from time_jax.core.storage.paths import local_path

_RUN = "from time_jax.serve.command import run; run()"
_HEAD = {"Content-Type": "application/json"}
_PARTS = 10  # of a run, after each of which memory is looked at
_MB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Load:
  """What was measured.

  Attributes:
    ready: seconds from the start of the process to its first answer.
    seconds: seconds of each request.
    wall: seconds of all of them.
    cpu: seconds of processors that the server took for them.
    memory: bytes of main memory that the server had at first, and after each
      tenth of the requests.
  """

  ready: float
  seconds: Sequence[float]
  wall: float
  cpu: float
  memory: Sequence[int]


def bench_serving(given: flags.Serving) -> int:
  """Starts a server, sends requests, and prints a table.

  Args:
    given: the command's flags.

  Returns:
    The exit code, 0.

  Raises:
    UserError: there are no inputs, or the server does not start.
    RunError: a request was refused.
  """
  report.check_writable(given.json)
  bodies = _bodies(given.inputs, given.together)
  options = ["--int8"] if given.int8 else []
  start = time.perf_counter()
  with _server(given.folder, options) as (process, port):
    _ask(_connect(port), bodies[0])
    ready = time.perf_counter() - start
    measured = _measure(given, bodies, process.pid, port, ready)
  print(table(given, measured))
  content = {
    "folder": given.folder,
    "int8": given.int8,
    "clients": given.clients,
    "together": given.together,
    "ready": measured.ready,
    "wall": measured.wall,
    "cpu": measured.cpu,
    "memory": list(measured.memory),
    "request": report.spread(measured.seconds),
  }
  report.write(given.json, "time_jax.bench.serving/1", content)
  return 0


def table(given: flags.Serving, load: Load) -> str:
  """Returns a table in Markdown.

  Args:
    given: the command's flags.
    load: what was measured.
  """
  count, spread = len(load.seconds), report.spread(load.seconds)
  rows = [
    ["requests", f"{count:,}, {given.together} inputs each"],
    ["clients", f"{given.clients}"],
    ["seconds to the first answer", f"{load.ready:.1f}"],
    ["requests/s", f"{count / load.wall:.1f}"],
    ["inputs/s", f"{count * given.together / load.wall:.1f}"],
    ["p50 ms", f"{spread['p50'] * 1e3:.1f}"],
    ["p99 ms", f"{spread['p99'] * 1e3:.1f}"],
    ["slowest ms", f"{spread['max'] * 1e3:.1f}"],
    ["cores that the server used", f"{load.cpu / load.wall:.2f}"],
    ["MB at first", f"{load.memory[0] / _MB:.0f}"],
    ["MB after a tenth", f"{load.memory[1] / _MB:.0f}"],
    ["MB at the end", f"{load.memory[-1] / _MB:.0f}"],
  ]
  heads = [given.folder, "int8" if given.int8 else "float32"]
  return markdown_table([heads, *rows])


def _bodies(path: pathlib.Path, together: int) -> list[bytes]:
  """Returns the bodies of requests, from a file with an input a line."""
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
  except (OSError, ValueError) as error:
    raise UserError(f"--inputs={path} cannot be read: {error}.") from error
  items: list[Any] = [line for line in lines if line.strip()]
  if not items:
    raise UserError(f"--inputs={path} is empty; expected an input a line.")
  if items[0].startswith("{"):
    try:
      items = [json.loads(item) for item in items]
    except (ValueError, RecursionError) as error:
      raise UserError(
        f"--inputs={path}: a line is not JSON: {error}; expected an object a "
        "line, as the first one begins."
      ) from error
  endless = itertools.cycle(items)
  return [
    json.dumps({"inputs": [*itertools.islice(endless, together)]}).encode()
    for _ in items
  ]


@contextmanager
def _server(
  folder: str, options: Sequence[str]
) -> Iterator[tuple[subprocess.Popen[str], int]]:
  """Yields the process of a server, and its port."""
  where = str(local_path(folder))
  words = [sys.executable, "-c", _RUN, where, "--port=0", *options]
  with subprocess.Popen(
    words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  ) as process:
    try:
      assert process.stdout and process.stderr, words
      found = re.search(r"http://[\d.]+:(\d+)", process.stdout.readline())
      if not found:
        raise UserError(process.stderr.read().strip())
      # Whatever it notes must not fill the pipe.
      threading.Thread(target=process.stderr.read, daemon=True).start()
      yield process, int(found[1])
    finally:
      process.terminate()


def _measure(
  given: flags.Serving,
  bodies: Sequence[bytes],
  process: int,
  port: int,
  ready: float,
) -> Load:
  """Sends the requests in parts, and looks at the server after each."""
  memory, seconds = [_memory(process)], []
  numbers = itertools.cycle(range(len(bodies)))
  cpu, start = _cpu(process), time.perf_counter()
  for _ in range(_PARTS):
    count = -(-given.requests // _PARTS)
    todo = iter([bodies[next(numbers)] for _ in range(count)])
    seconds += _send(todo, port, given.clients)
    memory.append(_memory(process))
  wall = time.perf_counter() - start
  return Load(ready, seconds, wall, _cpu(process) - cpu, memory)


def _send(todo: Iterator[bytes], port: int, clients: int) -> list[float]:
  """Returns the seconds of each request, from clients that share them."""
  seconds: list[float] = []
  problems: list[Exception] = []
  lock = threading.Lock()

  def client() -> None:
    connection = _connect(port)
    try:
      while not problems:
        with lock:
          body = next(todo, None)
        if body is None:
          return
        start = time.perf_counter()
        _ask(connection, body)
        seconds.append(time.perf_counter() - start)
    except Exception as error:  # Told in the thread that waits.
      problems.append(error)

  threads = [threading.Thread(target=client) for _ in range(clients)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  if problems:
    raise RunError(f"a request failed: {problems[0]}") from problems[0]
  return seconds


def _connect(port: int) -> http.client.HTTPConnection:
  return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def _ask(connection: http.client.HTTPConnection, body: bytes) -> None:
  connection.request("POST", "/predict", body, _HEAD)
  response = connection.getresponse()
  content = response.read()
  if response.status != http.client.OK:
    raise RunError(f"{response.status}: {content.decode()[:200]}")


def _memory(process: int) -> int:
  """Returns the bytes of main memory that a process has now (Linux)."""
  text = pathlib.Path(f"/proc/{process}/status").read_text()
  found = re.search(r"VmRSS:\s+(\d+) kB", text)
  return int(found[1]) * 1024 if found else 0


def _cpu(process: int) -> float:
  """Returns the seconds of processors that a process has taken (Linux)."""
  fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
  user, system = map(int, fields.split()[11:13])
  return (user + system) / os.sysconf("SC_CLK_TCK")
