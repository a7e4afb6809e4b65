"""Bytes and lines of packed files, wherever they are cut or damaged."""

import gzip

import pytest
import zstandard

from time_jax.data import compressed

PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("size", [1, 3, 100])
def test_lines_do_not_depend_on_where_chunks_are_cut(size):
  content = b"one\n\ntwo\r\nlast"
  chunks = [content[i : i + size] for i in range(0, len(content), size)]
  lines = [b"one", b"", b"two\r", b"last"]
  assert list(compressed.split_lines(chunks)) == lines
  assert list(compressed.split_lines([*chunks, b"\n"])) == lines
  assert list(compressed.split_lines([])) == []


@pytest.mark.parametrize("ending", PACKERS)
def test_content_comes_back(tmp_path, ending):
  content = bytes(range(256)) * 9000  # Longer than a chunk.
  path = tmp_path / f"a{ending}"
  path.write_bytes(PACKERS[ending](content))
  assert b"".join(compressed.chunks(path)) == content
  assert compressed.unpacked(path) == content


@pytest.mark.parametrize("ending", compressed.ENDINGS)
def test_what_comes_before_damage_is_handed_out(tmp_path, ending):
  content = b"".join(b"%d\n" % (i**5) for i in range(200_000))
  path = tmp_path / f"a{ending}"
  packed = PACKERS[ending](content)
  path.write_bytes(packed[: len(packed) // 2])
  read = b""
  with pytest.raises(compressed.DAMAGED):
    for chunk in compressed.chunks(path):
      read += chunk
  assert len(read) > len(content) // 4 and content.startswith(read)
