"""`predict`: text in, annotated text out."""

import contextlib
import pathlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

import jax

from time_jax.config.finetune import EngineName
from time_jax.core.errors import UserError
from time_jax.data.ahead import run_ahead
from time_jax.evals.predict import raw, streams
from time_jax.evals.predict.formats import SPLIT, Read
from time_jax.evals.predict.pipeline import Pipeline, open_pipeline

_TOGETHER = 1024  # items at once, which share rows
_PATIENCE = 1.0  # seconds for a reader that may be waiting for input
_AHEAD = 2  # such groups of items that wait to be computed, or to be written
_COMPILE = "/jax/core/compile/"  # events of tracing, lowering, compiling


def predict(
  folder: pathlib.Path,
  source: BinaryIO,
  out: TextIO,
  engine: EngineName = "auto",
  int8: bool = False,
  split: pathlib.Path | None = None,
) -> int:
  """Annotates the sentences, or answers the questions, of a stream.

  Args:
    folder: folder of a fine-tuned model.
    source: one sentence a line with spaces between its words; or CoNLL-U for
      a model of `ud`; for one of `ner` what it is trained on, or a token a
      line, see `layouts`. For `qa`, see `squad`.
    out: gets CoNLL-U, IOB2, or JSON lines of answers, as soon as a block of
      lines is read, such as one that is typed.
    engine: see `open_pipeline`.
    int8: see `open_pipeline`.
    split: folder of a model of `split`; then the source is raw text.

  Returns:
    The exit code, 0.

  Raises:
    UserError: there is no such model, the engine cannot compute it, or the
      input is none of these.
  """
  pipeline = open_pipeline(folder, engine, int8)
  form = pipeline.format
  read = form.read
  if split or not read:
    splitter = open_pipeline(split, engine, int8) if split else pipeline
    read = raw.reader(pipeline.task, splitter)
  seconds, count, words, end = 0.0, 0, 0, 0.0
  # A thread reads and another one computes while this one writes.
  closed = threading.Event()
  results = _read(source, read, form.expects)
  if pipeline.task != SPLIT:
    results = _compute(results, pipeline, closed)
  computed = run_ahead(results, _AHEAD, closed=closed)
  with _compilation_times() as compilations, contextlib.closing(computed):
    for arrived, items in computed:
      out.write(form.to_text(items))
      out.flush()
      # Without the time that the input took to come.
      start, end = max(arrived, end), time.perf_counter()
      seconds += end - start
      count += len(items)
      words += sum(len(getattr(item, "words", ())) for item in items)
  compiling = sum(end - start for start, end in compilations)
  print(
    f"{count} {form.items}{f', {words} words' if words else ''} in "
    f"{seconds:.1f} s: {count / seconds:.1f} {form.items}/s; "
    f"{count / (seconds - compiling):.1f} without the {compiling:.1f} s of "
    f"compilation; computed by {pipeline.computed_by}.",
    file=sys.stderr,
  )
  return 0


def _compute(
  arriving: Iterator[tuple[float, list[Any]]],
  pipeline: Pipeline,
  closed: threading.Event,
) -> Iterator[tuple[float, list[Any]]]:
  """Yields items with what is predicted for them, and when they arrived.

  Args:
    arriving: items, and when they arrived.
    pipeline: what computes.
    closed: whether nobody wants the next items.
  """
  prepared = ((arrived, pipeline.prepare(items)) for arrived, items in arriving)

  def check() -> None:
    if closed.is_set():
      raise InterruptedError

  ahead = run_ahead(prepared, _AHEAD, stop=closed, patience=_PATIENCE)
  with contextlib.closing(ahead) as works:
    for arrived, work in works:
      yield arrived, pipeline.finish(work, check)


def _read(
  source: BinaryIO, read: Read, expects: str
) -> Iterator[tuple[float, list[Any]]]:
  """Yields items as they arrive, and when their last byte did.

  Args:
    source: the input.
    read: see `Format.read`.
    expects: the input that is expected, for messages.

  Raises:
    UserError: there are none.
  """
  arrived = 0.0

  def blocks() -> Iterator[bytes]:
    nonlocal arrived
    for block in streams.blocks(source):
      arrived = time.perf_counter()
      yield block

  empty = True
  for items in read(blocks()):
    empty = False
    for start in range(0, len(items), _TOGETHER):
      yield arrived, items[start : start + _TOGETHER]
  if empty:
    raise UserError(f"the input is empty; expected {expects}.")


@contextlib.contextmanager
def _compilation_times() -> Iterator[list[tuple[float, float]]]:
  """Gathers when programs are compiled, as (start, end)."""
  times: list[tuple[float, float]] = []

  def listen(event: str, duration_secs: float, **_: Any) -> None:
    if event.startswith(_COMPILE):
      end = time.perf_counter()
      while times and times[-1][0] >= end - duration_secs:
        times.pop()  # It was a part of this one.
      times.append((end - duration_secs, end))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield times
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
