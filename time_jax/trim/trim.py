"""A teacher with the tokens of one language only.

Most of a multilingual teacher's tokens never occur in one language, and the
student inherits them all: of XLM-R's 250 002 rows a student of width 384 has 96
million parameters. What is written is a teacher like any other.
"""

import dataclasses
import itertools
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.atomic_folder import atomic_folder
from time_jax.data import sources
from time_jax.data.records import Tally
from time_jax.hf import files, load, tokenizer
from time_jax.hf.weights import Weights
from time_jax.trim import counting, rows, trimmed_files
from time_jax.trim.counting import Comparison, Counts
from time_jax.trim.token_selection import COVERAGE, Rule, choose, widen
from time_jax.trim.vocabulary import Vocabulary

RECORD = "trim.json"
_HELD_OUT = 0.05  # of the documents, the last ones
_MOST_HELD_OUT = 10_000  # documents
_UNREADABLE = 0.4  # of the tokens; text of its languages has far less
_DEFAULT = Rule(coverage=COVERAGE)
_AS_BEFORE = 0.999  # of the held-out tokens; fewer are worth a note


def trim(
  teacher: str,
  text: Sequence[str],
  out: pathlib.Path,
  rule: Rule | None,
  *,
  max_documents: int = 0,
  allow_pickle: bool = False,
) -> int:
  """Writes a teacher that has only the tokens of some text, and reports.

  Args:
    teacher: see `files.resolve`.
    text: sources, see `data.sources`. The last documents are held out: they
      are not counted, but tell what trimming changes.
    out: folder to write; new or empty.
    rule: which tokens are kept; None: what covers the text, and as many more
      as other text of the language needs.
    max_documents: read at most; 0: all.
    allow_pickle: see `files.weight_files`.

  Returns:
    The exit code, 0.

  Raises:
    UserError: the teacher, the text, the rule or the folder does not do.
  """
  _check_target(out)
  folder = files.resolve(teacher, allow_pickle)
  family, config = load.read_config(folder)
  spec = tokenizer.load_tokenizer(folder, config.vocab_size)
  vocabulary = Vocabulary(spec.backend, spec.name)
  with Weights(folder, allow_pickle) as weights:
    tables = rows.vocabulary_tables(
      weights, family.names, config.vocab_size, config.hidden_size
    )
    documents, held_out = _split(text, max_documents)
    counts = counting.count(spec, documents)
    _check_readable(counts, vocabulary, spec.name)
    named = _named(folder, config, vocabulary)
    old_ids = choose(vocabulary, counts, named, rule or _DEFAULT)
    of_text = len(old_ids)
    if rule is None:
      old_ids = widen(vocabulary, old_ids, counts)
    with atomic_folder(out, "--out") as fresh:
      left = trimmed_files.write_tokenizer(folder, fresh, vocabulary, old_ids)
      trimmed_files.write_config(folder, fresh, old_ids)
      rows.write_weights(weights, fresh, tables, old_ids)
      _copy_code(folder, fresh)
      fewer = tokenizer.load_tokenizer(fresh, len(old_ids))
      found = counting.compare(
        spec, fewer, old_ids, held_out, vocabulary.unreadable
      )
      sizes = rows.count_numbers(folder), rows.count_numbers(fresh)
      parameters, size = zip(*sizes, strict=True)
      record = {
        "teacher": teacher,
        "teacher_fingerprint": files.fingerprint(folder, allow_pickle),
        "text": list(text),
        "max_documents": max_documents,
        "rule": str(rule or _DEFAULT),
        "of_text": of_text,  # the rest is there for other text
        "documents": counts.documents,
        "tokens": int(counts.tokens.sum()),
        "held_out": dataclasses.asdict(found),
        "vocab_size": _both(config.vocab_size, len(old_ids)),
        "parameters": _both(*parameters),
        "bytes": _both(*size),
        "left_out": left,
        "old_ids": old_ids,  # the place in this list is the new id
      }
      text = atomic_file.as_json(record) + "\n"
      (fresh / RECORD).write_text(text, encoding="utf-8")
      load.check_teacher(fresh, config.num_layers)
      _check_target(out)  # Something may have come there meanwhile.
  _report(folder, out, record, found, _not_filled(rule, counts, old_ids))
  return 0


def _check_target(out: pathlib.Path) -> None:
  if out.exists() and not (out.is_dir() and not any(out.iterdir())):
    raise UserError(
      f"{out} exists; expected an empty or new folder: delete it or give "
      "another --out."
    )


def _split(
  text: Sequence[str], max_documents: int
) -> tuple[Iterator[str], Iterator[str]]:
  """The documents to count, and those behind them, which are held out."""

  def documents() -> Iterator[str]:
    parsed = [sources.Source.parse(source) for source in text]
    return itertools.islice(
      sources.documents(parsed, Tally()), max_documents or None
    )

  # Read once more than needed: only then it is known which are the last.
  number = sum(1 for _ in documents())
  held_out = min(max(round(_HELD_OUT * number), 1), _MOST_HELD_OUT)
  if number < 2:
    raise UserError(
      f"{number} document in {', '.join(text)}; expected 2 at least, the last "
      "of which is not counted but compared."
    )
  counted = number - held_out
  return (
    itertools.islice(documents(), counted),
    itertools.islice(documents(), counted, None),
  )


def _check_readable(counts: Counts, vocabulary: Vocabulary, name: str) -> None:
  """UserError if the tokenizer cannot read the text's script."""
  unreadable = counts.tokens[sorted(vocabulary.unreadable)].sum()
  share = unreadable / max(counts.tokens.sum(), 1)
  if share > _UNREADABLE:
    raise UserError(
      f"{name} does not know {share:.0%} of this text: it was not made for its "
      "script; expected a teacher that reads the language, or other --text."
    )


def _named(
  folder: pathlib.Path, config: Any, vocabulary: Vocabulary
) -> set[int]:
  """Ids that stay for what files beside tokenizer.json say of them."""
  special = tokenizer.special_tokens(folder)
  named = trimmed_files.outside_of_text(folder, vocabulary, special)
  # RoBERTa counts positions from its padding id, which must not move.
  first = set(range(getattr(config, "position_offset", 0)))
  return named | (first & vocabulary.tokens.keys())


def _both(before: int, after: int) -> dict[str, int]:
  return {"before": before, "after": after}


def _not_filled(
  rule: Rule | None, counts: Counts, old_ids: Sequence[int]
) -> int | None:
  """How many tokens the rule asks for, where the text has not so many."""
  keep = rule.keep if rule else None
  seen = set(np.flatnonzero(counts.tokens).tolist())
  # Of tokens that come with others, the last ones may not fit: that is full.
  return keep if keep and len(old_ids) < keep and seen <= {*old_ids} else None


def _copy_code(folder: pathlib.Path, out: pathlib.Path) -> None:
  """Files that config.json may point to. They are never executed here."""
  for path in (*folder.glob("*.py"), *folder.glob("LICENSE*")):
    shutil.copyfile(path, out / path.name)


def _report(
  folder: pathlib.Path,
  out: pathlib.Path,
  record: dict[str, Any],
  found: Comparison,
  asked_for: int | None,
) -> None:
  before, after = record["vocab_size"].values()
  numbers, fewer = record["parameters"].values()
  size, smaller = record["bytes"].values()
  same = found.same_tokens / max(found.tokens, 1)
  lines = {
    "tokens": f"{before:,} -> {after:,} ({after / before:.1%})",
    "parameters": f"{numbers / 1e6:.1f} M -> {fewer / 1e6:.1f} M",
    "weights": f"{size / 1e6:.1f} MB -> {smaller / 1e6:.1f} MB",
    "text": f"{record['documents']:,} documents, {record['tokens']:,} tokens "
    f"counted; {record['rule']}",
    "for other text": f"{after - record['of_text']:,} of the tokens",
    "held out": f"{found.documents:,} documents, {found.tokens:,} tokens",
    "as before": f"{same:.3%} of the tokens, "
    f"{found.same_documents / found.documents:.1%} of the documents",
    "tokens per word": f"{found.tokens / found.words:.4f} -> "
    f"{found.tokens_after / found.words:.4f}",
    "unknown": f"{found.unreadable:,} -> {found.unreadable_after:,} tokens",
  }
  print(f"Trimmed {folder} to {out}")
  for title, words in lines.items():
    print(f"  {title:<16} {words}")
  if record["left_out"]:
    print(
      f"note: {', '.join(record['left_out'])} left out: not the same tokens as "
      "tokenizer.json, or of another kind."
    )
  if after > 2 * record["of_text"]:
    print(
      "note: this text is short for its language, so more than half of the "
      "tokens are there for other text; give more text, or "
      f"--coverage={COVERAGE} for those of this text alone."
    )
  if asked_for:
    print(
      f"note: --keep={asked_for}, but the text has fewer tokens: {after:,} "
      "with those that stay whatever it is; give more text to keep more."
    )
  if same < _AS_BEFORE:
    print(
      f"note: less than {_AS_BEFORE:.1%} of the held-out tokens are as before; "
      "give more text, or ask for more tokens."
    )
  print(f"Next: python -m time_jax inspect {out}")
