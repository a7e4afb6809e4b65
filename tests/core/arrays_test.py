import numpy as np

from time_jax.core.arrays import checksum, count_positions, make_batch


def test_positions_restart_in_every_document_and_skip_padding():
  segments = np.array(
    [
      [0, 1, 1, 1, 2, 2, 0, 2],
      [1, 1, 0, 1, 0, 0, 2, 3],
      [0, 0, 0, 0, 0, 0, 0, 0],
    ]
  )
  expected = [
    [0, 0, 1, 2, 0, 1, 0, 2],
    [0, 1, 0, 2, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0],
  ]
  np.testing.assert_array_equal(count_positions(segments), expected)


def test_checksum_tells_batches_apart_but_not_orders_of_rows():
  random = np.random.default_rng(0)
  tokens = random.integers(100, size=(4, 16))
  segments = np.ones_like(tokens)
  one = checksum(make_batch(tokens, segments))
  assert one == checksum(make_batch(tokens[::-1], segments))
  swapped = tokens.copy()
  swapped[0, :2] = swapped[0, 1::-1]
  other = tokens.copy()
  other[3, 15] += 1
  split = segments.copy()
  split[1, 8:] = 2
  for batch in (
    make_batch(swapped, segments),
    make_batch(other, segments),
    make_batch(tokens, split),
  ):
    assert one != checksum(batch)
