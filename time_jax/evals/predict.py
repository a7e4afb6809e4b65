"""`predict`: text in, annotated text out."""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, TextIO

from time_jax import sharding, train
from time_jax.errors import UserError
from time_jax.evals import conllu, iob, ner, saved, ud
from time_jax.evals.lines import decode

_TOGETHER = 1024  # sentences in memory; sorted by length among themselves
_ROWS, _MAX_TOKENS = 64, 8192


@dataclasses.dataclass(frozen=True)
class _Kind:
  """How a task reads and writes.

  Attributes:
    expects: its input, for messages.
    parse: annotated lines -> sentences; None: they are plain text.
    make: (words, place) -> a sentence of plain text.
    model: see `ner.from_record`.
    to_text: sentences -> output.
  """

  expects: str
  parse: Callable[[list[bytes]], list[Any] | None]
  make: Callable[[Sequence[str], str], Any]
  model: Callable[..., Any]
  to_text: Callable[[Sequence[Any]], str]


def predict(folder: pathlib.Path, source: BinaryIO, out: TextIO) -> int:
  """Annotates the sentences of a stream.

  Args:
    folder: of a fine-tuned model.
    source: one sentence a line with spaces between its words; or CoNLL-U for
      a model of `ud`, for one of `ner` a token a line.
    out: gets CoNLL-U, or IOB2.

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
  model = kind.model(
    opened, record, rows=_ROWS, max_tokens=_MAX_TOKENS, mesh=mesh
  )
  start, sentences, words = time.perf_counter(), 0, 0
  for some in _chunks(_sentences(source, kind)):
    out.write(kind.to_text(model.annotate(params, some)))
    out.flush()
    sentences += len(some)
    words += sum(len(sentence.words) for sentence in some)
  seconds = time.perf_counter() - start
  print(
    f"{sentences} sentences, {words} words in {seconds:.1f} s: "
    f"{sentences / seconds:.1f} sentences/s, compilation included.",
    file=sys.stderr,
  )
  return 0


def _sentences(source: BinaryIO, kind: _Kind) -> list[Any]:
  """All sentences of the input: a format is known only at its end."""
  lines = source.read().splitlines(keepends=True)
  if not any(line.strip() for line in lines):
    raise UserError(
      f"the input is empty; expected {kind.expects}, or one sentence a line "
      "with spaces between its words."
    )
  annotated = kind.parse(lines)
  if annotated is not None:
    return annotated
  return [
    kind.make(text.split(), f"input:{number}")
    for number, text in decode(lines, "input", "text")
    if text.strip()
  ]


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


def _chunks(sentences: list[Any]) -> Iterator[list[Any]]:
  for start in range(0, len(sentences), _TOGETHER):
    yield sentences[start : start + _TOGETHER]


_KINDS = {
  "ud": _Kind(
    "CoNLL-U",
    _parse_conllu,
    conllu.make_sentence,
    ud.from_record,
    conllu.to_text,
  ),
  "ner": _Kind(
    "a token a line",
    _parse_tokens,
    iob.make_sentence,
    ner.from_record,
    iob.to_text,
  ),
}
