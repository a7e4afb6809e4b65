"""Files of a split: named, on the hub, or by their usual names."""

import pytest

from time_jax.config import finetune
from time_jax.core.errors import UserError
from time_jax.data import hub
from time_jax.evals.common import finetuning, split_files


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
    found = split_files.resolve(*which, "", str(release))
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
    split_files.resolve("ud", "da", "dev", "", "nowhere")


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
  found = split_files.fetch("hf:a/b@main/x/*.parquet")
  assert found == tmp_path / "a/b@main/x/1.parquet"
  name = split_files.resolve("ner", "da", "dev", "", "wikiann")
  assert (
    split_files.fetch(name) == tmp_path / "unimelb-nlp/wikiann/da/v.parquet"
  )
  with pytest.raises(UserError, match="means several files: 1, 2; name one"):
    split_files.fetch("hf:a/b/*")
  with pytest.raises(UserError, match="expected hf:OWNER/NAME/PATTERN"):
    split_files.fetch("hf:a/b")
  with pytest.raises(UserError, match="WikiANN has no ud data in Danish"):
    split_files.resolve("ud", "da", "dev", "", "wikiann")
