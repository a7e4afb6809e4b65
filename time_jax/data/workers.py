"""Blocks of text to shards, in several processes or in this one."""

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent import futures

from time_jax.data.shards import Block, ShardWriter, Written

Submit = Callable[[Block], "futures.Future[Written]"]
"""Starts the work on a block."""

_writer: ShardWriter | None = None  # One to a worker process.


@contextlib.contextmanager
def submitter(
  writer: ShardWriter, num_workers: int | None
) -> Generator[tuple[Submit, int], None, None]:
  """Starts worker processes, and ends them with the context.

  Args:
    writer: what each of them works with.
    num_workers: how many; all cores by default; 1 is this process alone.

  Yields:
    A function that starts the work on a block, and how many blocks may be
    under way.
  """
  num_workers = num_workers or len(os.sched_getaffinity(0))
  if num_workers == 1:
    yield functools.partial(_write_here, writer), 1
    return
  # Forking a process that has threads, as jax and tokenizers do, hangs.
  context = multiprocessing.get_context("spawn")
  # As an argument a large tokenizer would fill the pipe to a process that is
  # still starting: each would be waited for before the next is started.
  inbox = context.Queue()
  with futures.ProcessPoolExecutor(
    num_workers, context, initializer=_start_worker, initargs=(inbox,)
  ) as pool:
    for _ in range(num_workers):
      inbox.put(writer)
      pool.submit(os.getpid)  # A process starts when there is work for it.
    # A few more than run at a time, so that none waits for the next text.
    yield functools.partial(pool.submit, _write_in_worker), num_workers + 2


def in_order(
  submit: Submit, in_flight: int, blocks: Iterator[Block]
) -> Generator[tuple[Block, Written], None, None]:
  """Yields each block and the counts of its shard, in the order of the blocks.

  Args:
    submit: starts the work on a block.
    in_flight: how many blocks may be under way.
    blocks: read only as far as they are worked on.
  """
  pending: deque[tuple[Block, futures.Future[Written]]] = deque()
  try:
    for block in blocks:
      pending.append((block, submit(block)))
      if len(pending) >= in_flight:
        block, future = pending.popleft()
        yield block, future.result()
    for block, future in pending:
      yield block, future.result()
  finally:
    # Shards that are being written are finished: a repeated run skips them.
    futures.wait([future for _, future in pending if not future.cancel()])


def _write_here(writer: ShardWriter, block: Block) -> "futures.Future[Written]":
  future: futures.Future[Written] = futures.Future()
  future.set_result(writer.write(block))
  return future


def _write_in_worker(block: Block) -> Written:
  assert _writer is not None
  return _writer.write(block)


def _start_worker(inbox: "multiprocessing.queues.Queue[ShardWriter]") -> None:
  global _writer
  _writer = inbox.get()
  os.environ["TOKENIZERS_PARALLELISM"] = "false"
  for number in (signal.SIGINT, signal.SIGTERM):  # The parent ends the pool.
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  # Otherwise the workers of a killed run would wait for work for ever.
  parent = multiprocessing.parent_process()
  assert parent is not None
  multiprocessing.connection.wait([parent.sentinel])
  os._exit(1)
