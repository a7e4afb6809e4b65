"""`score`: what any program has annotated, scored for `report`.

So spaCy, Stanza or UDPipe can stand in one table with fine-tuned models, with
intervals for the differences where they annotate the same words.
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
from time_jax.evals.predict.comparison import COMPARERS
from time_jax.hf import files
from time_jax.report import per_item
from time_jax.report.results import SCHEMA, SCORES_FILE, metrics_of


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
    gold: the same words with the right annotation; for "raw", the same text.
    task: a key of `COMPARERS`.
    label: what reports call the program.
    lang: ISO code of the language.
    metrics: those that mean the same for the program as for the gold file;
      empty: all that it has annotated.
    out: folder to write, as a workdir of `finetune`.

  Returns:
    The exit code, 0.

  Raises:
    UserError: a file is missing or malformed, the two do not fit, or a metric
      is unknown.
  """
  comparer = COMPARERS[task]
  comparer.load_libraries()
  if not _is_score(out):
    check_empty(out, "--out")
  _check_metrics(task, metrics)
  found = comparer.compare(predicted, gold)
  if lacking := [name for name in metrics if name not in found.scores]:
    raise UserError(
      f"--metrics: {predicted} has nothing to score {lacking[0]!r} by, its "
      f"columns being empty; expected some of {', '.join(found.scores)}."
    )
  chosen = metrics or found.scores
  own = {name: found.scores[name] for name in chosen}
  with atomic_folder(out, "--out") as folder:
    seed = folder / "seed-0"
    seed.mkdir()
    if found.items is not None:
      kept = {name: found.items[name] for name in chosen if name in found.items}
      per_item.write(seed, {"test": kept})
    # With some metrics alone, classes are not told apart.
    by = {"test": found.by} if found.by is not None and not metrics else None
    of_seed = {"scores": {"test": own}, "by": by}
    atomic_file.write_json(seed / SCORES_FILE, of_seed)
    record = _record(predicted, gold, task, label, lang, own)
    atomic_file.write_json(folder / SCORES_FILE, record)
  cells = (f"{x:.2f}" if x is not None else "undefined" for x in own.values())
  print(aligned_table([["", *own], ["test", *cells]], "<>"))
  if left := [x for x in comparer.metrics if x not in found.scores]:
    print(f"Not in {predicted}, and not scored: {', '.join(left)}.")
  print(f"Written to {out}.\nNext: python -m time_jax report {out} ...")
  return 0


def _check_metrics(task: str, metrics: Sequence[str]) -> None:
  """Raises UserError if a metric is unknown, or no table shows any of them."""
  known, shown = COMPARERS[task].metrics, metrics_of(task)
  if unknown := [name for name in metrics if name not in known]:
    raise UserError(
      f"--metrics: {task} has no {unknown[0]!r}; known: {', '.join(known)}."
    )
  if metrics and not set(shown).intersection(metrics):
    raise UserError(
      f"--metrics={','.join(metrics)}: no table shows these; expected one of "
      f"{', '.join(shown)} among them."
    )


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
  own = {SCORES_FILE, "seed-0", f"seed-0/{SCORES_FILE}"}
  return names - {f"seed-0/{per_item.FILE}"} == own and (
    "predicted" in json_file.read_json(folder / SCORES_FILE)
  )
