"""`predict`: text in, annotated text out."""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, TextIO

import jax

from time_jax.core.errors import UserError
from time_jax.evals.common import model_folder
from time_jax.evals.common.batches import make_buckets
from time_jax.evals.common.task import Network
from time_jax.evals.ner import iob
from time_jax.evals.ner.tagger import Tagger
from time_jax.evals.predict import streams
from time_jax.evals.qa import squad
from time_jax.evals.qa.reader import Reader
from time_jax.evals.ud import conllu
from time_jax.evals.ud.annotator import Annotator
from time_jax.parallel import sharding
from time_jax.step import machine

_TOGETHER = 1024  # items at once; sorted by length among themselves
_ROWS, _MAX_TOKENS = 64, 8192  # of a batch
_FEWER_ROWS = 1, 8  # for a sentence or a few
_COMPILE = "/jax/core/compile/"  # events of tracing, lowering, compiling


@dataclasses.dataclass(frozen=True)
class _Format:
  """How a task reads and writes.

  Attributes:
    items: what it annotates, for the last line.
    read: blocks of the input -> items, as soon as they are complete.
    network: the class of its network.
    to_text: items -> output.
    expects: its input, for messages.
  """

  items: str
  read: Callable[[Iterable[bytes]], Iterator[list[Any]]]
  network: type[Network]
  to_text: Callable[[Sequence[Any]], str]
  expects: str


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
  description = model_folder.read_description(folder)
  task = description["task"]
  if task not in _FORMATS:
    raise UserError(
      f"{folder} is of task {task!r}; expected one of {', '.join(_FORMATS)}."
    )
  form = _FORMATS[task]
  machine.use_compilation_cache()
  mesh = sharding.make_mesh()
  opened, params = model_folder.read_model(folder, mesh)
  lengths = description["buckets"]
  buckets = make_buckets(lengths, max(lengths), _ROWS, _MAX_TOKENS, mesh)
  buckets = dataclasses.replace(buckets, fewer=_FEWER_ROWS)
  network = form.network(description, opened, buckets, mesh)
  seconds, count, words = 0.0, 0, 0
  with _compilation_times() as compilations:
    for items in _read(source, form):
      start = time.perf_counter()
      text = form.to_text(network.annotate(params, items))
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


def _read(source: BinaryIO, form: _Format) -> Iterator[list[Any]]:
  """Yields items as they arrive; raises UserError if there are none."""
  empty = True
  for items in form.read(streams.blocks(source)):
    empty = False
    for start in range(0, len(items), _TOGETHER):
      yield items[start : start + _TOGETHER]
  if empty:
    raise UserError(f"the input is empty; expected {form.expects}.")


def _questions(blocks: Iterable[bytes]) -> Iterator[list[Any]]:
  """Yields all questions; only the end tells JSON from a JSON a line."""
  data = b"".join(blocks)
  if data.strip():
    yield squad.parse(data, streams.NAME)


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


_LINES = "or one sentence a line with spaces between its words"
_FORMATS = {
  "ud": _Format(
    "sentences",
    lambda blocks: streams.sentences(blocks, streams.ChooseConllu),
    Annotator,
    conllu.to_text,
    f"CoNLL-U, {_LINES}",
  ),
  "ner": _Format(
    "sentences",
    lambda blocks: streams.sentences(blocks, streams.ChooseTokens),
    Tagger,
    iob.to_text,
    f"a token a line, {_LINES}",
  ),
  "qa": _Format(
    "questions", _questions, Reader, squad.to_lines, squad.EXPECTED
  ),
}
