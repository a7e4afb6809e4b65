"""A row as tf.train.Example, the record that TensorFlow Datasets reads.

Written here by the rules of protocol buffers, for two reasons: TFDS's own
serializer leaves the order of the features to chance, and importing TFDS takes
longer than all else that a worker process needs to start.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

FEATURES = ("tokens", "segment_ids")


def serialize(row: Mapping[str, NDArray[np.int32]]) -> bytes:
  """Returns an Example that holds each feature as one string of bytes.

  Equal rows give equal bytes.

  Args:
    row: feature -> its values.
  """
  # message Example { Features features = 1; }
  # message Features { map<string, Feature> feature = 1; }
  # message Feature { oneof kind { BytesList bytes_list = 1; ... } }
  # message BytesList { repeated bytes value = 1; }
  entries = [
    # A map is a list of entries { key = 1; value = 2; }.
    _field(1, _field(1, name.encode()) + _field(2, _field(1, _field(1, data))))
    for name, data in (
      (name, row[name].astype("<i4").tobytes()) for name in sorted(row)
    )
  ]
  return _field(1, b"".join(entries))


def _field(number: int, content: bytes) -> bytes:
  """A field of bytes: its number and wire type 2, its length, its content."""
  return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
  """Seven bits a byte, the lowest first; all but the last have bit 8 set."""
  parts = bytearray()
  while value > 0x7F:
    parts.append(value & 0x7F | 0x80)
    value >>= 7
  parts.append(value)
  return bytes(parts)
