"""Packs examples into rows by their tokens and their words.

The rows of text in `data.packing` are packed by tokens alone, and all have one
length.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass
class Row:
  """A row of a batch before it is written.

  Attributes:
    tokens: how many tokens fit into it.
    words: how many words fit into it.
    numbers: the examples in it, by number.
  """

  tokens: int
  words: int
  numbers: list[int]


def pack(
  sizes: Int[np.ndarray, " n"],
  words: Int[np.ndarray, " n"],
  open_row: Callable[[int, int], tuple[int, int]],
) -> list[Row]:
  """Packs examples into few rows: the longest first, each where it fits best.

  Best-fit decreasing; of rows that an example fills equally well it takes the
  first.

  Args:
    sizes: tokens of each example.
    words: words of each example.
    open_row: (tokens, words) of an example that fits into no row so far -> the
      tokens and words that fit into a new row for it, which are no fewer.

  Returns:
    The rows, in the order in which they were opened.
  """
  rows: list[Row] = []
  free_tokens, free_words = np.zeros((2, len(sizes)), np.int64)
  for i in np.argsort(-sizes, kind="stable").tolist():
    size, count, opened = int(sizes[i]), int(words[i]), len(rows)
    fits = free_tokens[:opened] >= size
    fits &= free_words[:opened] >= count
    if fits.any():
      which = np.where(fits, free_tokens[:opened], np.iinfo(np.int64).max)
      row = int(which.argmin())
    else:
      row = opened
      rows.append(Row(*open_row(size, count), []))
      free_tokens[row], free_words[row] = rows[row].tokens, rows[row].words
    rows[row].numbers.append(i)
    free_tokens[row] -= size
    free_words[row] -= count
  return rows
