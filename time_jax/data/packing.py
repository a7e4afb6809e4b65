"""Windows of tokens to fixed-length rows with segment ids. Pure functions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pack(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
  """Distributes windows over as few rows as best-fit finds, none split.

  The longest windows go first, each into the fullest row that still has room:

    lengths [3, 5, 2, 6], seq_len 8  ->  [[3, 2], [1, 0]]
    (row 0 holds 6 + 2 tokens, row 1 holds 5 + 3 tokens)

  Sorting apart, the time is linear in the number of windows: rows are kept by
  their free room, and one integer has a bit set for each room that occurs.

  Args:
    lengths: number of tokens of each window, each from 1 to `seq_len`.
    seq_len: number of places in a row.

  Returns:
    For each row the indices of its windows, the longest first.
  """
  rows: list[list[int]] = []
  rows_by_room: list[list[int]] = [[] for _ in range(seq_len + 1)]
  rooms = 0
  for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
    length = lengths[index]
    assert 1 <= length <= seq_len, f"{length=} must be in 1..{seq_len}"
    fitting = rooms >> length
    if fitting:
      room = length + (fitting & -fitting).bit_length() - 1
      row = rows_by_room[room].pop()
      if not rows_by_room[room]:
        rooms &= ~(1 << room)
    else:
      room, row = seq_len, len(rows)
      rows.append([])
    rows[row].append(index)
    left = room - length
    rows_by_room[left].append(row)
    rooms |= 1 << left
  return rows


def lay_out(
  windows: Sequence[NDArray[np.int32]],
  rows: Sequence[Sequence[int]],
  *,
  seq_len: int,
  pad_id: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
  """Writes windows into rows, one after the other.

    windows [[7, 8], [9], [5, 6, 4]], rows [[2, 0], [1]], seq_len 6, pad_id 0

    tokens       5 6 4 7 8 0        segment_ids  1 1 1 2 2 0
                 9 0 0 0 0 0                     1 0 0 0 0 0

  Args:
    windows: token ids of each window.
    rows: for each row the indices of its windows, as `pack` returns them.
    seq_len: number of places in a row.
    pad_id: token id of the places that stay free.

  Returns:
    tokens and segment_ids, both int32 [rows, seq_len]; the segments of a row
    are numbered 1, 2, ... in order, and free places are segment 0.
  """
  tokens = np.full((len(rows), seq_len), pad_id, np.int32)
  segment_ids = np.zeros((len(rows), seq_len), np.int32)
  for row, indices in enumerate(rows):
    start = 0
    for segment, index in enumerate(indices, start=1):
      end = start + len(windows[index])
      tokens[row, start:end] = windows[index]
      segment_ids[row, start:end] = segment
      start = end
  return tokens, segment_ids
