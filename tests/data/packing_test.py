"""Pieces are packed whole, once each, into few rows."""

import time

import numpy as np
import pytest

from time_jax.data import packing


def test_pack_example() -> None:
  assert packing.pack([3, 5, 2, 6], 8) == [[3, 2], [1, 0]]


def test_pack_takes_the_fullest_row_that_has_room() -> None:
  # 5 leaves room for 3, 4 opens a row with room for 4; 3 must go to the 5.
  assert packing.pack([5, 4, 3], 8) == [[0, 2], [1]]


@pytest.mark.parametrize("seed", range(5))
def test_pack_places_every_piece_once(seed: int) -> None:
  random = np.random.default_rng(seed)
  seq_len = int(random.integers(1, 100))
  lengths = random.integers(1, seq_len + 1, size=500).tolist()
  rows = packing.pack(lengths, seq_len)
  assert sorted(index for row in rows for index in row) == list(range(500))
  assert all(sum(lengths[i] for i in row) <= seq_len for row in rows)
  # Two rows that would fit into one contradict best fit.
  loads = sorted(sum(lengths[i] for i in row) for row in rows)
  assert len(loads) < 2 or loads[0] + loads[1] > seq_len


def test_pack_of_nothing_and_of_full_pieces() -> None:
  assert packing.pack([], 8) == []
  assert packing.pack([8, 8], 8) == [[0], [1]]
  assert packing.pack([1] * 6, 3) == [[0, 1, 2], [3, 4, 5]]


def test_pack_is_fast_and_dense() -> None:
  random = np.random.default_rng(0)
  lengths = np.minimum(random.geometric(0.005, size=100_000), 512).tolist()
  start = time.perf_counter()
  rows = packing.pack(lengths, 512)
  assert time.perf_counter() - start < 5  # A quadratic search takes minutes.
  assert sum(lengths) / (len(rows) * 512) > 0.99


def test_pack_refuses_pieces_that_cannot_fit() -> None:
  for length in (0, 9):
    with pytest.raises(AssertionError):
      packing.pack([length], 8)


def test_lay_out() -> None:
  pieces = [np.array(p, np.int32) for p in ([7, 8], [9], [5, 6, 4])]
  tokens, segment_ids = packing.lay_out(
    pieces, [[2, 0], [1]], seq_len=6, pad_id=1
  )
  assert tokens.tolist() == [[5, 6, 4, 7, 8, 1], [9, 1, 1, 1, 1, 1]]
  assert segment_ids.tolist() == [[1, 1, 1, 2, 2, 0], [1, 0, 0, 0, 0, 0]]
  assert tokens.dtype == segment_ids.dtype == np.int32
  tokens, segment_ids = packing.lay_out([], [], seq_len=6, pad_id=1)
  assert tokens.shape == segment_ids.shape == (0, 6)
