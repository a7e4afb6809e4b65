"""`predict`: text in, annotated text out."""

import contextlib
import pathlib
import sys
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any, BinaryIO, TextIO

import jax

from time_jax.config.finetune import EngineName
from time_jax.core.errors import UserError
from time_jax.data.ahead import run_ahead
from time_jax.evals.common.engine import Work
from time_jax.evals.common.task import Beat
from time_jax.evals.predict import raw, streams
from time_jax.evals.predict.formats import Read
from time_jax.evals.predict.pipeline import Pipeline, open_pipeline
from time_jax.evals.predict.raw import Arriving

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
  splitter = raw.splitter_of(pipeline, split, engine, int8)
  seconds, count, words, end = 0.0, 0, 0, 0.0
  closed = threading.Event()
  results = _results(source, pipeline, splitter, closed)
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
  if not count:
    expects = (splitter or pipeline).format.expects
    raise UserError(f"the input is empty; expected {expects}.")
  compiling = sum(end - start for start, end in compilations)
  print(
    f"{count} {form.items}{f', {words} words' if words else ''} in "
    f"{seconds:.1f} s: {count / seconds:.1f} {form.items}/s; "
    f"{count / (seconds - compiling):.1f} without the {compiling:.1f} s of "
    f"compilation; computed by {pipeline.computed_by}.",
    file=sys.stderr,
  )
  return 0


def _results(
  source: BinaryIO,
  pipeline: Pipeline,
  splitter: Pipeline | None,
  closed: threading.Event,
) -> Arriving:
  """Returns items with what is predicted for them, and when they arrived.

  Threads read, split or prepare, and compute. The first one may be left while
  it waits for input; the others see at every batch that they are to end.

  Args:
    source: the input.
    pipeline: what annotates items.
    splitter: what makes items of raw text; None: the input has items.
    closed: whether nobody wants the next items.
  """

  def check() -> None:
    if closed.is_set():
      raise InterruptedError

  form = pipeline.format
  read = _read(source, splitter.format.read if splitter else form.read)
  arriving = run_ahead(read, _AHEAD, stop=closed, patience=_PATIENCE)
  if splitter and form.of_sentence:
    arriving = raw.split(arriving, splitter, form.of_sentence, check)
  if splitter is pipeline:
    return arriving
  prepared = run_ahead(_prepare(arriving, pipeline), _AHEAD, stop=closed)
  return _compute(prepared, pipeline, check)


def _read(source: BinaryIO, read: Read) -> Arriving:
  """Yields items as they arrive, and when their last byte did.

  Args:
    source: the input.
    read: see `Format.read`.
  """
  arrived = 0.0

  def blocks() -> Iterator[bytes]:
    nonlocal arrived
    for block in streams.blocks(source):
      arrived = time.perf_counter()
      yield block

  for items in read(blocks()):
    yield arrived, items


def _prepare(
  arriving: Arriving, pipeline: Pipeline
) -> Iterator[tuple[float, Work]]:
  """Yields the batches of items, of not too many together."""
  with contextlib.closing(arriving):
    for arrived, items in arriving:
      for start in range(0, len(items), _TOGETHER):
        yield arrived, pipeline.prepare(items[start : start + _TOGETHER])


def _compute(
  prepared: Generator[tuple[float, Work], None, None],
  pipeline: Pipeline,
  check: Beat,
) -> Arriving:
  """Yields items with what is predicted for them, and when they arrived."""
  with contextlib.closing(prepared):
    for arrived, work in prepared:
      yield arrived, pipeline.finish(work, check)


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
