"""A teacher with the tokens of one language only.

Most of a multilingual teacher's tokens never occur in one language, and the
student inherits them all: with XLM-R's 250 002 rows a student of width 384 has
96 million parameters in its embeddings. The trimmed folder is a teacher like
any other.
"""

import collections
import dataclasses
import itertools
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.atomic_folder import atomic_folder, check_empty
from time_jax.core.storage.paths import Path, list_files
from time_jax.data import sources
from time_jax.data.records import Tally
from time_jax.hf import files, load, tokenizer, weight_files
from time_jax.hf.lineage import TRIM_RECORD
from time_jax.hf.weights import Weights
from time_jax.trim import counting, trimmed_tokenizer, trimmed_weights
from time_jax.trim.counting import Comparison, Counts
from time_jax.trim.token_selection import (
  COVERAGE,
  SOURCES,
  Rule,
  Selection,
  choose,
  widen,
)
from time_jax.trim.vocabulary import Vocabulary

_HELD_OUT = 0.05  # share of the documents that is held out, the last ones
_MOST_HELD_OUT = 10_000  # documents
_UNREADABLE = 0.4  # share of the tokens; text of its languages has far less
_DEFAULT = Rule(coverage=COVERAGE)
_OF_SOURCE = {
  "always": "whatever the text is",
  "seen": "seen in it",
  "likely": "likely in other text",
  "rest": "of the rest",
}
_AS_BEFORE = 0.999  # share of the held-out tokens; fewer are worth a note


def trim(
  teacher: str,
  text: Sequence[str],
  out: Path,
  rule: Rule | None,
  *,
  max_documents: int = 0,
  allow_pickle: bool = False,
) -> int:
  """Writes a teacher that has only the tokens of some text, and reports.

  Args:
    teacher: a folder, package or hub id, see `files.resolve`.
    text: sources, see `data.sources`. The last documents are held out: they
      are not counted, but tell what trimming changes.
    out: folder to write; new or empty.
    rule: which tokens are kept; None: what covers the text, and as many more
      as other text of the language needs.
    max_documents: how many documents are read at most; 0: all.
    allow_pickle: see `weight_files.find_weights`.

  Returns:
    The exit code, 0.

  Raises:
    UserError: the teacher, the text, the rule or the folder cannot be used.
  """
  check_empty(out, "--out")
  folder = files.resolve(teacher, allow_pickle)
  family, config = load.read_config(folder)
  spec = tokenizer.load_tokenizer(folder, config.vocab_size)
  vocabulary = Vocabulary(spec.backend, spec.name)
  with Weights(folder, allow_pickle) as weights:
    tables = trimmed_weights.vocabulary_tables(
      weights, family.names, config.vocab_size, config.hidden_size
    )
    documents, held_out = split(text, max_documents)
    counts = counting.count(spec, documents)
    _check_readable(counts, vocabulary, spec.name)
    ids = named(folder, config, vocabulary)
    chosen = _choose(vocabulary, counts, ids, rule)
    old_ids = sorted(chosen)
    with atomic_folder(out, "--out", replace=False) as fresh:
      left_out = trimmed_tokenizer.write_tokenizer(
        folder, fresh, vocabulary, old_ids
      )
      # config.json may point to code, which never runs here.
      for path in list_files(folder, "*.py") + list_files(folder, "LICENSE*"):
        shutil.copyfile(path, fresh / path.name)
      trimmed_weights.write_weights(weights, fresh, tables, old_ids)
      comparison = counting.compare(
        spec,
        tokenizer.load_tokenizer(fresh, len(old_ids)),
        old_ids,
        held_out,
        vocabulary.unreadable,
      )
      before, after = map(trimmed_weights.count_numbers, (folder, fresh))
      record = {
        "teacher": teacher,
        "teacher_fingerprint": weight_files.fingerprint(folder, allow_pickle),
        "text": list(text),
        "max_documents": max_documents,
        "rule": str(rule or _DEFAULT),
        **count_sources(chosen),
        "documents": counts.documents,
        "tokens": int(counts.tokens.sum()),
        "held_out": dataclasses.asdict(comparison),
        "vocab_size": {"before": config.vocab_size, "after": len(old_ids)},
        "parameters": {"before": before[0], "after": after[0]},
        "bytes": {"before": before[1], "after": after[1]},
        "left_out": left_out,
        "old_ids": old_ids,  # the place in this list is the new id
      }
      atomic_file.write_json(fresh / TRIM_RECORD, record, indent=None)
      load.check_teacher(fresh, (config.num_layers,))
  _report(folder, out, record, comparison)
  _print_notes(record, comparison, rule.keep if rule else None)
  print(f"Next: python -m time_jax inspect {out}")
  return 0


def split(
  text: Sequence[str], max_documents: int
) -> tuple[Iterator[str], Iterator[str]]:
  """Splits text into documents to count and the last ones, to hold out.

  Args:
    text: sources, see `data.sources`.
    max_documents: how many documents are read at most; 0: all.

  Returns:
    Both, each to be read once.

  Raises:
    UserError: there are not two documents.
  """

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
  """Raises UserError if the tokenizer cannot read the text's script."""
  unreadable = counts.tokens[sorted(vocabulary.unreadable)].sum()
  share = unreadable / max(counts.tokens.sum(), 1)
  if share > _UNREADABLE:
    raise UserError(
      f"{name} does not know {share:.0%} of this text: it was not made for its "
      "script; expected a teacher that reads the language, or other --text."
    )


def named(folder: Path, config: Any, vocabulary: Vocabulary) -> set[int]:
  """Returns ids that stay for what files beside tokenizer.json say of them.

  Args:
    folder: the teacher's folder.
    config: its config, as its family reads it.
    vocabulary: its tokens.
  """
  special = tokenizer.special_tokens(folder)
  ids = trimmed_tokenizer.named_ids(folder, vocabulary, special)
  # RoBERTa counts positions from its padding id, which must not move.
  first = set(range(getattr(config, "position_offset", 0)))
  return ids | (first & vocabulary.tokens.keys())


def _choose(
  vocabulary: Vocabulary, counts: Counts, ids: set[int], rule: Rule | None
) -> Selection:
  """Returns the tokens that are kept by a rule, or by default."""
  if rule:
    return choose(vocabulary, counts, ids, rule)
  return widen(vocabulary, choose(vocabulary, counts, ids, _DEFAULT), counts)


def count_sources(chosen: Selection) -> dict[str, Any]:
  """Counts the tokens that are kept for each reason.

  Args:
    chosen: the tokens that are kept.

  Returns:
    `of_text`, how many are kept for the text: the others are there for other
    text; and `sources`, how many for each reason.
  """
  number = collections.Counter(chosen.values())
  return {
    "of_text": number["always"] + number["seen"],
    "sources": {source: number[source] for source in SOURCES},
  }


def _report(
  folder: Path, out: Path, record: dict[str, Any], comparison: Comparison
) -> None:
  before, after = record["vocab_size"].values()
  numbers, fewer = record["parameters"].values()
  size, smaller = record["bytes"].values()
  c = comparison
  lines = {
    "tokens": f"{before:,} -> {after:,} ({after / before:.1%})",
    "parameters": f"{numbers / 1e6:.1f} M -> {fewer / 1e6:.1f} M",
    "weights": f"{size / 1e6:.1f} MB -> {smaller / 1e6:.1f} MB",
    "text": f"{record['documents']:,} documents, {record['tokens']:,} tokens "
    f"counted; {record['rule']}",
    "kept": ", ".join(
      f"{number:,} {_OF_SOURCE[source]}"
      for source, number in record["sources"].items()
    ),
    "held out": f"{c.documents:,} documents, {c.tokens:,} tokens",
    "as before": f"{c.share_of_tokens:.3%} of the tokens, "
    f"{c.same_documents / c.documents:.1%} of the documents",
    "tokens per word": f"{c.tokens / c.words:.4f} -> "
    f"{c.tokens_after / c.words:.4f}",
    "unknown": f"{c.unreadable:,} -> {c.unreadable_after:,} tokens",
  }
  print(f"Trimmed {folder} to {out}")
  for title, value in lines.items():
    print(f"  {title:<16} {value}")


def _print_notes(
  record: dict[str, Any], comparison: Comparison, keep: int | None
) -> None:
  after = record["vocab_size"]["after"]
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
  if keep and after < keep:
    print(
      f"note: --keep={keep}, but {after:,} tokens are all that the tokenizer "
      "has, or that fit with those they are made of."
    )
  if comparison.share_of_tokens < _AS_BEFORE:
    print(
      f"note: less than {_AS_BEFORE:.1%} of the held-out tokens are as before; "
      "give more text, or ask for more tokens."
    )
