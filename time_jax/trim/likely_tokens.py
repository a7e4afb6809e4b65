"""The order in which tokens that a text does not show are likely in others.

How often a token is to be expected in text of a language follows from how
often it was in the text that the tokenizer was trained on, which was of many
languages, by Bayes' theorem:

  p(token | language) ~ p(token) p(characters | language) / p(characters)

Both probabilities of characters are those of a model that knows the four before
each: of the tokens as this text has them, and of all tokens as the tokenizer
has them.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from time_jax.trim.vocabulary import Vocabulary

_LONGEST = 5  # characters of an n-gram


def by_expected_use(
  vocabulary: Vocabulary, tokens: NDArray[np.int64], candidates: Iterable[int]
) -> list[int]:
  """Sorts tokens by how often other text of the language is to have them.

  Args:
    vocabulary: all tokens.
    tokens: how often each id occurs in text of the language [V].
    candidates: ids of the tokens to sort, none of them `vocabulary.fixed`.

  Returns:
    The candidates, the most likely first, equal ones by their ids.
  """
  ids = np.array(sorted(vocabulary.tokens.keys() - vocabulary.fixed), np.int64)
  texts = [vocabulary.spelling(i) for i in ids.tolist()]
  prior = np.array([vocabulary.log_probability(i) for i in ids.tolist()])
  # SentencePiece gives pieces that users defined 0, which is no probability.
  prior = np.where(prior < 0, prior, -np.inf)
  here, everywhere = tokens[ids], np.exp(prior)
  # As many as there are here: rare contexts count as rare in both.
  everywhere *= here.sum() / max(everywhere.sum(), np.finfo(float).tiny)
  ratio = log_probabilities(texts, here) - log_probabilities(texts, everywhere)
  expected = dict(zip(ids.tolist(), prior + ratio, strict=True))
  return sorted(candidates, key=lambda i: (-expected[i], i))


def log_probabilities(
  texts: Sequence[str], weights: NDArray[np.number]
) -> NDArray[np.float64]:
  """Returns logarithms of texts' probabilities, learnt from the same texts.

  The probability of a character after those before it is interpolated between
  contexts of all lengths as Witten and Bell do (1991, "The zero-frequency
  problem", method C): a context that was followed by k different characters
  leaves k / (n + k) of its n occurrences to the context that is one shorter;
  the shortest one leaves it to all characters alike. The end of a text counts
  for nothing, so that a token's parts are not less likely than the token.

  Args:
    texts: the texts [n].
    weights: how often each occurs, 0 or more [n].
  """
  lengths = np.array([len(text) for text in texts], np.int64)
  codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
  alphabet, characters = np.unique(codes, return_inverse=True)
  text_of = np.repeat(np.arange(len(texts)), lengths)
  place = np.arange(len(codes)) - np.repeat(lengths.cumsum() - lengths, lengths)
  weight = np.repeat(weights, lengths).astype(np.float64)
  probability = np.full(len(codes), 1 / max(len(alphabet), 1))
  context = np.zeros(len(codes), np.int64)  # A number for each, from 0 on.
  for length in range(_LONGEST):
    here = np.flatnonzero(place >= length)
    before = context[here]
    grams, gram = np.unique(
      before * len(alphabet) + characters[here], return_inverse=True
    )
    count = np.bincount(gram, weight[here])
    total = np.bincount(before, weight[here])
    kinds = np.bincount(grams // max(len(alphabet), 1), count > 0)
    shorter = kinds[before] * probability[here]
    known = total[before] > 0
    probability[here[known]] = (count[gram] + shorter)[known] / (total + kinds)[
      before
    ][known]
    # The context of the next character is what has just been read.
    context[here[here + 1 < len(codes)] + 1] = gram[here + 1 < len(codes)]
  sums = np.bincount(text_of, np.log(probability), len(texts))
  return sums.astype(np.float64)  # They are integers where there are no texts.
