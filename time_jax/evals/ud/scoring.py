"""The official scores of Universal Dependencies, by `udtools`."""

import importlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

from time_jax.core.errors import UserError
from time_jax.evals.common.lines import Problems
from time_jax.evals.ud.conllu import COLUMNS, Sentence, to_text

METRICS = (
  *("UPOS", "XPOS", "UFeats", "AllTags", "Lemmas"),
  *("UAS", "LAS", "CLAS", "MLAS", "BLEX"),
)


def score(
  gold: Iterable[Sentence], predicted: Iterable[Sentence]
) -> dict[str, float]:
  """F1 of every metric in percent, as CoNLL 2018 defines them.

  Tokenisation is the gold one, so F1 is the share of words that are right.

  Args:
    gold: the annotated sentences; see `check`.
    predicted: the same sentences with predicted columns.
  """
  both = _load(gold, "gold"), _load(predicted, "predicted")
  found = load_scorer().evaluate(*both)
  return {name: 100 * found[name].f1 for name in METRICS}


def check(gold: Iterable[Sentence]) -> None:
  """UserError where udtools does not take a sentence, ten at most.

  It looks at what nothing else here does, such as DEPS; a run would notice
  only when it is scored.
  """
  problems = Problems()
  for sentence in gold:
    with problems:
      try:
        _load([sentence], sentence.name)
      # Of columns that are none it raises what Python does.
      except (load_scorer().UDError, ValueError, IndexError) as error:
        raise UserError(
          f"{sentence.name}:{sentence.numbers[0]}: udtools, which scores, does "
          f"not take the sentence that begins here: {error}. Expected UD's "
          "format in every column, also in DEPS (HEAD:DEPREL|...)."
        ) from error
  problems.raise_them()


def compared(sentences: Iterable[Sentence]) -> Iterator[dict[str, str]]:
  """The columns of all words in the forms that udtools compares.

  Universal features alone, and relations without what follows a colon.
  """
  for word in _load(sentences, "sentences").words:
    yield dict(zip(COLUMNS, word.columns, strict=True))


def _load(sentences: Iterable[Sentence], name: str) -> Any:
  text = io.StringIO(to_text(sentences))
  return load_scorer().load_conllu(text, name, {})


def load_scorer() -> Any:
  """Udtools' evaluation; UserError where it is not installed."""
  try:
    return importlib.import_module("udtools.udeval")
  except ImportError:
    raise UserError(
      "scores need the package udtools, which is not installed; try: pip "
      "install -e '.[eval]' in the repository."
    ) from None
