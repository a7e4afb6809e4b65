"""The official scores of Universal Dependencies, by `udtools`."""

import gzip
import importlib
import io
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from time_jax.errors import UserError
from time_jax.evals.conllu import COLUMNS, Sentence, to_text

METRICS = (
  *("UPOS", "XPOS", "UFeats", "AllTags", "Lemmas"),
  *("UAS", "LAS", "CLAS", "MLAS", "BLEX"),
)


def score(
  gold: pathlib.Path, predicted: Iterable[Sentence]
) -> dict[str, float]:
  """F1 of every metric in percent, as CoNLL 2018 defines them.

  Tokenisation is the gold one, so F1 is the share of words that are right.

  Args:
    gold: the annotated file, plain or .gz.
    predicted: the same sentences with predicted columns.
  """
  library = load_scorer()
  opened = gzip.open if gold.suffix == ".gz" else open
  with opened(gold, "rt", encoding="utf-8-sig") as file:
    # It wants an empty line behind the last sentence.
    text = file.read().rstrip("\n") + "\n\n"
  try:
    found = library.evaluate(
      library.load_conllu(io.StringIO(text), str(gold), {}),
      library.load_conllu(io.StringIO(to_text(predicted)), "predicted", {}),
    )
  except library.UDError as error:
    raise UserError(f"udtools does not take {gold}: {error}") from error
  return {name: 100 * found[name].f1 for name in METRICS}


def compared(sentences: Iterable[Sentence]) -> Iterator[dict[str, str]]:
  """The columns of all words in the forms that udtools compares.

  Universal features alone, and relations without what follows a colon.
  """
  library = load_scorer()
  text = io.StringIO(to_text(sentences))
  for word in library.load_conllu(text, "sentences", {}).words:
    yield dict(zip(COLUMNS, word.columns, strict=True))


def load_scorer() -> Any:
  """Udtools' evaluation; UserError where it is not installed."""
  try:
    return importlib.import_module("udtools.udeval")
  except ImportError:
    raise UserError(
      "scores need the package udtools, which is not installed; try: pip "
      "install 'time-jax[eval]'."
    ) from None
