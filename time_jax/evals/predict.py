"""`predict`: text in, annotated text out."""

import pathlib
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO, TextIO

from time_jax import sharding, train
from time_jax.errors import UserError
from time_jax.evals import conllu, saved
from time_jax.evals.conllu import Sentence
from time_jax.evals.ud import make_annotator

_TOGETHER = 1024  # sentences in memory; sorted by length among themselves
_ROWS, _MAX_TOKENS = 64, 8192


def predict(folder: pathlib.Path, source: BinaryIO, out: TextIO) -> int:
  """Annotates the sentences of a stream.

  Args:
    folder: of a fine-tuned model.
    source: CoNLL-U, or one sentence a line with spaces between its words.
    out: gets CoNLL-U.

  Returns:
    The exit code, 0.

  Raises:
    UserError: no such model, or the input is neither of the two.
  """
  record = saved.read_record(folder)
  if record["task"] != "ud":
    raise UserError(f"{folder} is of task {record['task']!r}; expected 'ud'.")
  train.use_compilation_cache()
  mesh = sharding.make_mesh()
  opened, params, record = saved.read_folder(folder, mesh)
  annotator = make_annotator(
    opened,
    record["classes"],
    record["heads"],
    buckets=record["buckets"],
    rows=_ROWS,
    max_tokens=_MAX_TOKENS,
    mesh=mesh,
  )
  start, sentences, words = time.perf_counter(), 0, 0
  for some in _chunks(_sentences(source)):
    out.write(conllu.to_text(annotator.annotate(params, some)))
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


def _sentences(source: BinaryIO) -> list[Sentence]:
  """All sentences of the input: a format is known only at its end."""
  lines = source.read().splitlines(keepends=True)
  rows = [line for line in lines if line.strip()]
  if not rows:
    raise UserError(
      "the input is empty; expected CoNLL-U, or one sentence a line with "
      "spaces between its words."
    )
  if any(line.count(b"\t") >= len(conllu.COLUMNS) - 2 for line in rows):
    return conllu.parse(lines, "input", trees=False)
  found = []
  for number, line in enumerate(lines, 1):
    try:
      words = line.decode("utf-8-sig" if number == 1 else "utf-8").split()
    except UnicodeDecodeError as error:
      raise UserError(
        f"input:{number}: not UTF-8 at byte {error.start + 1} of the line; "
        "expected text in UTF-8."
      ) from None
    if words:
      found.append(conllu.make_sentence(words, f"input:{number}"))
  return found


def _chunks(sentences: list[Sentence]) -> Iterator[list[Sentence]]:
  for start in range(0, len(sentences), _TOGETHER):
    yield sentences[start : start + _TOGETHER]
