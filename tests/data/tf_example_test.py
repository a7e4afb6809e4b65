"""Our records are tf.train.Example, as its own parser reads them."""

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from time_jax.data import tf_example


@pytest.mark.parametrize("length", [0, 1, 31, 32, 512, 8192])
def test_protocol_buffers_read_the_same_values(length: int) -> None:
  row = {
    name: np.random.default_rng(0).integers(2**31, size=length, dtype=np.int32)
    for name in tf_example.FEATURES
  }
  data = tf_example.serialize(row)
  example = tf_example_pb2.Example.FromString(data)
  assert set(example.features.feature) == set(row)
  for name, values in row.items():
    [found] = example.features.feature[name].bytes_list.value
    np.testing.assert_array_equal(np.frombuffer(found, "<i4"), values)
  assert data == tf_example.serialize(dict(reversed(row.items())))
  assert data == example.SerializeToString(deterministic=True)
