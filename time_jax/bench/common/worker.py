"""Objects in processes of their own, which work one at a time, when told to."""

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from time_jax.core.errors import RunError


class Worker:
  """An object in another process: it has all cores while it works.

  Two frameworks in one process would share its threads' and allocators'
  settings, and one that runs out of memory would end both.
  """

  def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
    """Starts the process and waits until the object is there.

    Args:
      make: of a module's top level; called in the new process.
      *arguments: its own; they are pickled.

    Raises:
      RunError: making it failed.
    """
    context = multiprocessing.get_context("spawn")
    self._pipe, other = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(other, make, arguments), daemon=True
    )
    self._process.start()
    other.close()
    self._answer()

  def call(self, method: str, *arguments: Any) -> Any:
    """Calls a method over there and waits for what it returns.

    Raises:
      RunError: it raised, or its process ended.
    """
    self._pipe.send((method, arguments))
    return self._answer()

  def _answer(self) -> Any:
    try:
      problem, value = self._pipe.recv()
    except EOFError as error:
      self._process.join()
      raise RunError(
        f"a measuring process ended with code {self._process.exitcode}; -9 "
        "mostly means that memory ran out: take a smaller batch."
      ) from error
    if problem:
      raise RunError(problem)
    return value

  def close(self) -> None:
    """Ends the process."""
    self._pipe.close()
    self._process.join()


def _serve(
  pipe: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
  call, parts = make, arguments
  made = None
  while True:
    try:
      value = call(*parts)
      if made is None:
        made, value = value, None
      pipe.send((None, value))
    except Exception as error:
      reason = traceback.format_exception_only(error)[0]
      pipe.send((" ".join(reason.split()), None))
      if made is None:
        return
    try:
      method, parts = pipe.recv()
    except EOFError:  # The other side is done.
      return
    call = getattr(made, method)
