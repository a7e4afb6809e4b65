"""Cuts text into atoms. No token can be told that begins within one.

An atom is a run of letters, a run of digits, or any other character but a
space; of scripts that are written without spaces, such as Han or Thai, each
letter is one. Whether it begins a token is for a model to say. Subwords would
not do: some reach from one token into the next one, as `).` in many
vocabularies. `inner_tokens` counts what is lost, such as `not` of `cannot`.
"""

import functools
import re
import sys
import unicodedata
from typing import NamedTuple

# Letters of scripts without spaces between words, as ranges of a pattern.
_UNSPACED = (
  "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao; Myanmar; Khmer
  "\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar's extensions
  "\u3005-\u3007\u3021-\u3029\u3031-\u303c"  # signs that stand among Han
  "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
  "\u3041-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
  "\uff66-\uff9f\U0001aff0-\U0001b16f"  # Katakana of half width, and rare Kana
)


class Atom(NamedTuple):
  """Where an atom is: text[start:stop]."""

  start: int
  stop: int


def find_atoms(text: str) -> list[Atom]:
  """Returns the atoms of a text in their order."""
  return [Atom(*match.span()) for match in _pattern().finditer(text)]


@functools.cache
def _pattern() -> re.Pattern[str]:
  """Returns the pattern; marks belong to letters, such as a vowel sign's."""
  marks = re.escape(
    "".join(
      chr(code)
      for code in range(sys.maxunicode + 1)
      if unicodedata.category(chr(code)).startswith("M")
    )
  )
  letters = rf"(?:[^\W\d_{_UNSPACED}]+|[{marks}]+)+"
  return re.compile(rf"{letters}|\d+|(?!\W)[{_UNSPACED}][{marks}]*|\S")
