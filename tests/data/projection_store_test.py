"""Projections on disk: what was written comes back, or does not count."""

import errno
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
import zlib

import ml_dtypes
import numpy as np
import pytest

from time_jax.core.errors import UserError
from time_jax.data import projection_store
from time_jax.data.projection_store import ProjectionStore, record_size

SHAPES = {"query": (4, 6), "key": (4, 6), "value": (4, 10)}
IDENTITY = {"teacher": "abc", "layer": 2}
FLOAT32 = np.dtype("float32")
SIZE = 4 * 22 * 4 + 8


def contents(indices, dtype=FLOAT32):
  """What the rows are to hold: all bits, so NaN and -0 are among them."""
  return {
    name: np.stack(
      [
        np.random.default_rng((i, place))
        .integers(256, size=(shape[0], shape[1] * dtype.itemsize))
        .astype(np.uint8)
        .view(dtype)
        for i in indices
      ]
    )
    for place, (name, shape) in enumerate(SHAPES.items())
  }


@pytest.fixture
def open_store(tmp_path):
  opened = []

  def make(folder=tmp_path / "cache", dtype=FLOAT32, kept=100, **identity):
    store = ProjectionStore(folder, IDENTITY | identity, SHAPES, dtype, kept)
    opened.append(store)
    return store

  yield make
  for store in opened:
    store.close()


def file_of(folder):
  (path,) = (folder / "cache").glob("*/rows.bin")
  return path


def check(store, indices, there, dtype=FLOAT32):
  arrays, hits = store.read(indices)
  np.testing.assert_array_equal(hits, there)
  wanted = contents(indices, dtype)
  assert set(arrays) == set(SHAPES)
  for name, found in arrays.items():
    assert found.dtype == dtype
    assert found.shape == wanted[name].shape
    assert found[hits].tobytes() == wanted[name][hits].tobytes()


@pytest.mark.parametrize("dtype", [FLOAT32, np.dtype(ml_dtypes.bfloat16)])
def test_what_is_written_is_read_bit_by_bit(open_store, dtype):
  store = open_store(dtype=dtype)
  check(store, [3, 0, 99], [False] * 3, dtype)
  store.write([7, 3, 99], contents([7, 3, 99], dtype))
  check(store, [3, 0, 99, 3, 7], [True, False, True, True, True], dtype)
  check(open_store(dtype=dtype), [99, 2, 7], [True, False, True], dtype)
  assert store.read([])[1].shape == (0,)


def test_a_row_takes_what_it_was_said_to(open_store, tmp_path):
  assert record_size(SHAPES, FLOAT32) == SIZE
  open_store().write([0, 1, 2], contents([0, 1, 2]))
  assert file_of(tmp_path).stat().st_size == 3 * SIZE


def test_what_was_never_written_does_not_count(open_store, tmp_path):
  store = open_store()
  store.write([50], contents([50]))  # All before it are zeros now.
  check(store, range(60), np.arange(60) == 50)


def test_zeros_do_not_count_even_if_that_is_their_checksum(
  open_store, monkeypatch
):
  monkeypatch.setattr(zlib, "crc32", lambda *content: 0)
  store = open_store()
  store.write([1], contents([1]))
  check(store, [0, 1], [False, True])


def test_rows_without_a_place_are_not_kept(open_store, tmp_path):
  store = open_store(kept=5)
  store.write(range(8), contents(range(8)))
  check(store, range(8), np.arange(8) < 5)
  assert file_of(tmp_path).stat().st_size == 5 * SIZE
  open_store(kept=8).write([7], contents([7]))
  check(store, [4, 7], [True, False])  # The limit holds for reading, too.
  check(open_store(kept=8), [4, 6, 7], [True, False, True])


@pytest.mark.parametrize("place", [0, 130, 200, 340, SIZE - 8, SIZE - 1])
def test_a_changed_byte_costs_its_row_alone(open_store, tmp_path, place):
  store = open_store()
  store.write([0, 1, 2], contents([0, 1, 2]))
  with file_of(tmp_path).open("r+b") as file:
    file.seek(SIZE + place)
    byte = file.read(1)[0]
    file.seek(SIZE + place)
    file.write(bytes([byte ^ 4]))
  check(store, [0, 1, 2], [True, False, True])
  store.write([1], contents([1]))
  check(store, [0, 1, 2], [True, True, True])


def test_a_file_that_is_cut_off_keeps_its_whole_records(open_store, tmp_path):
  store = open_store()
  store.write([0, 1, 2], contents([0, 1, 2]))
  os.truncate(file_of(tmp_path), 2 * SIZE - 3)
  check(store, [0, 1, 2], [True, False, False])


def test_a_record_counts_in_its_own_place_and_file_only(open_store, tmp_path):
  store = open_store()
  store.write([0, 1], contents([0, 1]))
  path = file_of(tmp_path)
  first = path.read_bytes()[:SIZE]
  other = open_store(layer=3)
  (its_path,) = set((tmp_path / "cache").glob("*/rows.bin")) - {path}
  its_path.write_bytes(first)
  check(other, [0], [False])
  path.write_bytes(first + first)
  check(store, [0, 1], [True, False])


def test_another_teacher_layer_or_form_has_a_store_of_its_own(open_store):
  open_store().write([0], contents([0]))
  check(open_store(teacher="abd"), [0], [False])
  check(open_store(layer=3), [0], [False])
  bfloat16 = np.dtype(ml_dtypes.bfloat16)
  check(open_store(dtype=bfloat16), [0], [False], bfloat16)
  check(open_store(), [0], [True])


def test_the_order_of_projections_does_not_matter(open_store, tmp_path):
  open_store().write([0], contents([0]))
  turned = dict(reversed(SHAPES.items()))
  store = ProjectionStore(tmp_path / "cache", IDENTITY, turned, FLOAT32, 9)
  check(store, [0], [True])
  store.write([1], dict(reversed(contents([1]).items())))
  store.close()
  check(open_store(), [0, 1], [True, True])


def test_an_identity_that_differs_is_refused(open_store, tmp_path):
  open_store().write([0], contents([0]))
  path = file_of(tmp_path).with_name("identity.json")
  text = path.read_text()
  assert '"layer": 2' in text
  path.write_text(text.replace('"layer": 2', '"layer": 3'))
  with pytest.raises(UserError, match=r"identity.json does not say .* Delete"):
    open_store()
  for damaged in ("", text[: len(text) // 2], "\xff"):
    path.write_text(damaged, encoding="latin-1")
    check(open_store(), [0], [True])
    assert path.read_text() == text
  assert len(list(path.parent.iterdir())) == 2


def test_a_folder_that_cannot_be_written_to_is_refused(open_store, tmp_path):
  (tmp_path / "cache").write_text("a file")
  with pytest.raises(UserError, match=r"teacher.cache: .* cannot be written"):
    open_store()


def test_a_store_that_may_only_be_read_is_read(open_store, monkeypatch, capsys):
  open_store().write([3], contents([3]))
  open_file = os.open

  def refuse(path, flags, *more):
    if flags & os.O_RDWR:
      raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    return open_file(path, flags, *more)

  monkeypatch.setattr(projection_store.os, "open", refuse)
  store = open_store()
  store.write([4], contents([4]))
  check(store, [3, 4], [True, False])
  assert capsys.readouterr() == ("", "")


CHILD = """
import pathlib, sys
sys.path[:0] = {paths!r}
import projection_store_test as test
from time_jax.data.projection_store import ProjectionStore
store = ProjectionStore(
  pathlib.Path({folder!r}), test.IDENTITY, test.SHAPES, test.FLOAT32, 10**6
)
rows = {rows!r}
data = test.contents(rows)
print("ready", flush=True)
"""
FOREVER = "while True: store.write(rows, data)"
SLOWLY = """
import time
for i in rows:
  store.write([i], {k: v[i : i + 1] for k, v in data.items()})
  time.sleep(0.0005)
"""


@pytest.fixture
def child(tmp_path):
  """Starts processes that have a store open, `rows` and their `data`."""
  started = []

  def start(code, rows=range(40)):
    here = pathlib.Path(__file__).parent
    paths = [str(here), *sys.path]
    head = CHILD.format(paths=paths, folder=str(tmp_path / "cache"), rows=rows)
    process = subprocess.Popen(
      [sys.executable, "-c", head + code],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.communicate()


def test_processes_write_and_read_at_once(open_store, child, tmp_path):
  writers = [child(FOREVER), child(FOREVER), child(FOREVER, range(20, 60))]
  for process in writers:
    assert process.stdout.readline() == "ready\n"
  store, end = open_store(), time.monotonic() + 1
  while time.monotonic() < end:
    arrays, hits = store.read(range(60))
    wanted = contents(range(60))
    for name, found in arrays.items():
      assert found[hits].tobytes() == wanted[name][hits].tobytes()
  for process in writers:
    assert process.poll() is None
    process.kill()
    process.wait()
  _, hits = store.read(range(60))
  assert hits.sum() >= 57  # Each was killed in the middle of one row at most.
  assert len(list(file_of(tmp_path).parent.iterdir())) == 2


def test_a_kill_leaves_nothing_that_is_wrong(open_store, child, tmp_path):
  store, rows = open_store(kept=3000), range(3000)
  for least in (1, 200):
    os.truncate(file_of(tmp_path), 0)
    process = child(SLOWLY, rows)
    while file_of(tmp_path).stat().st_size < least * SIZE:
      assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    arrays, hits = store.read(rows)
    assert least <= hits.sum() < len(rows)
    wanted = contents(rows)
    for name, found in arrays.items():
      assert found[hits].tobytes() == wanted[name][hits].tobytes()
  store.write(rows, wanted)
  assert store.read(rows)[1].all()


def test_a_full_disk_ends_writing_in_one_line(open_store, capsys):
  """The first record is written, the second in part."""
  store = open_store()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE + 100, limits[1]))
  try:
    store.write([0, 1], contents([0, 1]))
    store.write([2, 0], contents([2, 0]))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  store.write([3], contents([3]))  # Room that comes back is not looked for.
  text = capsys.readouterr().err
  assert text.count("\n") == 1
  assert "rows.bin cannot be written: File too large; make room." in text
  check(store, [0, 1, 2, 3], [True, False, False, False])
  again = open_store()
  again.write([1], contents([1]))
  check(again, [0, 1, 2], [True, True, False])


def test_a_write_in_pieces_is_finished(open_store, monkeypatch):
  """The system may write less than it was asked for."""
  whole = os.pwritev
  monkeypatch.setattr(
    os, "pwritev", lambda file, parts, at: whole(file, [parts[0][:5]], at)
  )
  piece = os.pwrite
  monkeypatch.setattr(
    os, "pwrite", lambda file, rest, at: piece(file, rest[:50], at)
  )
  store = open_store()
  store.write([2, 0], contents([2, 0]))
  check(store, [0, 1, 2], [True, False, True])


def test_a_disk_that_cannot_be_read_counts_as_empty(
  open_store, monkeypatch, capsys
):
  store = open_store()
  store.write([0], contents([0]))

  def fail(*arguments):
    raise OSError(5, "Input/output error")

  with monkeypatch.context() as patch:
    patch.setattr(os, "preadv", fail)
    check(store, [0, 1], [False, False])
    check(store, [0], [False])
  text = capsys.readouterr().err
  assert text.count("\n") == 1
  assert "rows.bin cannot be read: Input/output error" in text
