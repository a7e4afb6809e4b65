"""Preparing is complete: every token is in a row, and every file counted."""

import pathlib
import pickle
from typing import Any

import numpy as np
import pytest
from array_record.python import array_record_module
from preparing import (
  SPECIAL,
  WORDS,
  contents,
  make_documents,
  read,
  run,
  segments,
  tiny_tokenizer,
  write_corpus,
)

from time_jax.core import errors
from time_jax.data.manifest import is_prepared, load_manifest
from time_jax.data.shards import Block, RowFormat, ShardWriter


def ids(document: str) -> list[int]:
  return [len(SPECIAL) + WORDS.index(word) for word in document.split()]


def test_rows_hold_every_window_once(tmp_path: pathlib.Path) -> None:
  documents = make_documents(300)
  corpus = write_corpus(tmp_path / "a.jsonl", documents)
  manifest = run(tmp_path / "out", corpus)
  rows = read(tmp_path / "out")
  want = [
    [2, *ids(text)[start : start + 14], 3]
    for text in documents
    for start in range(0, len(ids(text)), 14)
  ]
  assert sorted(segments(rows)) == sorted(want)
  for row in rows:
    assert row["tokens"].dtype == row["segment_ids"].dtype == np.int32
    assert row["tokens"].shape == row["segment_ids"].shape == (16,)
    filled = row["segment_ids"] > 0
    assert not row["tokens"][~filled].any()
    assert (np.diff(filled.astype(int)) <= 0).all()  # Padding is at the end.
    assert (np.diff(row["segment_ids"][filled]) >= 0).all()
  split = manifest.splits["train"]
  assert split.documents == 300
  assert split.tokens == sum(map(len, want))
  assert split.rows == len(rows) < len(want)
  assert split.packing_efficiency == split.tokens / (16 * len(rows)) > 0.95
  assert len(split.shards) > 3
  assert sum(shard.rows for shard in split.shards) == len(rows)


def test_without_packing_each_document_is_one_row(
  tmp_path: pathlib.Path,
) -> None:
  documents = make_documents(50)
  corpus = write_corpus(tmp_path / "a.jsonl", documents)
  run(tmp_path / "out", corpus, packing="none")
  rows = read(tmp_path / "out")
  assert segments(rows) == [[2, *ids(text)[:14], 3] for text in documents]
  assert len(rows) == 50


def test_manifest_describes_the_files(tmp_path: pathlib.Path) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", [*make_documents(40), " "])
  with open(corpus, "a") as file:
    file.write("\nbroken\n")
  valid = tmp_path / "v.txt"
  valid.write_text("og det ikke på")  # One line, without an end.
  out = tmp_path / "out"
  assert not is_prepared(out)
  splits = {"train": (corpus,), "validation": (str(valid),)}
  manifest = run(out, splits=splits)
  assert is_prepared(out)
  assert manifest == load_manifest(out)
  assert manifest.tokenizer_sha256 == tiny_tokenizer().sha256
  train = manifest.splits["train"]
  assert train.sources == (corpus,)
  assert (train.empty_documents, train.bad_records) == (1, 1)
  assert segments(read(out, "validation")) == [[2, 4, 5, 6, 7, 3]]
  files = contents(out)
  for split in manifest.splits.values():
    for shard in split.shards:
      assert files.pop(f"time_rows/1.0.0/{shard.name}") == shard.sha256
  assert sorted(files) == [
    "manifest.json",
    "time_rows/1.0.0/dataset_info.json",
    "time_rows/1.0.0/features.json",
  ]


@pytest.mark.parametrize("limit", [16, 500, 1003, 10**9])
def test_max_tokens(tmp_path: pathlib.Path, limit: int) -> None:
  documents = make_documents(120)
  corpus = write_corpus(tmp_path / "a.jsonl", documents)
  out = tmp_path / "out"
  manifest = run(out, corpus, max_tokens=limit)
  split = manifest.splits["train"]
  total = run(tmp_path / "all", corpus).splits["train"].tokens
  assert min(limit, total) - 16 < split.tokens <= limit
  assert split.tokens == sum(map(len, segments(read(out))))
  assert split.documents <= len(documents)


def test_max_tokens_at_the_end_of_a_block(tmp_path: pathlib.Path) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", ["og det"] * 5)
  run(tmp_path / "out", corpus, max_tokens=8, shard_text_mb=1e-6)
  assert segments(read(tmp_path / "out")) == [[2, 4, 5, 3]] * 2


def test_a_token_limit_below_the_first_document(
  tmp_path: pathlib.Path,
) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", ["og det ikke"])
  with pytest.raises(errors.UserError, match=r"no rows.*max_tokens=2;"):
    run(tmp_path / "out", corpus, max_tokens=2)


@pytest.mark.parametrize("limit", [1, 50, 119, 120, 500])
def test_max_documents(tmp_path: pathlib.Path, limit: int) -> None:
  documents = make_documents(120)
  lines = [" ", *documents]  # An empty document does not count.
  corpus = write_corpus(tmp_path / "a.jsonl", lines)
  few = write_corpus(tmp_path / "few.jsonl", lines[: limit + 1])
  manifest = run(tmp_path / "out", corpus, max_documents=limit)
  split = manifest.splits["train"]
  assert split.documents == min(limit, 120)
  assert manifest.settings["max_documents"] == limit
  want = run(tmp_path / "few", few).splits["train"]
  assert split.shards == want.shards  # The same bytes.


@pytest.mark.parametrize(
  ("limits", "documents"),
  [((1000, 5), 5), ((30, 5), 2), ((0, 5), 5), ((30, 0), 2)],
)
def test_the_first_limit_reached_counts(
  tmp_path: pathlib.Path, limits: tuple[int, int], documents: int
) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", ["og det ikke på " * 3] * 9)
  tokens, most = limits
  manifest = run(
    tmp_path / "out", corpus, max_tokens=tokens, max_documents=most
  )
  assert manifest.splits["train"].documents == documents


def test_each_split_has_the_limit(tmp_path: pathlib.Path) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", make_documents(20))
  splits = {"train": (corpus, corpus), "validation": (corpus,)}
  made = run(tmp_path / "out", splits=splits, max_documents=30).splits
  assert (made["train"].documents, made["validation"].documents) == (30, 20)


def test_documents_without_tokens_make_no_shard(tmp_path: pathlib.Path) -> None:
  tokens = ["og", "[CLS]", "[CLS] [SEP] [PAD]", "det"]
  corpus = write_corpus(tmp_path / "a.jsonl", tokens)
  manifest = run(tmp_path / "out", corpus, shard_text_mb=1e-6)
  assert segments(read(tmp_path / "out")) == [[2, 4, 3], [2, 5, 3]]
  assert len(manifest.splits["train"].shards) == 2
  corpus = write_corpus(tmp_path / "b.jsonl", tokens[1:3])
  with pytest.raises(errors.UserError, match="'train' gives no rows"):
    run(tmp_path / "none", corpus)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"seq_len": 2}, "seq_len=2 leaves no room"),
    ({"splits": {"train": ("nowhere.txt",)}}, "no file at 'nowhere.txt'"),
  ],
)
def test_wrong_settings(
  tmp_path: pathlib.Path, changes: dict[str, Any], message: str
) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", ["og"])
  with pytest.raises(errors.UserError, match=message):
    run(tmp_path / "out", corpus, **changes)


def test_a_writer_that_was_used_is_the_same_in_a_worker(
  tmp_path: pathlib.Path,
) -> None:
  # It waits to be sent until a worker reads, and is used here meanwhile.
  block = Block("train", 0, ("og[SEP]det",), 0, 0)
  writer = ShardWriter(tmp_path, RowFormat(tiny_tokenizer(), 16))
  here = writer.write(block)
  sent = pickle.loads(pickle.dumps(writer))
  assert sent == writer
  (there,) = sent.encoder.all_windows(block.documents)
  assert sum(map(len, there)) == here.tokens == 3  # [CLS], [UNK], [SEP]


def test_errors_of_workers_reach_the_caller(tmp_path: pathlib.Path) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", ["og det", "yz"])
  small = tiny_tokenizer(vocab_size=13)
  message = r"tiny gives the id 13 \('yz'\)"
  with pytest.raises(errors.UserError, match=message):
    run(tmp_path / "out", corpus, tokenizer=small, num_workers=2)


def test_rows_can_be_read_without_order(tmp_path: pathlib.Path) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", make_documents(200))
  manifest = run(tmp_path / "out", corpus)
  place = tmp_path / "out" / "time_rows" / "1.0.0"
  for shard in manifest.splits["train"].shards:
    reader = array_record_module.ArrayRecordReader(str(place / shard.name))
    assert reader.num_records() == shard.rows
    assert "group_size:1," in reader.writer_options_string() + ","
    reader.close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"splits": {"a": {}}}'])
def test_a_damaged_manifest_is_an_error(
  tmp_path: pathlib.Path, content: str
) -> None:
  (tmp_path / "manifest.json").write_text(content)
  with pytest.raises(errors.UserError, match="missing or damaged"):
    load_manifest(tmp_path)
  with pytest.raises(errors.UserError, match="missing or damaged"):
    load_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize("packing", ["pack", "none"])
@pytest.mark.parametrize("limit", [{}, {"max_tokens": 1900}])
def test_enough_rows_are_the_first_of_the_whole(
  tmp_path: pathlib.Path, packing: str, limit: dict[str, int]
) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", make_documents(300))
  whole = run(tmp_path / "whole", corpus, packing=packing, **limit)
  rows = read(tmp_path / "whole")
  sizes = [shard.rows for shard in whole.splits["train"].shards]
  assert len(sizes) > 2
  ends = np.cumsum(sizes).tolist()
  for enough, end in [
    (1, ends[0]),
    (ends[0], ends[0]),
    (ends[0] + 1, ends[1]),
    (len(rows) + 5, len(rows)),
  ]:
    place = tmp_path / str(enough)
    run(place, corpus, packing=packing, enough_rows=enough, **limit)
    found = read(place)
    assert len(found) == end
    np.testing.assert_equal(found, rows[:end])
    with pytest.raises(errors.UserError, match=f"enough_rows was {enough}, no"):
      run(place, corpus, packing=packing, **limit)
  assert "enough_rows" not in whole.settings
