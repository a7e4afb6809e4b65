"""Computes results in a thread before they are asked for."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_POLL = 0.1  # seconds until the thread sees that nobody reads any more


def run_ahead(results: Iterator[T], depth: int) -> Generator[T, None, None]:
  """Yields what an iterator yields, which a thread asks for ahead.

  The thread ends with the process, even while it waits for input: a pool's
  thread would be waited for.

  Args:
    results: the iterator; it is used by the thread alone.
    depth: how many results wait, one or more; one more is being computed.

  Yields:
    The results in order. An exception of the iterator is raised here, after
    the results before it. Where this generator is closed, the thread ends as
    soon as it has its next result.
  """
  waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
  closed = threading.Event()

  def hand_over(result: Any, error: BaseException | None = None) -> None:
    while not closed.is_set():
      try:
        return waiting.put((result, error), timeout=_POLL)
      except queue.Full:
        pass

  def run() -> None:
    try:
      for result in results:
        hand_over(result)
        if closed.is_set():
          return
    except BaseException as error:
      hand_over(None, error)
    else:
      hand_over(None, StopIteration())

  threading.Thread(target=run, name="ahead", daemon=True).start()
  try:
    while True:
      result, error = waiting.get()
      if isinstance(error, StopIteration):
        return
      if error is not None:
        raise error
      yield result
  finally:
    closed.set()
