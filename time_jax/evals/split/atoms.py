"""Cuts text into atoms, which no token of a treebank is smaller than.

An atom is a run of letters, a run of digits, or any other character but a
space. Whether it begins a token is for a model to say. Subwords would not do:
some reach from one token into the next one, as `).` in many vocabularies.
"""

import functools
import re
import sys
import unicodedata
from typing import NamedTuple


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
  return re.compile(rf"(?:[^\W\d_]|[{marks}])+|\d+|\S")
