"""Computes results in a thread before they are asked for."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_POLL = 0.1  # seconds until a thread sees that it is to end


def run_ahead(
  results: Iterator[T],
  depth: int,
  *,
  closed: threading.Event | None = None,
  stop: threading.Event | None = None,
  patience: float | None = None,
) -> Generator[T, None, None]:
  """Yields what an iterator yields, which a thread asks for ahead.

  Args:
    results: the iterator; it is used by the thread alone.
    depth: how many results wait, one or more; one more is being computed.
    closed: is set as this generator ends, so that the iterator can see that its
      next result is not needed.
    stop: where it is set, this generator ends, whatever is still to come.
    patience: seconds to wait then for the thread; None: until it has ended. A
      thread in compiled code must not be left to the end of the process, which
      it would abort. One that waits for input may be left.

  Yields:
    The results in order. An exception of the iterator is raised here, after
    the results before it.
  """
  closed, stop = closed or threading.Event(), stop or threading.Event()
  waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)

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
    finally:
      # Its own threads end before this one does, not when it is forgotten.
      if isinstance(results, Generator):
        results.close()

  thread = threading.Thread(target=run, name="ahead", daemon=True)
  thread.start()
  try:
    while not stop.is_set():
      try:
        result, error = waiting.get(timeout=_POLL)
      except queue.Empty:
        continue
      if isinstance(error, StopIteration):
        return
      if error is not None:
        raise error
      yield result
  finally:
    closed.set()
    thread.join(patience)
