"""How `score` compares an annotated file with a gold file, for each task."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path
from time_jax.evals.common.packages import UDTOOLS, load_package
from time_jax.evals.ner.task import Ner
from time_jax.evals.ud import breakdown, conllu, raw_scores, scoring
from time_jax.evals.ud.conllu import Sentence
from time_jax.evals.ud.task import Ud
from time_jax.report.per_item import PerItem

# What is scored of a word; its form is the gold file's, and so are what words
# are written as one.
_SCORED = ("LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL")


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What comes of a comparison.

  Attributes:
    scores: metric -> percent, or None where it is undefined; what the
      annotated file lacks is absent.
    items: what each item adds to the scores; None: the files have different
      ones.
    by: counts of classes, for `report --by`; None: it has no such tables.
  """

  scores: Mapping[str, float | None]
  items: PerItem | None = None
  by: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Comparer:
  """What `score` needs to know of a task.

  Attributes:
    metrics: all its metrics, in the order of reports.
    packages: modules of optional packages that it needs.
    compare: (annotated file, gold file) -> the comparison; it raises UserError
      where a file is missing or malformed, or the two do not fit.
  """

  metrics: tuple[str, ...]
  packages: tuple[str, ...]
  compare: Callable[[Path, Path], Comparison]

  def load_libraries(self) -> None:
    """Raises UserError if a package is missing that is needed later."""
    for module in self.packages:
      load_package(module)


def _compare_trees(predicted: Path, gold: Path) -> Comparison:
  """Compares treebanks of the same words."""
  right, found = conllu.read(gold), conllu.read(predicted)
  _check_same_words(right, found)
  found = _on_gold_words(right, found)
  return Comparison(
    scoring.score(right, found),
    scoring.per_item(right, found),
    breakdown.count(right, found),
  )


def _compare_names(predicted: Path, gold: Path) -> Comparison:
  """Compares the names in the same words."""
  right, found = Ner.read(gold), Ner.read(predicted)
  _check_same_words(right, found)
  return Comparison(Ner.score(right, found), Ner.per_item(right, found))


def _compare_raw(predicted: Path, gold: Path) -> Comparison:
  """Compares treebanks of the same text, of any words."""
  right, found = conllu.read(gold), raw_scores.read(predicted)
  return Comparison(raw_scores.score(right, found))


COMPARERS = {
  "ud": Comparer(Ud.metrics, Ud.packages, _compare_trees),
  "ner": Comparer(Ner.metrics, Ner.packages, _compare_names),
  "raw": Comparer(raw_scores.METRICS, (UDTOOLS,), _compare_raw),
}


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
