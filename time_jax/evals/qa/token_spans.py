"""Lengthens the spans of tokens to whole characters of the text.

A normalizer may write several characters of the text as one: the three letters
of a decomposed Hangul syllable, or a letter and its accent. The tokenizer then
says that the token ends after the first of them, and what is cut out there is
half a character. Other normalizers drop the accents, with the same outcome.
"""

import functools
import unicodedata

import numpy as np
import tokenizers
from jaxtyping import Int

# ZWNJ and ZWJ shape the letter before them; tags make a flag of one.
_JOINERS = frozenset(["\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))])


def whole_characters(
  text: str,
  spans: Int[np.ndarray, "n 2"],
  normalizer: tokenizers.normalizers.Normalizer | None,
) -> Int[np.ndarray, "n 2"]:
  """Lengthens spans to whole characters, as readers see them.

  A span only takes characters that belong to no token: where a tokenizer has a
  token for an accent, the span before it may end without it.

  Args:
    text: the text that was tokenised.
    spans: where each token starts and stops, in characters.
    normalizer: normalizer of the tokenizer.

  Returns:
    The spans; their starts are as before, and some stop later.
  """
  # One more than there are characters: nothing after the text is free.
  changes = np.zeros(len(text) + 2, np.int32)
  np.add.at(changes, spans[:, 0], 1)
  np.add.at(changes, spans[:, 1], -1)
  free = np.cumsum(changes[:-1]) == 0
  free[-1] = False
  lengthened = spans.copy()
  for i in np.flatnonzero(free[spans[:, 1]]):
    start, stop = map(int, spans[i])
    while free[stop] and _continues(text[start:stop], text[stop]):
      stop += 1
    lengthened[i, 1] = stop
  # Tokens of a byte-level tokenizer may share a character. If the second one
  # reaches beyond it, the characters that follow look taken, although the
  # normalizer has made them part of the shared one.
  shared = spans[1:, 0] < spans[:-1, 1]
  for i in np.flatnonzero(shared & (spans[1:, 1] > spans[:-1, 1])):
    last, stop = int(spans[i, 1]) - 1, int(spans[i, 1])
    while stop < len(text) and _continues(text[last:stop], text[stop]):
      stop += 1
    if normalizer and stop > last + 1:
      lengthened[i, 1] = last + _source_of_first(text[last:stop], normalizer)
  # Tokens that end with the same character stop at the same place.
  for i in np.flatnonzero(spans[1:, 1] == spans[:-1, 1])[::-1]:
    lengthened[i, 1] = lengthened[i + 1, 1]
  return lengthened


@functools.lru_cache(1 << 12)
def _source_of_first(
  text: str, normalizer: tokenizers.normalizers.Normalizer
) -> int:
  """Returns how many characters the first normalized one stands for."""
  pieces = tokenizers.PreTokenizedString(text)
  pieces.normalize(normalizer.normalize)
  each = tokenizers.Regex(r"[\s\S]")
  pieces.split(lambda _, piece: piece.split(each, "isolated"))
  starts = [span[0] for _, span, _ in pieces.get_splits("original", "char")]
  return min((start for start in starts if start > 0), default=len(text))


def _continues(before: str, character: str) -> bool:
  """Returns whether readers see a character as part of the one before it."""
  if character in _JOINERS or unicodedata.category(character)[0] == "M":
    return True
  if character.isspace() or character.isascii():
    return False
  # Vowels and finals of Hangul, and the voicing of half-width kana.
  both, *alone = (
    unicodedata.normalize("NFKC", part)
    for part in (before + character, before, character)
  )
  return both != "".join(alone)
