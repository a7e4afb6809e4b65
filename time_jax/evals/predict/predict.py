"""`predict`: text in, annotated text out."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

import jax

from time_jax.core.errors import UserError
from time_jax.evals.predict import streams
from time_jax.evals.predict.formats import Format
from time_jax.evals.predict.pipeline import open_pipeline

_TOGETHER = 1024  # items at once; sorted by length among themselves
_COMPILE = "/jax/core/compile/"  # events of tracing, lowering, compiling


def predict(folder: pathlib.Path, source: BinaryIO, out: TextIO) -> int:
  """Annotates the sentences, or answers the questions, of a stream.

  Args:
    folder: folder of a fine-tuned model.
    source: one sentence a line with spaces between its words; or CoNLL-U for
      a model of `ud`; for one of `ner` what it is trained on, or a token a
      line, see `layouts`. For `qa`, see `squad.parse`.
    out: gets CoNLL-U, IOB2, or JSON lines of answers; those of sentences as
      soon as a block of them is read, such as a line that is typed.

  Returns:
    The exit code, 0.

  Raises:
    UserError: there is no such model, or the input is none of these.
  """
  pipeline = open_pipeline(folder)
  form = pipeline.format
  seconds, count, words = 0.0, 0, 0
  with _compilation_times() as compilations:
    for items in _read(source, form):
      start = time.perf_counter()
      text = form.to_text(pipeline.annotate(items))
      seconds += time.perf_counter() - start
      out.write(text)
      out.flush()
      count += len(items)
      words += sum(len(getattr(item, "words", ())) for item in items)
  compiling = sum(end - start for start, end in compilations)
  print(
    f"{count} {form.items}{f', {words} words' if words else ''} in "
    f"{seconds:.1f} s: {count / seconds:.1f} {form.items}/s; "
    f"{count / (seconds - compiling):.1f} without the {compiling:.1f} s of "
    "compilation.",
    file=sys.stderr,
  )
  return 0


def _read(source: BinaryIO, form: Format) -> Iterator[list[Any]]:
  """Yields items as they arrive; raises UserError if there are none."""
  empty = True
  for items in form.read(streams.blocks(source)):
    empty = False
    for start in range(0, len(items), _TOGETHER):
      yield items[start : start + _TOGETHER]
  if empty:
    raise UserError(f"the input is empty; expected {form.expects}.")


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
