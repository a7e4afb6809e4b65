"""`score`: what any program has annotated, scored for `report`.

So spaCy, Stanza or UDPipe can stand in one table with fine-tuned models, with
intervals for the differences.
"""

import datetime
import hashlib
from collections.abc import Sequence
from typing import Any

from time_jax.core.display import aligned_table
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file, json_file
from time_jax.core.storage.atomic_folder import atomic_folder, check_empty
from time_jax.core.storage.paths import Path
from time_jax.evals.ner.task import Ner
from time_jax.evals.ud import breakdown, scoring
from time_jax.evals.ud.conllu import Sentence
from time_jax.evals.ud.task import Ud
from time_jax.hf import files
from time_jax.report import per_item
from time_jax.report.results import COLUMNS, SCHEMA, SCORES_FILE

TASKS: dict[str, type[Ud] | type[Ner]] = {"ud": Ud, "ner": Ner}
_OF_SEED = (SCORES_FILE, per_item.FILE)
# What is scored of a word; its form is the gold file's, and so are what words
# are written as one.
_SCORED = ("LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL")


def score_command(
  predicted: Path,
  gold: Path,
  *,
  task: str,
  label: str,
  lang: str,
  metrics: Sequence[str],
  out: Path,
) -> int:
  """Scores an annotated file, and writes what `report` reads.

  Args:
    predicted: the annotated file.
    gold: the same sentences with the right annotation.
    task: a key of `TASKS`.
    label: what reports call the program.
    lang: ISO code of the language.
    metrics: those that mean the same for the program as for the gold file;
      empty: all.
    out: folder to write, as a workdir of `finetune`.

  Returns:
    The exit code, 0.

  Raises:
    UserError: a file is missing or malformed, the two have other words, or a
      metric is unknown.
  """
  kind: Any = TASKS[task]
  kind.load_libraries()
  if not _is_score(out):
    check_empty(out, "--out")
  chosen = metrics or kind.metrics
  if unknown := [name for name in chosen if name not in kind.metrics]:
    raise UserError(
      f"--metrics: {task} has no {unknown[0]!r}; known: "
      f"{', '.join(kind.metrics)}."
    )
  shown = [metric for of, metric in COLUMNS.values() if of == task]
  if not set(shown).intersection(chosen):
    raise UserError(
      f"--metrics={','.join(chosen)}: no table shows these; expected one of "
      f"{', '.join(shown)} among them."
    )
  right: list[Any] = kind.read(gold)
  found: list[Any] = kind.read(predicted)
  _check_same_words(right, found)
  if task == "ud":
    found = _on_gold_words(right, found)
  scores = kind.score(right, found)
  own = {name: scores[name] for name in chosen}
  items = kind.per_item(right, found)
  with atomic_folder(out, "--out") as folder:
    seed = folder / "seed-0"
    seed.mkdir()
    kept = {name: items[name] for name in chosen if name in items}
    per_item.write(seed, {"test": kept})
    # With some metrics alone, classes are not told apart.
    all_of_ud = task == "ud" and not metrics
    by = {"test": breakdown.count(right, found)} if all_of_ud else None
    of_seed = {"scores": {"test": own}, "by": by}
    atomic_file.write_json(seed / SCORES_FILE, of_seed)
    record = _record(predicted, gold, task, label, lang, own)
    atomic_file.write_json(folder / SCORES_FILE, record)
  cells = (f"{x:.2f}" if x is not None else "undefined" for x in own.values())
  print(aligned_table([["", *own], ["test", *cells]], "<>"))
  print(f"Written to {out}.\nNext: python -m time_jax report {out} ...")
  return 0


def _record(
  predicted: Path,
  gold: Path,
  task: str,
  label: str,
  lang: str,
  scores: dict[str, float | None],
) -> dict[str, Any]:
  """Returns the content of the file with the scores."""
  now = datetime.datetime.now(datetime.UTC)
  return {
    "schema": SCHEMA,
    "date": now.isoformat(timespec="seconds"),
    "task": task,
    "lang": lang,
    "label": label,
    "predicted": str(predicted),
    "predicted_sha256": files.sha256(predicted),
    # One program may have a file for each task.
    "fingerprint": hashlib.sha256(f"score:{label}".encode()).hexdigest(),
    "files": {"test": {"path": str(gold), "sha256": files.sha256(gold)}},
    "seeds": [0],
    "scores": {
      "test": {
        name: {
          "mean": value,
          "std": None if value is None else 0.0,
          "values": [value],
        }
        for name, value in scores.items()
      }
    },
  }


def _is_score(folder: Path) -> bool:
  """Returns whether a folder was written by this command, and no more."""
  names = {str(path.relative_to(folder)) for path in folder.glob("**/*")}
  own = {SCORES_FILE, "seed-0", *(f"seed-0/{name}" for name in _OF_SEED)}
  return names == own and "predicted" in json_file.read_json(
    folder / SCORES_FILE
  )


def _check_same_words(gold: Sequence[Any], predicted: Sequence[Any]) -> None:
  """Refuses annotations of other words than the gold file's."""
  first, other = gold[0].name, predicted[0].name
  if len(gold) != len(predicted):
    raise UserError(
      f"{first} has {len(gold):,} sentences and {other} {len(predicted):,}; "
      "expected the same sentences, in the same order."
    )
  for right, found in zip(gold, predicted, strict=True):
    if _forms(right) != _forms(found):
      raise UserError(
        f"{other}:{found.numbers[0]}: this sentence has other words than the "
        f"one at {first}:{right.numbers[0]}: {' '.join(_forms(found))[:60]!r} "
        f"and {' '.join(_forms(right))[:60]!r}. Expected the annotation of the "
        "gold file's own words."
      )


def _on_gold_words(
  gold: Sequence[Sentence], predicted: Sequence[Sentence]
) -> list[Sentence]:
  """Returns the gold sentences with what is predicted for their words."""
  scoring.check(gold)
  pairs = zip(gold, predicted, strict=True)
  found = [
    right.with_columns(
      {name: list(own.column(name)) for name in _SCORED}
      | {"DEPS": ["_"] * len(own.words)}
    )
    for right, own in pairs
  ]
  scoring.check(found)
  return found


def _forms(sentence: Any) -> list[str]:
  if hasattr(sentence, "column"):
    return list(sentence.column("FORM"))
  return list(sentence.words)
