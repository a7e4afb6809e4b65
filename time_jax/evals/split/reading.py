"""A text as atoms, and the windows in which an encoder reads them."""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from time_jax.evals.common.word_tokens import Chunk, Labels
from time_jax.evals.split.atoms import Atom, find_atoms

# Atoms that are decided together, and those on either side that are read, too.
STEP, CONTEXT = 128, 32
GAPS = 4  # see `Reading.gaps`


class Window(NamedTuple):
  """Atoms that are read together.

  Attributes:
    start: the first of them.
    stop: the one after the last.
    decided: those whose classes are taken from this window.
  """

  start: int
  stop: int
  decided: slice


class Reading:
  """A text that is to be split.

  Attributes:
    text: the text.
    atoms: its atoms.
    windows: windows of them, which decide each of them once.
  """

  def __init__(self, text: str) -> None:
    """Finds the atoms of a text."""
    self.text = text
    self.atoms: Sequence[Atom] = find_atoms(text)
    self.windows = [*_windows(len(self.atoms))]

  @functools.cached_property
  def gaps(self) -> Int[np.ndarray, " atoms"]:
    """Of each atom: 2 if spaces stand before it, + 1 if after it.

    The ends of a text are spaces.
    """
    spans = np.array(self.atoms, np.int64).reshape(-1, 2)
    between = spans[1:, 0] > spans[:-1, 1]
    before, after = np.r_[True, between], np.r_[between, True]
    return (2 * before + after)[: len(self.atoms)]

  def forms(self, start: int, stop: int) -> list[str]:
    """Returns some of the atoms as they stand in the text."""
    return [self.text[a.start : a.stop] for a in self.atoms[start:stop]]


def forms_of_windows(readings: Iterable[Reading]) -> list[list[str]]:
  """Returns the atoms of all windows of texts, window by window."""
  return [
    reading.forms(window.start, window.stop)
    for reading in readings
    for window in reading.windows
  ]


def _windows(count: int) -> Iterable[Window]:
  for start in range(0, count, STEP):
    stop = min(start + STEP, count)
    around = max(start - CONTEXT, 0), min(stop + CONTEXT, count)
    yield Window(*around, slice(start, stop))


def join(
  readings: Sequence[Reading], labeled: Iterable[tuple[Chunk, Labels]]
) -> list[dict[str, np.ndarray]]:
  """Returns the labels of all atoms of each text.

  Args:
    readings: the texts.
    labeled: the chunks of all their windows, in order, each with its labels.
  """
  by_window: dict[int, list[Labels]] = {}
  for chunk, labels in labeled:
    by_window.setdefault(chunk.sentence, []).append(labels)
  parts = iter(by_window.values())
  return [
    _join([_decided(w, next(parts)) for w in reading.windows])
    for reading in readings
  ]


def _join(parts: Sequence[Labels]) -> dict[str, np.ndarray]:
  names = parts[0] if parts else ()
  return {
    name: np.concatenate([some[name] for some in parts]) for name in names
  }


def _decided(window: Window, parts: Sequence[Labels]) -> Labels:
  start, stop = window.decided.start - window.start, window.decided.stop
  place = slice(start, stop - window.start)
  return {name: x[place] for name, x in _join(parts).items()}
