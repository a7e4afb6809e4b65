"""A model is known by its content, wherever it lies and whoever wrote it."""

import dataclasses
import json
import shutil

import exporting
import flax.linen as nn
import jax
import numpy as np
import pytest
import tiny_ud
import tokenizers
from exporting import command

from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.evals.common import tuning
from time_jax.evals.common.encoders import open_encoder
from time_jax.hf import model_identity
from time_jax.hf.model_identity import Identity
from time_jax.models import bert
from time_jax.models.family import abstract_params
from time_jax.report.results import Result
from time_jax.run import saved_student
from time_jax.sweeps import summary

SHAPE = bert.BertConfig(
  vocab_size=11,
  hidden_size=8,
  num_layers=2,
  num_heads=2,
  intermediate_size=12,
  max_positions=5,
)


def params(config=SHAPE, seed=0):
  boxed = abstract_params(bert.Encoder(config, config.num_layers))
  random = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: random.normal(size=x.shape).astype(np.float32),
    nn.meta.unbox(boxed),
  )


def arrays(found, config=SHAPE):
  return model_identity.arrays_sha256(config, found)


def test_the_form_of_a_student_counts():
  """RoBERTa's unused rows, one token type, no pooler: it is the same model."""
  student = params()
  student["embeddings"]["token_type"]["embedding"][1] = 0
  student["pooler"] = {
    "kernel": np.zeros((8, 8), np.float32),
    "bias": np.zeros(8, np.float32),
  }
  other = {name: tree for name, tree in student.items() if name != "pooler"}
  table = student["embeddings"]["position"]["embedding"]
  types = student["embeddings"]["token_type"]["embedding"]
  other["embeddings"] = student["embeddings"] | {
    "position": {"embedding": np.pad(table, ((2, 0), (0, 0)))},
    "token_type": {"embedding": types[:1]},
  }
  roberta = dataclasses.replace(SHAPE, position_offset=2, num_token_types=1)
  assert arrays(student) == arrays(other, roberta)


def test_every_number_counts():
  names = {arrays(params())}
  for path in (
    ("pooler", "bias"),
    ("last", "ffn_out", "bias"),
    ("layers", "query", "kernel"),
    ("embeddings", "position", "embedding"),
  ):
    changed = leaf = params()
    for key in path:
      leaf = leaf[key]
    leaf.flat[-1] += 1e-6
    names.add(arrays(changed))
  assert len(names) == 5
  turned = params()
  first, second = turned["layers"], turned["last"]
  turned["last"] = {
    name: {k: x[0] for k, x in block.items()} for name, block in first.items()
  }
  turned["layers"] = {
    name: {k: x[None] for k, x in block.items()}
    for name, block in second.items()
  }
  assert arrays(turned) not in names


def test_shape_and_tokenizer_count_and_what_only_shapes_training_does_not():
  def of(config, words="words"):
    return model_identity.of_student(config, "arrays", words)

  replace = dataclasses.replace
  others = [
    of(replace(SHAPE, num_heads=4)),
    of(replace(SHAPE, layer_norm_eps=1e-5)),
    of(SHAPE, "others"),
  ]
  assert len({of(SHAPE), *others}) == 4
  same = replace(SHAPE, dropout=0.1, layer_norm_eps=9.999999960041972e-13)
  assert of(same) == of(SHAPE)


def test_the_same_words_cut_otherwise_are_another_tokenizer(tiny, tmp_path):
  size = len(tokenizers.Tokenizer.from_file(str(words(tiny))).get_vocab())
  first = model_identity.tokenizer_sha256(tiny / "teacher", size)
  shutil.copytree(tiny / "teacher", tmp_path / "again")
  assert model_identity.tokenizer_sha256(tmp_path / "again", size) == first
  backend = tokenizers.Tokenizer.from_file(str(words(tiny)))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  backend.post_processor = None
  backend.save(str(tmp_path / "again" / "tokenizer.json"))
  assert model_identity.tokenizer_sha256(tmp_path / "again", size) != first
  assert model_identity.tokenizer_sha256(tmp_path, size) == ""


def words(tiny):
  return tiny / "teacher" / "tokenizer.json"


@pytest.fixture(scope="module")
def imported(tiny, tmp_path_factory):
  home = tmp_path_factory.mktemp("imported")
  exporting.random_model(home / "source", tiny / "teacher")
  exporting.quietly("import", home / "source", f"--workdir={home / 'run'}")
  return home / "run"


def test_a_source_and_its_import_are_one_model(imported, mesh):
  places = imported, imported.parent / "source"
  found = {
    open_encoder(str(place), mesh=mesh, dtype="float32").identity.value
    for place in places
  }
  assert len(found) == 1


def test_a_record_of_other_weights_is_not_taken_over(capsys, tiny, tmp_path):
  folder = exporting.random_model(tmp_path / "source", tiny / "teacher")
  record = {"step": 3, "files": {}, "fingerprint": {}, "identity": "0" * 64}
  (folder / "time_jax.json").write_text(json.dumps(record))
  flags = folder, f"--workdir={tmp_path / 'run'}"
  output = command(capsys, "import", *flags, code=2)
  assert "is of other weights or another tokenizer" in output
  assert not (tmp_path / "run").exists()


def test_a_hash_of_before_is_taken_where_it_is_of_one_model(capsys, tmp_path):
  place = tmp_path / "seed-0"
  model = Identity("new", "old")
  assert model_identity.upgrade_record(
    {model_identity.KEY: "new"}, model, place
  ) == {model_identity.KEY: "new"}
  assert not capsys.readouterr().err
  for _ in range(2):
    found = model_identity.upgrade_record(
      {model_identity.KEY: "old"}, model, place
    )
    assert found == {model_identity.KEY: "new"}
  (line,) = capsys.readouterr().err.splitlines()
  assert "knows its model by the hash of an earlier version" in line
  unclear = dataclasses.replace(model, legacy_is_unique=False)
  with pytest.raises(UserError, match="Use another --workdir"):
    model_identity.upgrade_record({model_identity.KEY: "old"}, unclear, place)
  other = {model_identity.KEY: "other"}
  with pytest.raises(UserError, match=r"model \(SHA-256\): 'other' then"):
    tuning.check_same(
      model_identity.upgrade_record(other, model, place),
      {model_identity.KEY: "new"},
      place,
    )


def test_which_hashes_of_before_are_of_one_model(monkeypatch):
  monkeypatch.setattr(model_identity, "arrays_sha256", lambda *_: "a")
  student = saved_student.Student(3, SHAPE, {}, {"run": {"seed": 1}})
  turned = {"run": {"seed": 1}, "hardware": {"devices": 2}}
  same = dataclasses.replace(student, record=turned)
  assert same.identity == student.identity and student.identity.legacy_is_unique
  later = dataclasses.replace(student, step=4)
  assert later.identity.legacy != student.identity.legacy
  assert later.identity.value == student.identity.value
  for record, proves in (
    ({"run": {"student": {"init_from": "teacher:1"}}}, True),
    ({"run": {"student": {"init_from": "some/folder"}}}, False),
    ({"run": {"seed": 1}, "imported": {"from": "a"}}, False),
  ):
    found = dataclasses.replace(student, record=record).identity
    assert found.legacy_is_unique == proves


class _EnoughError(Exception):
  pass


def trained(monkeypatch, model, workdir, change):
  """As if a run had been finished: its record, changed, and made-up scores."""

  def stop(self, beat):
    run = change(dict(self.record))
    done = {"run": run, "scores": {}, "seconds": 1.0}
    atomic_file.write_json(self.workdir / "scores.json", done)
    raise _EnoughError

  with monkeypatch.context() as patch:
    patch.setattr(tuning.Tuning, "tune", stop)
    with pytest.raises(_EnoughError):
      exporting.quietly(*tiny_ud.command(model, workdir))


@pytest.mark.usefixtures("one_process")
def test_another_model_of_one_shape_is_refused(capsys, monkeypatch, tmp_path):
  first = tiny_ud.write_encoder(tmp_path / "first")
  second = tmp_path / "second"
  shutil.copytree(first, second)
  content = exporting.tensors(first)
  exporting.write_tensors(second, {k: 2 * x for k, x in content.items()})
  runs = [tmp_path / f"run-{i}" for i in range(2)]
  for source, run in zip((first, second), runs, strict=True):
    exporting.quietly("import", source, f"--workdir={run}")
  trained(monkeypatch, runs[0], tmp_path / "tuned", dict)
  output = command(
    capsys, *tiny_ud.command(runs[1], tmp_path / "tuned"), code=2
  )
  assert "belongs to another run: model (SHA-256): " in output

  def before(record):
    return record | {
      model_identity.KEY: saved_student.read_student(runs[0]).identity.legacy
    }

  # Of before, when both had one hash: nobody can tell any more.
  trained(monkeypatch, runs[0], tmp_path / "early", before)
  for run in runs:
    output = command(capsys, *tiny_ud.command(run, tmp_path / "early"), code=2)
    assert "it cannot be told whether this is the same model" in output


def test_one_row_of_a_sweep_is_of_one_model(tmp_path):
  def result(task, fingerprint, before="", model="student"):
    return Result(
      *(tmp_path / task, task, "ga", "m", fingerprint, {"all": 1}, {}, [0], ""),
      before=before,
      model=model,
    )

  ud, ner = result("ud", "a"), result("ner", "b")
  with pytest.raises(UserError, match="which held another model each time"):
    summary.check_models([ud, ner])
  summary.check_models([ud, result("ner", "b", before="a")])
  summary.check_models([ud, result("ner", "b", model="teacher")])
