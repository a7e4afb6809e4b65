"""Parquet files of token classification are read like IOB2."""

import json

import pyarrow
import pyarrow.parquet
import pytest
import tiny_ner

from time_jax.core.errors import UserError
from time_jax.evals.ner import iob, task

TAGS = ["O", "B-PER", "I-PER"]
WORDS = [["Anna", "Lund", "ler"], ["Ja"], []]
NUMBERS = [[2, 2, 0], [0], []]


def test_parquet_as_the_library_datasets_writes_it(tmp_path):
  label = {"names": TAGS, "_type": "ClassLabel"}
  features = {"ner_tags": {"feature": label, "_type": "Sequence"}}
  about = json.dumps({"info": {"features": features}})
  table = pyarrow.table({"tokens": WORDS, "ner_tags": NUMBERS})
  path = tmp_path / "train.parquet"
  pyarrow.parquet.write_table(
    table.replace_schema_metadata({"huggingface": about}), path
  )
  first, second = task.Ner.read(path)
  assert first.words == ("Anna", "Lund", "ler")
  assert first.tags == ("B-PER", "I-PER", "O")  # I- began it.
  assert (second.words, second.tags) == (("Ja",), ("O",))


def test_parquet_with_tags_as_text_is_as_iob2(tmp_path):
  sentences = iob.read(tiny_ner.NER / "da-train.iob2")
  columns = {
    "tokens": [list(sentence.words) for sentence in sentences],
    "ner_tags": [list(sentence.tags) for sentence in sentences],
  }
  path = tmp_path / "train.parquet"
  pyarrow.parquet.write_table(pyarrow.table(columns), path)
  for found, expected in zip(task.Ner.read(path), sentences, strict=True):
    assert (found.words, found.tags) == (expected.words, expected.tags)


@pytest.mark.parametrize(
  ("columns", "message"),
  [
    ({"tokens": WORDS}, "has no column ner_tags, but tokens; expected lists"),
    ({"tokens": WORDS, "ner_tags": NUMBERS}, "row 0: .*tag 2; .*0 here"),
    ({"tokens": [["a"]], "ner_tags": [["O"] * 2]}, "row 0: word 1 is None wi"),
    ({"tokens": [["a"]], "ner_tags": [["X"]]}, "the tag 'X'; expected lists"),
    (
      {"tokens": [["a"], ["b", None]], "ner_tags": [["O"], ["O", "O"]]},
      r"train\.parquet: row 1: word 1 is None with the tag 'O'; expected lists",
    ),
    ({"tokens": [["a"], None], "ner_tags": [["O"]] * 2}, "row 1: word 0 is N"),
    ({"tokens": [["a"]] * 2, "ner_tags": [["O"], None]}, "row 1: .* tag None"),
    ({"tokens": [["a"]], "ner_tags": [[None]]}, "'a' with the tag None"),
    ({"tokens": [[7]], "ner_tags": [["O"]]}, "row 0: word 0 is 7 with the tag"),
    ({"tokens": ["ab"], "ner_tags": [["O", "O"]]}, "tokens is of type string"),
    (
      {"tokens": [["-DOCSTART-"]], "ner_tags": [["O"]]},
      "no sentence in this f",
    ),
  ],
)
def test_parquet_that_is_no_such_table(tmp_path, columns, message):
  path = tmp_path / "train.parquet"
  pyarrow.parquet.write_table(pyarrow.table(columns), path)
  with pytest.raises(UserError, match=message):
    task.Ner.read(path)


def test_parquet_that_is_none(tmp_path):
  path = tmp_path / "train.parquet"
  with pytest.raises(UserError, match="no file at"):
    task.Ner.read(path)
  path.write_bytes(b"PAR1")
  with pytest.raises(UserError, match="is not readable parquet"):
    task.Ner.read(path)
