"""Objects that live in child processes and are called from this one."""

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable, Collection, Mapping
from multiprocessing.connection import Connection
from typing import Any

from time_jax.core.errors import RunError, UserError


class ChildProcess:
  """An object in another process, which has all cores while it works.

  Two frameworks in one process would share its threads' and allocators'
  settings, and one that runs out of memory would end both. And how many CPU
  devices JAX has is fixed for the life of a process.
  """

  def __init__(
    self,
    make: Callable[..., Any],
    *arguments: Any,
    environment: Mapping[str, str] | None = None,
    cores: Collection[int] | None = None,
    daemon: bool = True,
  ) -> None:
    """Starts the process and waits until the object exists.

    Args:
      make: function or class at the top level of a module; it is called in the
        new process and returns the object.
      *arguments: arguments of `make`; they are pickled.
      environment: variables that the process gets beside those of this one.
      cores: numbers of the processor's cores that it may use, where the system
        can say so (Linux); None: those of this process.
      daemon: whether it is ended with this one, and may have none of its own.

    Raises:
      RunError: `make` raised an error.
    """
    context = multiprocessing.get_context("spawn")
    self._pipe, other = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(other, environment or {}, cores), daemon=daemon
    )
    self._process.start()
    other.close()
    # Not as arguments of `_serve`: to read them, the child imports their
    # modules, and with these JAX, which must find its variables set.
    self._pipe.send((make, arguments))
    self.receive()

  def __enter__(self) -> "ChildProcess":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def call(self, method: str, *arguments: Any) -> Any:
    """Calls a method of the object and waits for what it returns.

    Raises:
      UserError: the method raised it.
      RunError: the method raised another error, or the process ended.
    """
    self.send(method, *arguments)
    return self.receive()

  def send(self, method: str, *arguments: Any) -> None:
    """Calls a method of the object; `receive` returns what it returns."""
    self._pipe.send((method, arguments))

  def receive(self) -> Any:
    """Waits for what the method returns that was sent last; see `call`."""
    try:
      error, value = self._pipe.recv()
    except EOFError as eof:
      self._process.join()
      raise RunError(
        f"a measuring process ended with code {self._process.exitcode}; -9 "
        "mostly means that memory ran out: take a smaller batch."
      ) from eof
    if error:
      raise error
    return value

  def close(self) -> None:
    """Ends the process."""
    self._pipe.close()
    self._process.join()


def _serve(
  pipe: Connection,
  environment: Mapping[str, str],
  cores: Collection[int] | None,
) -> None:
  os.environ.update(environment)
  if cores is not None:
    # Before any library makes threads, each for the cores that it sees.
    os.sched_setaffinity(0, cores)
  with contextlib.suppress(EOFError, KeyboardInterrupt):  # The parent is done.
    try:
      make, arguments = pipe.recv()
      instance = make(*arguments)
    except Exception as error:
      pipe.send((_portable(error), None))
      return
    pipe.send((None, None))
    while True:
      method, arguments = pipe.recv()
      try:
        pipe.send((None, getattr(instance, method)(*arguments)))
      except Exception as error:
        pipe.send((_portable(error), None))


def _portable(error: Exception) -> Exception:
  """Returns an error that the parent can unpickle, in one line."""
  if isinstance(error, UserError | RunError):
    return error
  reason = traceback.format_exception_only(error)[0]
  return RunError(" ".join(reason.split()))
