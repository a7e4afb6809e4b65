"""Scores by `udtools`, the official evaluation of Universal Dependencies."""

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from time_jax.evals.common.packages import UDTOOLS, load_package
from time_jax.evals.common.text_lines import Problems
from time_jax.evals.ud.conllu import COLUMNS, Sentence, to_text
from time_jax.evals.ud.labels import NONE
from time_jax.report.per_item import Ratios

Right = dict[str, bool]  # metric -> whether it counts a word as right
COUNTED = ("UPOS", "UFeats", "Lemmas", "UAS", "LAS")
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
  both = load(gold, "gold"), load(predicted, "predicted")
  scores = load_package(UDTOOLS).evaluate(*both)
  return {name: 100 * scores[name].f1 for name in METRICS}


def right(gold: Mapping[str, str], predicted: Mapping[str, str]) -> Right:
  """Returns which metrics count a word as right.

  Args:
    gold: columns of a word, as `compared` yields them.
    predicted: those of the same word as predicted.
  """
  same = {name: gold[name] == predicted[name] for name in gold}
  return {
    "UPOS": same["UPOS"],
    "UFeats": same["FEATS"],
    "Lemmas": same["LEMMA"] or gold["LEMMA"] == NONE,
    "UAS": same["HEAD"],
    "LAS": same["HEAD"] and same["DEPREL"],
  }


def per_item(
  gold: Sequence[Sentence], predicted: Sequence[Sentence]
) -> dict[str, Ratios]:
  """Returns the right words and all words of every sentence, see `Ratios`.

  Args:
    gold: the annotated sentences.
    predicted: the same sentences with predicted columns.
  """
  pairs = zip(compared(gold), compared(predicted), strict=True)
  found = (right(word, guess) for word, guess in pairs)
  sentences = [list(itertools.islice(found, len(s.words))) for s in gold]
  sizes = [len(words) for words in sentences]
  return {
    name: Ratios([sum(word[name] for word in own) for own in sentences], sizes)
    for name in COUNTED
  }


def check(gold: Iterable[Sentence]) -> None:
  """Raises UserError for up to ten sentences that udtools refuses.

  It reads what nothing else here does, such as DEPS; a run would notice only
  when it is scored.
  """
  problems = Problems()
  for sentence in gold:
    try:
      load([sentence], sentence.name)
    # For malformed columns it raises what Python does.
    except (load_package(UDTOOLS).UDError, ValueError, IndexError) as error:
      problems.add(
        f"{sentence.name}:{sentence.numbers[0]}: udtools, which scores, does "
        f"not take the sentence that begins here: {error}. Expected UD's "
        "format in every column, also in DEPS (HEAD:DEPREL|...)."
      )
    except RecursionError:
      problems.add(
        f"{sentence.name}:{sentence.numbers[0]}: the sentence that begins here "
        f"has {len(sentence.words):,} words, in a tree that is too deep for "
        "udtools, which scores. Expected shorter sentences: split it."
      )
  problems.raise_all()


def compared(sentences: Iterable[Sentence]) -> Iterator[dict[str, str]]:
  """Yields the columns of each word in the forms that udtools compares.

  These are universal features alone, and relations without their subtypes.
  """
  for word in load(sentences, "sentences").words:
    yield dict(zip(COLUMNS, word.columns, strict=True))


def load(sentences: Iterable[Sentence], name: str) -> Any:
  """Returns sentences as udtools has them; see `check` for what it refuses.

  Args:
    sentences: sentences with one tree each.
    name: what its own messages call them.
  """
  text = io.StringIO(to_text(sentences))
  return load_package(UDTOOLS).load_conllu(text, name, {})
