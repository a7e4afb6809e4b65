"""Scores by `udtools`, the official evaluation of Universal Dependencies."""

import io
from collections.abc import Iterable, Iterator
from typing import Any

from time_jax.evals.common.packages import UDTOOLS, load_package
from time_jax.evals.common.text_lines import Problems
from time_jax.evals.ud.conllu import COLUMNS, Sentence, to_text

METRICS = (
  *("UPOS", "XPOS", "UFeats", "AllTags", "Lemmas"),
  *("UAS", "LAS", "CLAS", "MLAS", "BLEX"),
)


def score(
  gold: Iterable[Sentence], predicted: Iterable[Sentence]
) -> dict[str, float]:
  """Returns F1 of every metric in percent, as CoNLL 2018 defines them.

  Tokenisation is the gold one, so F1 is the share of words that are right.

  Args:
    gold: the annotated sentences; see `check`.
    predicted: the same sentences with predicted columns.
  """
  both = _load(gold, "gold"), _load(predicted, "predicted")
  scores = load_package(UDTOOLS).evaluate(*both)
  return {name: 100 * scores[name].f1 for name in METRICS}


def check(gold: Iterable[Sentence]) -> None:
  """Raises UserError for up to ten sentences that udtools refuses.

  It reads what nothing else here does, such as DEPS; a run would notice only
  when it is scored.
  """
  problems = Problems()
  for sentence in gold:
    try:
      _load([sentence], sentence.name)
    # For malformed columns it raises what Python does.
    except (load_package(UDTOOLS).UDError, ValueError, IndexError) as error:
      problems.add(
        f"{sentence.name}:{sentence.numbers[0]}: udtools, which scores, does "
        f"not take the sentence that begins here: {error}. Expected UD's "
        "format in every column, also in DEPS (HEAD:DEPREL|...)."
      )
  problems.raise_all()


def compared(sentences: Iterable[Sentence]) -> Iterator[dict[str, str]]:
  """Yields the columns of each word in the forms that udtools compares.

  These are universal features alone, and relations without their subtypes.
  """
  for word in _load(sentences, "sentences").words:
    yield dict(zip(COLUMNS, word.columns, strict=True))


def _load(sentences: Iterable[Sentence], name: str) -> Any:
  text = io.StringIO(to_text(sentences))
  return load_package(UDTOOLS).load_conllu(text, name, {})
