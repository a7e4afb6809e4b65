"""Batches depend on (seed, step) alone, and every row is read in its turn."""

import errno
import json
import pathlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from meshes import make_mesh
from tokenizers import Tokenizer, models, pre_tokenizers

from time_jax.core import errors
from time_jax.data import integrity, pipeline, prepare
from time_jax.data.manifest import load_manifest
from time_jax.data.shards import RowFormat
from time_jax.data.tokenizing import TokenizerSpec
from time_jax.parallel import sharding


class NumberedRows:
  """Row i holds the number i."""

  def __init__(self, size: int):
    self.size = size

  def __len__(self) -> int:
    return self.size

  def __getitems__(self, indices: Sequence[int]) -> list[pipeline.Row]:
    return [
      {"tokens": np.full(3, i, np.int32), "segment_ids": np.ones(3, np.int32)}
      for i in indices
    ]


def numbers(batch: pipeline.Row) -> list[int]:
  return batch["tokens"][:, 0].tolist()


def shares(batch: int, count: int) -> list[range]:
  """Equal slices of a batch, one for each of so many processes."""
  size = batch // count
  return [range(start, start + size) for start in range(0, batch, size)]


def source(size: int, batch: int, **changes: Any) -> pipeline.BatchSource:
  settings = {"seed": 3, "global_batch_size": batch} | changes
  return pipeline.BatchSource(NumberedRows(size), **settings)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_each_row_comes_exactly_once_per_epoch(size: int) -> None:
  batches = source(size, 10)
  order = [
    i for step in range(size * 3) for i in numbers(batches.batch_at(step))
  ]
  epochs = [order[start : start + size] for start in range(0, len(order), size)]
  assert len(epochs) == 30
  for epoch in epochs:
    assert sorted(epoch) == list(range(size))
  if size > 50:
    assert len({tuple(epoch) for epoch in epochs}) == 30
    assert epochs[0] != sorted(epochs[0])


def test_batches_are_a_function_of_seed_and_step() -> None:
  one, same = source(1000, 8), source(1000, 8)
  steps = [0, 5, 123_456_789, 5, 3]
  assert [one.indices_at(s) for s in steps] == [
    same.indices_at(s) for s in reversed(steps)
  ][::-1]
  other = source(1000, 8, seed=4)
  assert one.indices_at(0) != other.indices_at(0)
  assert one.indices_at(0) != one.indices_at(1)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_slices_of_processes_make_the_same_global_batch(count: int) -> None:
  whole = source(50, 8)
  parts = [source(50, 8, wanted=share) for share in shares(8, count)]
  for step in (0, 5, 6, 7, 100):  # Step 6 crosses the end of an epoch.
    batches = [part.batch_at(step) for part in parts]
    assert {len(numbers(batch)) for batch in batches} == {8 // count}
    for name, values in whole.batch_at(step).items():
      joined = np.concatenate([batch[name] for batch in batches])
      np.testing.assert_array_equal(joined, values)


def read_by(count: int, batch: int, size: int, steps: range) -> list[int]:
  """Rows in the order of the global batches, as processes read them."""
  mesh = make_mesh(count, 1, 1)
  held = sharding.batch_sharding(mesh).devices_indices_map((batch,))
  order = [-1] * (batch * len(steps))
  for device in mesh.devices.flat:  # Each is of a process of its own.
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(
        jax.sharding.NamedSharding,
        "addressable_devices_indices_map",
        lambda layout, shape, device=device: {device: held[device]},
      )
      wanted = sharding.local_rows(mesh, batch)
    part = source(size, batch, wanted=wanted)
    for step in steps:
      for place, row in zip(wanted, numbers(part.batch_at(step)), strict=True):
        place += (step - steps.start) * batch
        assert order[place] == -1, "two processes read it"
        order[place] = row
  return order


@pytest.mark.parametrize("count", range(1, 9))
def test_processes_read_each_row_once_an_epoch(count: int) -> None:
  """Also when others go on after a stop, amid an epoch."""
  size, epochs, rows = 2 * count, 6, 7 * count  # No epoch ends with a batch.
  last = epochs * rows // size
  order = read_by(count, size, rows, range(5))
  for others, steps in ((count, range(5, 8)), (1, range(8, last))):
    order += read_by(others, size, rows, steps)
  assert len(order) == epochs * rows
  for start in range(0, len(order), rows):
    assert sorted(order[start : start + rows]) == list(range(rows))


@pytest.mark.parametrize("wanted", [[0, 1, 2, 3, 4], [3, 4, 5], [1, 4, 7], [6]])
def test_processes_may_read_overlapping_rows(wanted: list[int]) -> None:
  whole, part = source(50, 8), source(50, 8, wanted=wanted)
  for step in (0, 6, 100):
    want, got = whole.batch_at(step), part.batch_at(step)
    for name in want:
      np.testing.assert_array_equal(got[name], want[name][wanted])


def test_a_process_reads_only_the_rows_it_wants() -> None:
  read: list[int] = []

  class Watched(NumberedRows):
    def __getitems__(self, indices: Sequence[int]) -> list[pipeline.Row]:
      read.extend(indices)
      return super().__getitems__(indices)

  pipeline.BatchSource(
    Watched(50), seed=3, global_batch_size=8, wanted=[2, 5]
  ).batch_at(2)
  assert read == [source(50, 8).indices_at(2)[i] for i in (2, 5)]


@pytest.mark.parametrize("wanted", [[], [-1, 0], [7, 8], [1, 0], [2, 2]])
def test_impossible_rows_of_a_batch_are_refused(wanted: list[int]) -> None:
  with pytest.raises(AssertionError, match="wanted="):
    source(50, 8, wanted=wanted)
  with pytest.raises(AssertionError, match="wanted="):
    next(pipeline.sequential_batches(NumberedRows(50), 8, wanted=wanted))


def test_synthetic_rows_depend_on_seed_and_index() -> None:
  rows = pipeline.SyntheticRows(100, seq_len=32, vocab_size=50, seed=1)
  first, again, other = rows.__getitems__([7, 7, 8])
  np.testing.assert_array_equal(first["tokens"], again["tokens"])
  assert (first["tokens"] != other["tokens"]).any()
  assert first["tokens"].dtype == first["segment_ids"].dtype == np.int32
  assert first["tokens"].shape == (32,)
  assert 0 <= first["tokens"].min() <= first["tokens"].max() < 50
  assert (first["segment_ids"] == 1).all()
  changed = pipeline.SyntheticRows(100, 32, 50, seed=2).__getitems__([7])[0]
  assert (first["tokens"] != changed["tokens"]).any()
  assert len(rows) == 100


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 5, 8, 17])
def test_sequential_batches(size: int, count: int) -> None:
  parts = [
    list(pipeline.sequential_batches(NumberedRows(size), 8, wanted=share))
    for share in shares(8, count)
  ]
  seen = []
  for batches in zip(*parts, strict=True):
    for batch in batches:
      assert (
        batch["tokens"].shape == batch["segment_ids"].shape == (8 // count, 3)
      )
      present = batch["segment_ids"].any(axis=1)
      seen += np.array(numbers(batch))[present].tolist()
      assert not batch["tokens"][~present].any()
  assert seen == list(range(size))


@pytest.mark.parametrize("wanted", [[0, 1, 2, 3, 4], [3, 4, 5], [1, 4, 7], [7]])
def test_sequential_batches_may_overlap(wanted: list[int]) -> None:
  rows = NumberedRows(12)  # The second batch is full up to its fourth row.
  whole = list(pipeline.sequential_batches(rows, 8))
  part = list(pipeline.sequential_batches(rows, 8, wanted=wanted))
  for want, got in zip(whole, part, strict=True):
    for name in want:
      np.testing.assert_array_equal(got[name], want[name][wanted])


def test_prefetch_keeps_the_order_and_runs_ahead() -> None:
  started = []

  def batch_at(step: int) -> int:
    started.append(step)
    return step

  results = pipeline.prefetch(batch_at, 3, 9, depth=2, put=lambda x: x * 10)
  assert next(results) == 30
  deadline = time.monotonic() + 5
  while len(started) < 4 and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.05)
  assert started == [3, 4, 5, 6]  # One taken, two wait, one wants to.
  assert list(results) == [40, 50, 60, 70, 80]


def test_prefetch_raises_what_the_thread_raised() -> None:
  def batch_at(step: int) -> int:
    if step == 2:
      raise errors.UserError("row 2 is damaged")
    return step

  results = pipeline.prefetch(batch_at, 0, 5, depth=4, put=lambda x: x)
  assert [next(results), next(results)] == [0, 1]
  with pytest.raises(errors.UserError, match="row 2"):
    next(results)


def test_prefetch_ends_its_thread_when_closed() -> None:
  before = threading.active_count()
  results = pipeline.prefetch(int, 0, 10**9, depth=1, put=lambda x: x)
  assert next(results) == 0
  assert threading.active_count() == before + 1
  results.close()
  assert threading.active_count() == before
  assert list(pipeline.prefetch(int, 5, 5, depth=1, put=lambda x: x)) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  place = tmp_path_factory.mktemp("prepared")
  words = [f"w{i}" for i in range(200)]
  vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}
  tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  corpus = place / "a.jsonl"
  corpus.write_text("\n".join(json.dumps({"text": word}) for word in words))
  prepare.prepare(
    place,
    {"train": [str(corpus)]},
    RowFormat(TokenizerSpec(tokenizer.to_str(), 0, 202), 8, "none"),
    shard_text_mb=0.0002,
    num_workers=1,
  )
  return place


def test_prepared_rows_become_batches(folder: pathlib.Path) -> None:
  rows = pipeline.open_rows(folder, "train")
  assert len(rows) == 200
  batches = pipeline.BatchSource(rows, seed=0, global_batch_size=20)
  seen = [i for step in range(10) for i in numbers(batches.batch_at(step))]
  assert sorted(seen) == list(range(2, 202))
  batch = batches.batch_at(0)
  assert batch["tokens"].dtype == batch["segment_ids"].dtype == np.int32
  assert batch["segment_ids"].tolist() == [[1] + [0] * 7] * 20
  evaluated = [numbers(b) for b in pipeline.sequential_batches(rows, 150)]
  assert [*evaluated[0], *evaluated[1][:50]] == list(range(2, 202))


def test_missing_and_damaged_folders(
  folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  with pytest.raises(errors.UserError, match=r"manifest.json' is missing"):
    pipeline.open_rows(tmp_path, "train")
  with pytest.raises(errors.UserError, match=r"no split 'test'.*one of train"):
    pipeline.open_rows(folder, "test")
  shard = sorted(folder.rglob("*array_record*"))[1]
  content = shard.read_bytes()
  try:
    shard.write_bytes(content[:-1000])
    with pytest.raises(errors.UserError, match=r"damaged: .*00001-of.* has"):
      pipeline.open_rows(folder, "train")
    shard.write_bytes(bytes(len(content)))
    rows = pipeline.open_rows(folder, "train")
    monkeypatch.setattr(pipeline, "_PAUSES", ())
    with pytest.raises(errors.UserError, match=r"00001-of.* has other content"):
      rows.__getitems__(range(200))
    looked_at = []
    sha256 = integrity._sha256
    monkeypatch.setattr(
      integrity,
      "_sha256",
      lambda file: (
        looked_at.append(pathlib.Path(file.name).name) or sha256(file)
      ),
    )
    first = load_manifest(folder).splits["train"].shards[0].rows
    with pytest.raises(errors.UserError, match=r"00001-of.* has other content"):
      rows.__getitems__([first])
    assert looked_at == [shard.name]  # And not all the others.
    shard.unlink()
    with pytest.raises(errors.UserError, match="cannot be read .*No such file"):
      pipeline.open_rows(folder, "train")
  finally:
    shard.write_bytes(content)


def test_a_fault_of_the_program_is_none_of_the_rows(
  folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """It is raised at once, as it is; no file is read to explain it."""

  def never(*_: Any) -> None:
    raise AssertionError("rows are hashed, or read again")

  rows = pipeline.open_rows(folder, "train")
  monkeypatch.setattr(integrity, "_sha256", never)
  monkeypatch.setattr(pipeline._PreparedRows, "_open", never)
  with pytest.raises(ValueError, match="Record key should be in"):
    rows.__getitems__([10**9])
  assert len(rows.__getitems__([0])) == 1


def test_rows_of_another_form_are_named(folder: pathlib.Path) -> None:
  path = next(folder.rglob("features.json"))
  sound = path.read_text()
  try:
    path.write_text(sound.replace('"8"', '"9"'))
    rows = pipeline.open_rows(folder, "train")
    with pytest.raises(errors.UserError, match=r"features.json has other cont"):
      rows.__getitems__([0])
  finally:
    path.write_text(sound)


class Unsteady:
  """A source of rows that cannot be read now and then."""

  def __init__(self, failures: list[Exception]) -> None:
    self.failures, self.opened = failures, 0

  def open(self, *_: str, **__: str) -> "Unsteady":
    self.opened += 1
    return self

  def __len__(self) -> int:
    return 3

  def __getitems__(self, indices: list[int]) -> list[pipeline.Row]:
    if self.failures:
      raise self.failures.pop(0)
    return [{} for _ in indices]


def test_what_cannot_be_read_is_tried_again(
  folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  stale = OSError(errno.ESTALE, "Stale file handle")
  source = Unsteady([stale, stale])
  monkeypatch.setattr(pipeline, "_PAUSES", (0.0, 0.0))
  monkeypatch.setattr(pipeline.tfds, "data_source", source.open)
  rows = pipeline.open_rows(folder, "train")
  assert rows.__getitems__([2, 0]) == [{}, {}]
  assert source.opened == 3
  source.failures += [stale] * 3
  with pytest.raises(errors.RestartableError, match="are what was written"):
    rows.__getitems__([1])
  assert rows.__getitems__([1]) == [{}]
