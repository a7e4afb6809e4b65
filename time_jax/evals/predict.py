"""`predict`: text in, annotated text out."""

import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, TextIO

from time_jax import sharding, train
from time_jax.errors import UserError
from time_jax.evals import conllu, iob, ner, qa, saved, squad, ud
from time_jax.evals.batches import make_buckets
from time_jax.evals.lines import decode

_TOGETHER = 1024  # items in memory; sorted by length among themselves
_ROWS, _MAX_TOKENS = 64, 8192


@dataclasses.dataclass(frozen=True)
class _Kind:
  """How a task reads and writes.

  Attributes:
    items: what it annotates, for the last line.
    read: the input, which is not blank -> items.
    model: see `ner.from_record`.
    to_text: items -> output.
    expects: its input, for messages.
  """

  items: str
  read: Callable[[bytes], list[Any]]
  model: Callable[..., Any]
  to_text: Callable[[Sequence[Any]], str]
  expects: str


def predict(folder: pathlib.Path, source: BinaryIO, out: TextIO) -> int:
  """Annotates the sentences, or answers the questions, of a stream.

  Args:
    folder: of a fine-tuned model.
    source: one sentence a line with spaces between its words; or CoNLL-U for
      a model of `ud`, for one of `ner` a token a line. Of `qa`, see
      `squad.parse`.
    out: gets CoNLL-U, IOB2, or JSON lines of answers.

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
  train.use_compilation_cache()
  mesh = sharding.make_mesh()
  opened, params, record = saved.read_folder(folder, mesh)
  lengths = record["buckets"]
  buckets = make_buckets(lengths, max(lengths), _ROWS, _MAX_TOKENS, mesh)
  model = kind.model(opened, record, buckets, mesh)
  start, count, words = time.perf_counter(), 0, 0
  for some in _chunks(_read(source, kind)):
    out.write(kind.to_text(model.annotate(params, some)))
    out.flush()
    count += len(some)
    words += sum(len(getattr(item, "words", ())) for item in some)
  seconds = time.perf_counter() - start
  print(
    f"{count} {kind.items}{f', {words} words' if words else ''} in "
    f"{seconds:.1f} s: {count / seconds:.1f} {kind.items}/s, compilation "
    "included.",
    file=sys.stderr,
  )
  return 0


def _read(source: BinaryIO, kind: _Kind) -> list[Any]:
  """All of the input: a format is known only at its end."""
  data = source.read()
  if not data.strip():
    raise UserError(f"the input is empty; expected {kind.expects}.")
  return kind.read(data)


def _reader(
  parse: Callable[[list[bytes]], list[Any] | None],
  make: Callable[[Sequence[str], str], Any],
) -> Callable[[bytes], list[Any]]:
  """Reads annotated sentences, or plain ones.

  Args:
    parse: annotated lines -> sentences; None: they are plain text.
    make: (words, place) -> a sentence of plain text.
  """

  def read(data: bytes) -> list[Any]:
    lines = data.splitlines(keepends=True)
    annotated = parse(lines)
    if annotated is not None:
      return annotated
    return [
      make(text.split(), f"input:{number}")
      for number, text in decode(lines, "input", "text")
      if text.strip()
    ]

  return read


def _parse_conllu(lines: list[bytes]) -> list[conllu.Sentence] | None:
  if any(line.count(b"\t") >= len(conllu.COLUMNS) - 2 for line in lines):
    return conllu.parse(lines, "input", trees=False)
  return None


def _parse_tokens(lines: list[bytes]) -> list[iob.Sentence] | None:
  """A token a line: lines have tabs, or none has several words."""
  texts = [text for _, text in decode(lines, "input", "text") if text.strip()]
  rows = [text for text in texts if "\t" in text]
  if rows:
    tagged = all(map(iob.is_tagged, rows))
    return iob.parse(lines, "input", tagged=tagged)
  if all(len(text.split()) == 1 for text in texts):
    return iob.parse(lines, "input", tagged=False)
  return None


def _chunks(items: list[Any]) -> Iterator[list[Any]]:
  for start in range(0, len(items), _TOGETHER):
    yield items[start : start + _TOGETHER]


_LINES = "or one sentence a line with spaces between its words"
_KINDS = {
  "ud": _Kind(
    "sentences",
    _reader(_parse_conllu, conllu.make_sentence),
    ud.from_record,
    conllu.to_text,
    f"CoNLL-U, {_LINES}",
  ),
  "ner": _Kind(
    "sentences",
    _reader(_parse_tokens, iob.make_sentence),
    ner.from_record,
    iob.to_text,
    f"a token a line, {_LINES}",
  ),
  "qa": _Kind(
    "questions",
    functools.partial(squad.parse, name="input"),
    qa.from_record,
    squad.to_lines,
    squad.EXPECTED,
  ),
}
