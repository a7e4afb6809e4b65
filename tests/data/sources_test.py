"""Text is read whole and in order; bad text is counted, named and skipped."""

import gzip
import io
import json
import pathlib
import sys
import types
from collections.abc import Callable

import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
import zstandard
from array_record.python import array_record_module

from time_jax.core import errors
from time_jax.data import sources
from time_jax.data.records import Tally

TEXTS = [
  "Smørrebrød er dansk.",
  "日本語の文章です。",
  "עברית مع العربية",
  "👩‍👩‍👧 and e\u0301",
]


def read(*names: str, limit: int = 100) -> tuple[list[str], Tally]:
  tally = Tally(limit)
  parsed = [sources.Source.parse(name) for name in names]
  return list(sources.documents(parsed, tally)), tally


def json_lines(texts: list[str], field: str = "text") -> bytes:
  lines = (json.dumps({"id": i, field: t}) for i, t in enumerate(texts))
  return "\n".join(lines).encode()


def parquet(texts: list[str | None]) -> bytes:
  nested = [{"en": text} for text in texts]
  table = pyarrow.table({"text": texts, "body": nested})
  buffer = io.BytesIO()
  pyarrow.parquet.write_table(table, buffer, row_group_size=2)
  return buffer.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
  "": bytes,
  ".gz": gzip.compress,
  ".zst": zstandard.compress,
}


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "parquet"])
def test_every_kind_and_compression_gives_the_same_documents(
  tmp_path: pathlib.Path, kind: str, packing: str
) -> None:
  content = {
    "txt": "\n\n".join(TEXTS).encode(),
    "jsonl": json_lines(TEXTS),
    "json": json_lines(TEXTS),
    "parquet": parquet(list(TEXTS)),
  }[kind]
  path = tmp_path / f"corpus.{kind}{packing}"
  path.write_bytes(PACKED[packing](content))
  documents, tally = read(str(path), limit=0)
  assert documents == TEXTS
  assert tally.documents == len(TEXTS)
  assert tally.text_bytes == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("a/*.jsonl.gz", sources.Source("files", "a/*.jsonl.gz")),
    ("a#b.c", sources.Source("files", "a", field="b.c")),
    ("C#/x.txt#text", sources.Source("files", "C#/x.txt")),
    ("tfds:wiki40b/en", sources.Source("tfds", "wiki40b/en")),
    (
      "tfds:wiki40b/en:1.3.0:train[:10%]#body",
      sources.Source("tfds", "wiki40b/en:1.3.0", "", "train[:10%]", "body"),
    ),
    ("tfds:lm1b:test", sources.Source("tfds", "lm1b", "", "test")),
    ("hf:org/name", sources.Source("hf", "org/name")),
    ("hf:o/n:20231101.da", sources.Source("hf", "o/n", "20231101.da")),
    ("hf:o/n::valid#t", sources.Source("hf", "o/n", "", "valid", "t")),
    ("hf:o/n:a/b", sources.Source("hf", "o/n", "a/b")),
    ("hf:o/n/a/*.json#t", sources.Source("hub", "o/n", "a/*.json", field="t")),
    ("hf:o/n@v1/b.gz", sources.Source("hub", "o/n@v1", "b.gz")),
  ],
)
def test_parse(text: str, want: sources.Source) -> None:
  assert sources.Source.parse(text) == want


@pytest.mark.parametrize(
  "text", ["", "#text", "tfds:", "hf::", "a.txt#", "a# b"]
)
def test_parse_refuses(text: str) -> None:
  with pytest.raises(errors.UserError, match="text source"):
    sources.Source.parse(text)


def test_globs_are_sorted_and_sources_keep_their_order(
  tmp_path: pathlib.Path,
) -> None:
  for name in ("b2", "b10", "a"):
    (tmp_path / f"{name}.txt").write_text(name)
  documents, _ = read(f"{tmp_path}/b*.txt", f"{tmp_path}/a.txt")
  assert documents == ["b10", "b2", "a"]


def test_a_name_with_glob_characters_is_taken_literally(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / "[x].txt").write_text("literal")
  assert read(f"{tmp_path}/[x].txt")[0] == ["literal"]


def test_nested_fields(tmp_path: pathlib.Path) -> None:
  lines = tmp_path / "a.jsonl"
  lines.write_text('{"a": {"b": "deep"}}\n{"a.b": "flat"}\n{"a": null}')
  documents, tally = read(f"{lines}#a.b", limit=0)
  assert documents == ["deep", "flat"]
  assert tally.empty_documents == 1
  table = tmp_path / "a.parquet"
  table.write_bytes(parquet(["x", None, "y"]))
  documents, tally = read(f"{table}#body.en", limit=0)
  assert documents == ["x", "y"]
  assert tally.empty_documents == 1


def test_plain_text_documents_are_separated_by_blank_lines(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / "a.txt"
  path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n \t\r\n\r\nthree")
  assert read(str(path))[0] == ["one\ntwo", "three"]


def test_a_text_file_without_blank_lines_comes_in_bounded_parts(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / "a.txt"
  lines = [f"line {i} " + "x" * 1000 for i in range(2500)]
  path.write_text("\n".join(lines))
  documents, _ = read(str(path))
  assert len(documents) > 1
  assert "\n".join(documents).split("\n") == lines


def test_lines_may_be_longer_than_what_is_read_at_once(
  tmp_path: pathlib.Path,
) -> None:
  texts = ["é" * 1_500_000, "short"]
  path = tmp_path / "a.jsonl"
  path.write_bytes(json_lines(texts))
  assert read(str(path))[0] == texts


def test_whitespace_only_documents_are_left_out(tmp_path: pathlib.Path) -> None:
  path = tmp_path / "a.jsonl"
  path.write_bytes(json_lines([" ", "text", "\u2003\n", ""]))
  documents, tally = read(str(path), limit=0)
  assert documents == ["text"]
  assert tally.empty_documents == 3


@pytest.mark.parametrize(
  ("line", "why"),
  [
    (b'{"text": "cut', "not a JSON object"),
    (b"[" * 100_000, "not a JSON object"),
    (b'["text"]', "found list"),
    (b'{"body": "x"}', r"no field 'text' \(fields: body\)"),
    (b'{"text": 3}', "field 'text' is int"),
    (b'{"text": "\\ud800"}', "field 'text' is invalid UTF-8"),
    (b'{"text": "\xff"}', "invalid UTF-8"),
  ],
)
def test_bad_lines_are_skipped_up_to_the_limit(
  tmp_path: pathlib.Path,
  caplog: pytest.LogCaptureFixture,
  line: bytes,
  why: str,
) -> None:
  path = tmp_path / "a.jsonl"
  path.write_bytes(b'{"text": "1"}\n\n' + line + b'\n{"text": "4"}\n' + line)
  documents, tally = read(str(path), limit=2)
  assert documents == ["1", "4"]
  assert tally.bad_records == 2
  assert f"{path}:3: " in caplog.text
  with pytest.raises(errors.UserError, match=f"a.jsonl:5: {why}.*most.*=1"):
    read(str(path), limit=1)


def test_invalid_utf8_in_plain_text_costs_its_line(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / "a.txt"
  path.write_bytes("før\n".encode() + "bl\xe5\n".encode("latin-1") + b"efter")
  documents, tally = read(str(path))
  assert documents == ["før\nefter"]
  assert tally.bad_records == 1


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_truncated_file_gives_what_is_before_the_damage(
  tmp_path: pathlib.Path, packing: str
) -> None:
  texts = [f"{i} {hash((i, 1)) ** 3}" for i in range(20_000)]
  whole = PACKED[packing](json_lines(texts))
  path = tmp_path / f"a.jsonl{packing}"
  path.write_bytes(whole[: len(whole) // 2])
  documents, tally = read(str(path), limit=1)
  assert 1000 < len(documents) < len(texts)
  assert documents == texts[: len(documents)]
  assert tally.bad_records == 1
  where = rf"a.jsonl{packing}:{len(documents) + 1}: damaged file"
  with pytest.raises(errors.UserError, match=where):
    read(str(path), limit=0)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.zst", "a.parquet"])
def test_a_file_of_another_kind_is_one_bad_record(
  tmp_path: pathlib.Path, name: str
) -> None:
  (tmp_path / name).write_bytes(b"this is not what the name says" * 9)
  (tmp_path / "good.txt").write_text("good")
  paths = f"{tmp_path}/{name}", f"{tmp_path}/good.txt"
  documents, tally = read(*paths)
  assert documents == ["good"]
  assert tally.bad_records == 1
  with pytest.raises(errors.UserError, match=f"{name}.*damaged"):
    read(*paths, limit=0)


def test_a_damaged_parquet_page_is_a_bad_record(tmp_path: pathlib.Path) -> None:
  texts = [f"{i} {i**9}" for i in range(20_000)]
  path = tmp_path / "a.parquet"
  table = pyarrow.table({"text": texts})
  pyarrow.parquet.write_table(
    table, path, row_group_size=5000, write_page_checksum=True
  )
  content = bytearray(path.read_bytes())
  middle = len(content) // 2
  content[middle : middle + 9] = bytes(9)
  path.write_bytes(content)
  documents, tally = read(str(path), limit=1)
  assert documents == texts[: len(documents)]
  assert tally.bad_records == 1
  with pytest.raises(errors.UserError, match=r"a.parquet: damaged"):
    read(str(path), limit=0)


def test_an_empty_file_among_others_is_a_bad_record(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / "a.txt").write_text("")
  (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b""))
  (tmp_path / "c.txt").write_text("text")
  documents, tally = read(f"{tmp_path}/*")
  assert documents == ["text"]
  assert tally.bad_records == 2


@pytest.mark.parametrize("content", ["", "  \n\t\n \n"])
def test_no_text_at_all_is_an_error(
  tmp_path: pathlib.Path, content: str
) -> None:
  path = tmp_path / "a.txt"
  path.write_text(content)
  with pytest.raises(errors.UserError, match=r"no text in .*a\.txt"):
    read(str(path))


def test_wrong_places_fail_before_anything_is_read(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / "a.txt").write_text("text")
  (tmp_path / "a.docx").write_text("text")
  for name, message in {
    "nothing*.txt": "no file at",
    "b.txt": "no file at",
    "": "folder or of an unknown kind",
    "a.docx": "folder or of an unknown kind",
  }.items():
    parsed = [sources.Source.parse(f"{tmp_path}/{n}") for n in ("a.txt", name)]
    with pytest.raises(errors.UserError, match=message):
      sources.documents(parsed, Tally())  # No document is asked for.


@pytest.mark.parametrize("packing", PACKED)
def test_a_wrong_field_is_told_once_and_first(
  caplog: pytest.LogCaptureFixture, tmp_path: pathlib.Path, packing: str
) -> None:
  path = tmp_path / f"a.jsonl{packing}"
  path.write_bytes(PACKED[packing](b"[]\n{\n" + json_lines(TEXTS * 30, "body")))
  (tmp_path / "0.jsonl").write_bytes(b"")
  (tmp_path / "b.txt").write_text("text")
  message = "a.jsonl.*: no field 'texte' \\(fields: id, body\\)"
  for name in (path, f"{tmp_path}/*.jsonl*"):
    texts = f"{tmp_path}/b.txt", f"{name}#texte"
    with pytest.raises(errors.UserError, match=message):
      sources.documents([*map(sources.Source.parse, texts)], Tally())
  assert not caplog.records
  # Some records may lack it, the first ones, too.
  path.write_bytes(PACKED[packing](json_lines(TEXTS) + b'\n{"texte": "here"}'))
  texts, tally = read(f"{path}#texte")
  assert (texts, tally.bad_records) == (["here"], len(TEXTS))


def test_a_wrong_column_is_told_before_the_sources_ahead_are_read(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / "a.parquet").write_bytes(parquet(["x"]))
  source = sources.Source.parse(f"{tmp_path}/a.parquet#content")
  with pytest.raises(errors.UserError, match="'content'; it has text, body"):
    sources.documents([source], Tally())
  (tmp_path / "a.parquet").write_bytes(parquet(["x"])[:-30])
  sources.documents([source], Tally())  # Damage is counted by the reader.


def test_a_missing_parquet_column_names_those_there(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / "a.parquet"
  path.write_bytes(parquet(["x"]))
  with pytest.raises(errors.UserError, match="'content'; it has text, body"):
    read(f"{path}#content")


def test_tfds_folder(tmp_path: pathlib.Path) -> None:
  place = tmp_path / "tiny" / "1.0.0"
  place.mkdir(parents=True)
  features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
  name = "tiny-test.array_record-00000-of-00001"
  writer = array_record_module.ArrayRecordWriter(str(place / name))
  for text in TEXTS:
    writer.write(features.serialize_example({"text": text}))
  writer.close()
  template = tfds.core.ShardedFileTemplate(
    data_dir=place,
    dataset_name="tiny",
    split="test",
    filetype_suffix="array_record",
  )
  split = tfds.core.SplitInfo(
    name="test",
    shard_lengths=[len(TEXTS)],
    num_bytes=1,
    filename_template=template,
  )
  tfds.folder_dataset.write_metadata(
    data_dir=place, features=features, split_infos=[split], check_data=False
  )
  assert read(f"tfds:{place}:test", limit=0)[0] == TEXTS
  with pytest.raises(errors.UserError, match=r"cannot read tfds:.*'train'"):
    read(f"tfds:{place}")


def test_hugging_face_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
  calls = []

  def load_dataset(*args: object, **kwargs: object) -> object:
    calls.append((args, kwargs))
    yield from ({"body": text} for text in [*TEXTS, None, 7])
    raise ConnectionError("the network\nis gone")

  fake = types.SimpleNamespace(load_dataset=load_dataset)
  monkeypatch.setitem(sys.modules, "datasets", fake)
  source = sources.Source.parse("hf:org/name:da:valid#body")
  tally = Tally()
  stream = sources.documents([source], tally)
  assert [next(stream) for _ in TEXTS] == TEXTS
  with pytest.raises(
    errors.UserError, match=r"dataset org/name on .*the hub cannot be reached"
  ):
    next(stream)
  assert (tally.empty_documents, tally.bad_records) == (1, 1)
  assert calls == [(("org/name", "da"), {"split": "valid", "streaming": True})]


def test_hugging_face_without_its_package(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setitem(sys.modules, "datasets", None)
  with pytest.raises(errors.UserError, match="pip install datasets"):
    read("hf:org/name")
