"""Where a teacher came from, from its run to the card."""

import json

import preparing
import pytest

from time_jax.config.distill import default_config
from time_jax.hf import lineage
from time_jax.models.bert import BertConfig
from time_jax.release import card, provenance
from time_jax.release.options import Options
from time_jax.run import run_record
from time_jax.run.saved_student import Student

CACHED = "owner/teacher"


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  """A folder to stand in, and a cache of the hub with one model."""
  for name in ("teachers/full", "snapshot"):
    (tmp_path / name).mkdir(parents=True)
  cache = {CACHED: str(tmp_path / "snapshot" / "config.json")}
  monkeypatch.setattr(
    lineage, "try_to_load_from_cache", lambda name, *a, **k: cache.get(name)
  )
  monkeypatch.setattr(
    lineage.files,
    "_download",
    lambda path, *what: tmp_path / "snapshot",
  )
  monkeypatch.chdir(tmp_path)
  return tmp_path


def trim(folder, teacher):
  folder.mkdir(parents=True)
  sizes = {"before": 250_002, "after": 60_001}
  record = {"teacher": teacher, "vocab_size": sizes}
  (folder / "trim.json").write_text(json.dumps(record))


def card_of(workdir, path):
  """The card of a student, exported where the teacher is not."""
  config = default_config()
  config.teacher.path = path
  run = json.loads(config.to_json())
  record = {"run": run, "teacher": lineage.describe(path)}
  shape = BertConfig(
    vocab_size=153,
    hidden_size=24,
    num_layers=2,
    num_heads=2,
    intermediate_size=40,
    max_positions=64,
  )
  student = Student(1, shape, {}, record)
  facts = provenance.collect(workdir, student)
  options = Options(model_class="BertModel", dtype="float32", name="x")
  return card.render(options, shape, facts, [("files", "3 files")])


def test_a_teacher_of_the_hub(tmp_path):
  text = card_of(tmp_path, f"{CACHED}@main")
  assert f"base_model: {CACHED}\n" in text
  assert f"| teacher | {CACHED}@main |" in text and "trimmed" not in text


def test_a_folder_is_no_model_of_the_hub(monkeypatch, tmp_path):
  found = lineage.describe("teachers/full")
  assert found == {"name": "full", "hub": ""}
  monkeypatch.chdir(tmp_path / "teachers")
  assert lineage.hub_id("teachers/full") == ""
  assert lineage.hub_id("package:a/b/c") == ""


@pytest.mark.parametrize(
  ("teacher", "shown", "hub"),
  [(CACHED, CACHED, CACHED), ("teachers/full", "full", "")],
)
def test_what_a_trimmed_teacher_was(tmp_path, teacher, shown, hub):
  trim(tmp_path / "teachers" / "da", teacher)
  text = card_of(tmp_path, "teachers/da")
  tokens = "60,001 of 250,002 tokens"
  assert f"| teacher's tokens trimmed, from | {shown}: {tokens} |" in text
  assert "| teacher | da |" in text
  assert (f"base_model: {CACHED}\n" in text) == bool(hub)


def test_only_the_text_that_a_run_read_is_on_its_card(tmp_path):
  """Not what was prepared later, in the same way, from files of one name."""
  lines = preparing.make_documents(20)
  path = preparing.write_corpus(tmp_path / "text.jsonl", lines)
  rows = preparing.run(tmp_path / "data", path)
  run = {run_record.TEXT: rows.fingerprint, run_record.ROWS: rows.content}
  assert "text_train" in provenance._of_text(tmp_path, run)
  assert provenance._of_text(tmp_path, run | {run_record.ROWS: "others"}) == {}
  before = {run_record.TEXT: rows.fingerprint}  # As older runs recorded it.
  assert "text_train" in provenance._of_text(tmp_path, before)
