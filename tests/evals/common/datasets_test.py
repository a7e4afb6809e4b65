"""Files of a split: named, on the hub, or by their usual names."""

import json

import pyarrow
import pyarrow.parquet
import pytest
import tiny_ner

from time_jax.config import finetune
from time_jax.core.errors import UserError
from time_jax.data import hub
from time_jax.evals.common import datasets, finetuning
from time_jax.evals.ner import iob, task

TAGS = ["O", "B-PER", "I-PER"]
WORDS = [["Anna", "Lund", "ler"], ["Ja"], []]
NUMBERS = [[2, 2, 0], [0], []]


@pytest.fixture
def release(tmp_path):
  for name in (
    *("da_ddt-ud-train.conllu", "da_ddt-ud-dev.conllu.gz", "da_ddt-um-train"),
    *("de_gsd-ud-test.conllu", "de_pud-ud-test.conllu", "de_hdt-ud-dev.conllu"),
    *("en_pud-ud-test.conllu", "en_gum-ud-test.conllu"),
    *("no_bokmaal-ud-dev.conllu", "no_nynorsk-ud-dev.conllu"),
    *("wikiann_de-train.iob2.gz", "uner_da_ddt-train.iob2"),
  ):
    folder = tmp_path / name.split("-")[0]
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("")
  return tmp_path


def test_files_by_their_usual_names(release):
  def find(*which):
    found = datasets.find(*which, str(release))
    return found.rpartition("/")[2]

  assert find("ud", "da", "train") == "da_ddt-ud-train.conllu"
  assert find("ud", "dan", "dev") == "da_ddt-ud-dev.conllu.gz"
  assert find("ud", "da", "test") == ""
  assert find("ud", "de", "test") == "de_gsd-ud-test.conllu"  # The usual one.
  assert find("ud", "de", "dev") == "de_hdt-ud-dev.conllu"
  assert find("ud", "nb", "dev") == "no_bokmaal-ud-dev.conllu"
  assert find("ud", "nn", "dev") == "no_nynorsk-ud-dev.conllu"
  assert find("ner", "da", "train") == "uner_da_ddt-train.iob2"
  with pytest.raises(
    UserError, match="could be test: en_gum-ud-test.conllu, en"
  ):
    find("ud", "en", "test")
  with pytest.raises(UserError, match="needs a language"):
    find("ud", "", "test")
  with pytest.raises(UserError, match="no such folder; expected one, or wiki"):
    datasets.find("ud", "da", "dev", "nowhere")


def test_the_empty_splits_of_a_recipe(release):
  config = finetune.ud_config()
  config.lang, config.data.source = "da", str(release)
  config.data.test = "mine.conllu"
  finetuning.locate(config)
  assert config.data.train.endswith("/da_ddt-ud-train.conllu")
  assert config.data.test == "mine.conllu"
  config = finetune.ud_config()
  config.lang, config.data.source = "de", str(release)
  with pytest.raises(UserError, match="no file of de that is called train"):
    finetuning.locate(config)


def test_files_on_the_hub(monkeypatch, tmp_path):
  there = {
    ("a/b@main", "x/*.parquet"): ["x/1.parquet"],
    ("a/b", "*"): ["1", "2"],
  }
  there["unimelb-nlp/wikiann", "da/validation-*.parquet"] = ["da/v.parquet"]
  monkeypatch.setattr(hub, "find_files", lambda *where: there[where])
  monkeypatch.setattr(hub, "fetch", lambda name, path: tmp_path / name / path)
  found = datasets.fetch("hf:a/b@main/x/*.parquet")
  assert found == tmp_path / "a/b@main/x/1.parquet"
  name = datasets.find("ner", "da", "dev", "wikiann")
  assert datasets.fetch(name) == tmp_path / "unimelb-nlp/wikiann/da/v.parquet"
  with pytest.raises(UserError, match="means several files: 1, 2; name one"):
    datasets.fetch("hf:a/b/*")
  with pytest.raises(UserError, match="expected hf:OWNER/NAME/PATTERN"):
    datasets.fetch("hf:a/b")
  with pytest.raises(UserError, match="WikiANN has no ud data in Danish"):
    datasets.find("ud", "da", "dev", "wikiann")


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
    ({"tokens": WORDS, "ner_tags": NUMBERS}, "row 0: the tag 2 has no name"),
    ({"tokens": [["a"]], "ner_tags": [["O"] * 2]}, "row 0 has 1 words and 2 t"),
    ({"tokens": [["a"]], "ner_tags": [["X"]]}, "the tag is 'X', expected O"),
    (
      {"tokens": [["a"], ["b", None]], "ner_tags": [["O"], ["O", "O"]]},
      r"train\.parquet: row 1: a token is missing \(null\); expected lists",
    ),
    (
      {"tokens": [["a"], None], "ner_tags": [["O"], ["O"]]},
      "row 1: tokens is mi",
    ),
    (
      {"tokens": [["a"], ["b"]], "ner_tags": [["O"], None]},
      "row 1: ner_tags is",
    ),
    ({"tokens": [["a"]], "ner_tags": [[None]]}, "row 0: a tag is missing"),
    ({"tokens": [[7]], "ner_tags": [["O"]]}, "row 0: a token is 7; expected"),
    (
      {"tokens": ["ab"], "ner_tags": [["O", "O"]]},
      "row 0: tokens is 'ab'; exp",
    ),
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
