"""`predict`: text in, annotated text out."""

import contextlib
import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, TextIO

import jax

from time_jax.core.errors import UserError
from time_jax.evals.common import saved
from time_jax.evals.common.batches import make_buckets
from time_jax.evals.ner import iob
from time_jax.evals.ner import task as ner_task
from time_jax.evals.predict import incoming
from time_jax.evals.qa import squad
from time_jax.evals.qa import task as qa_task
from time_jax.evals.ud import conllu
from time_jax.evals.ud import task as ud_task
from time_jax.parallel import sharding
from time_jax.step import machine

_TOGETHER = 1024  # items at once; sorted by length among themselves
_ROWS, _MAX_TOKENS = 64, 8192
_FEWER = 1, 8  # for a sentence or a few
_COMPILE = "/jax/core/compile/"  # of tracing, lowering, compiling


@dataclasses.dataclass(frozen=True)
class _Kind:
  """How a task reads and writes.

  Attributes:
    items: what it annotates, for the last line.
    read: blocks of the input -> items, as soon as they are complete.
    model: see `ner.from_record`.
    to_text: items -> output.
    expects: its input, for messages.
  """

  items: str
  read: Callable[[Iterable[bytes]], Iterator[list[Any]]]
  model: Callable[..., Any]
  to_text: Callable[[Sequence[Any]], str]
  expects: str


def predict(folder: pathlib.Path, source: BinaryIO, out: TextIO) -> int:
  """Annotates the sentences, or answers the questions, of a stream.

  Args:
    folder: of a fine-tuned model.
    source: one sentence a line with spaces between its words; or CoNLL-U for
      a model of `ud`; for one of `ner` what it is trained on, or a token a
      line, see `layouts`. Of `qa`, see `squad.parse`.
    out: gets CoNLL-U, IOB2, or JSON lines of answers; those of sentences as
      soon as a block of them is read, such as a line that is typed.

  Returns:
    The exit code, 0.

  Raises:
    UserError: no such model, or the input is none of these.
  """
  task = saved.read_record(folder)["task"]
  if task not in _KINDS:
    raise UserError(
      f"{folder} is of task {task!r}; expected one of {', '.join(_KINDS)}."
    )
  kind = _KINDS[task]
  machine.use_compilation_cache()
  mesh = sharding.make_mesh()
  opened, params, record = saved.read_folder(folder, mesh)
  lengths = record["buckets"]
  buckets = make_buckets(lengths, max(lengths), _ROWS, _MAX_TOKENS, mesh)
  buckets = dataclasses.replace(buckets, fewer=_FEWER)
  model = kind.model(opened, record, buckets, mesh)
  seconds, count, words = 0.0, 0, 0
  with _compiling() as compiling:
    for some in _read(source, kind):
      start = time.perf_counter()
      text = kind.to_text(model.annotate(params, some))
      seconds += time.perf_counter() - start
      out.write(text)
      out.flush()
      count += len(some)
      words += sum(len(getattr(item, "words", ())) for item in some)
  compiled = sum(end - start for start, end in compiling)
  print(
    f"{count} {kind.items}{f', {words} words' if words else ''} in "
    f"{seconds:.1f} s: {count / seconds:.1f} {kind.items}/s; "
    f"{count / (seconds - compiled):.1f} without the {compiled:.1f} s of "
    "compilation.",
    file=sys.stderr,
  )
  return 0


def _read(source: BinaryIO, kind: _Kind) -> Iterator[list[Any]]:
  """Items as they arrive; UserError if there are none."""
  empty = True
  for some in kind.read(incoming.blocks(source)):
    empty = False
    for start in range(0, len(some), _TOGETHER):
      yield some[start : start + _TOGETHER]
  if empty:
    raise UserError(f"the input is empty; expected {kind.expects}.")


def _questions(blocks: Iterable[bytes]) -> Iterator[list[Any]]:
  """Of one JSON, or of a JSON a line, which is known at the end."""
  data = b"".join(blocks)
  if data.strip():
    yield squad.parse(data, name="input")


@contextlib.contextmanager
def _compiling() -> Iterator[list[tuple[float, float]]]:
  """Gathers when programs are compiled, as (start, end)."""
  found: list[tuple[float, float]] = []

  def listen(event: str, duration_secs: float, **_: Any) -> None:
    if event.startswith(_COMPILE):
      end = time.perf_counter()
      while found and found[-1][0] >= end - duration_secs:
        found.pop()  # It was a part of this one.
      found.append((end - duration_secs, end))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield found
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


_LINES = "or one sentence a line with spaces between its words"
_KINDS = {
  "ud": _Kind(
    "sentences",
    functools.partial(incoming.sentences, choose=incoming.ChooseConllu),
    ud_task.from_record,
    conllu.to_text,
    f"CoNLL-U, {_LINES}",
  ),
  "ner": _Kind(
    "sentences",
    functools.partial(incoming.sentences, choose=incoming.ChooseTokens),
    ner_task.from_record,
    iob.to_text,
    f"a token a line, {_LINES}",
  ),
  "qa": _Kind(
    "questions",
    _questions,
    qa_task.from_record,
    squad.to_lines,
    squad.EXPECTED,
  ),
}
