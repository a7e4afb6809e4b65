"""Students as they are before their first step, as models to be scored."""

import json
import pathlib

import exporting
import numpy as np
import pytest
import running
import safetensors.numpy
import tiny_ner
from exporting import command

from time_jax.core.arrays import make_batch
from time_jax.hf import load
from time_jax.parallel import sharding
from time_jax.release import probe

pytestmark = pytest.mark.usefixtures(
  "one_process", "one_device", "without_torch"
)
SHAPE = (
  "--config.student.hidden_size=32",
  "--config.student.num_heads=4",
  "--config.student.intermediate_size=64",
)
GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def words(name, tiny, workdir, *flags):
  _, *recipe = running.command(tiny, workdir)
  return (name, *recipe, *flags)


def begin(init_from):
  return f"--config.student.init_from={init_from}"


def states(folder, batch):
  """All hidden states of a model's folder, the embeddings first."""
  encoder, params = load.load_encoder(
    folder, dtype=np.dtype("float32"), mesh=sharding.make_mesh()
  )
  found = probe.hidden_states(encoder, params, batch)
  return found[:, np.asarray(batch.segment_ids) > 0]


@pytest.fixture
def rows():
  """Two documents, the second of which is padded."""
  tokens = np.random.default_rng(0).integers(5, 90, size=(2, 11))
  real = np.ones((2, 11), np.int32)
  real[1, 7:] = 0
  return make_batch(tokens.astype(np.int32) * real, real)


# What RoBERTa's position table has before its first row, and its epsilon.
@pytest.mark.parametrize(
  "family", [pytest.param("bert", marks=pytest.mark.slow), "xlm_roberta"]
)
def test_lower_states_are_those_of_the_teacher(
  capsys, tiny, tmp_path, rows, family
):
  teacher = GOLDEN / family
  sizes = json.loads((teacher / "config.json").read_text())
  wanted = states(teacher, rows)
  flags = (
    f"--config.teacher.path={teacher}",
    f"--config.student.hidden_size={sizes['hidden_size']}",
    f"--config.student.num_heads={sizes['num_attention_heads']}",
    f"--config.student.intermediate_size={sizes['intermediate_size']}",
    "--config.student.max_positions=11",
    "--config.data.seq_len=11",
    "--config.data.train=()",  # No text is needed.
  )
  command(
    capsys, *words("start", tiny, tmp_path, begin("teacher:lower"), *flags)
  )
  found = states(tmp_path / "start", rows)
  # Blocks in a loop and alone are compiled otherwise.
  np.testing.assert_allclose(found, wanted[:3], atol=1e-5)
  named = begin("teacher:2,1")
  command(capsys, *words("start", tiny, tmp_path, named, *flags))
  other = states(tmp_path / "start", rows)
  np.testing.assert_allclose(other[0], wanted[0], atol=1e-5)
  assert np.abs(other[1:] - wanted[1:3]).max() > 1e-3


@pytest.mark.parametrize(
  "init_from", [pytest.param("", marks=pytest.mark.slow), "teacher:3,1"]
)
def test_distilling_begins_with_it(capsys, tiny, tmp_path, init_from):
  """Behind its first step, whose learning rate is 0, nothing has changed."""
  flags = (
    *SHAPE,
    begin(init_from),
    "--config.train.num_steps=2",
    "--config.checkpoint.every=1",
    "--config.data.validation=()",
    "--config.train.warmup_steps=1",
  )
  output = command(capsys, *words("start", tiny, tmp_path, *flags))
  assert not (tmp_path / "data").exists()
  assert f"--config=RECIPE:model={tmp_path}/start --workdir=" in output
  given = exporting.tensors(tmp_path / "start")
  command(capsys, *words("distill", tiny, tmp_path, *flags))
  command(capsys, "export", f"--workdir={tmp_path}", "--step=1")
  found = exporting.tensors(tmp_path / "export")
  assert given.keys() == found.keys()
  for name, tensor in given.items():
    np.testing.assert_array_equal(tensor, found[name], err_msg=name)
  if init_from:
    teacher = exporting.tensors(tiny / "teacher")
    exporting.assert_layers(found, teacher, [3, 1])
    text = (tmp_path / "export" / "README.md").read_text()
    assert f"| first weights from | {init_from} |" in text
  # It can be written afterwards, too, but not another one.
  command(capsys, *words("start", tiny, tmp_path, *flags))
  again = exporting.tensors(tmp_path / "start")
  np.testing.assert_equal(again, given)
  wrong = begin("teacher:2,2")
  output = command(
    capsys, *words("start", tiny, tmp_path, *flags, wrong), code=2
  )
  assert f"the run in {tmp_path} began otherwise: student.init_from" in output
  command(capsys, *words("distill", tiny, tmp_path, *flags))  # It goes on.


def test_what_is_recorded(capsys, tiny, tmp_path):
  for flags, layers, about in (
    ([begin("teacher:lower"), *SHAPE], [1, 2], "the teacher's layers 1, 2"),
    ([begin("teacher:3,1"), *SHAPE], [3, 1], "the teacher's layers 3, 1"),
    ([], [], "2 layers of 16, random"),
    ([begin(tmp_path / "start")], [], f"as in {tmp_path / 'start'}"),
  ):
    output = command(capsys, *words("start", tiny, tmp_path, *flags))
    assert about in output
    record = json.loads((tmp_path / "start" / "start.json").read_text())
    assert record["layers"] == layers and record["seed"] == 21
    assert "narrowing" not in record
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.slow  # That it can be opened is in probing/criterion_test.
def test_it_is_fine_tuned(capsys, tmp_path):
  encoder = tiny_ner.write_encoder(tmp_path / "teacher")
  sizes = json.loads((encoder / "config.json").read_text())
  flags = (
    f"--config.teacher.path={encoder}",
    f"--config.student.hidden_size={sizes['hidden_size']}",
    f"--config.student.num_heads={sizes['num_attention_heads']}",
    f"--config.student.intermediate_size={sizes['intermediate_size']}",
    "--config.student.num_layers=1",
    f"--config.student.max_positions={sizes['max_position_embeddings']}",
    "--config.teacher.layer=1",
    "--config.relations.num_heads=1",
    begin("teacher:lower"),
  )
  run = tmp_path / "run"
  command(capsys, *words("start", tmp_path, run, *flags))
  tuned = tiny_ner.command(run / "start", tmp_path / "tuned")
  command(capsys, *tuned, "--config.train.epochs=2")
  scores = json.loads((tmp_path / "tuned" / "scores.json").read_text())
  assert scores["label"] == "run/start"


def test_each_of_several_has_its_own(capsys, tiny, tmp_path):
  own = "--config.students."
  flags = (
    *SHAPE,
    f"{own}a.student.init_from=teacher:lower",
    f"{own}a.student.num_layers=1",
    f"{own}b.student.init_from=teacher:3,1",
    f"{own}c.student.seed=4",
  )
  output = command(capsys, *words("start", tiny, tmp_path, *flags))
  teacher = exporting.tensors(tiny / "teacher")
  name = "encoder.layer.{}.output.dense.weight"
  for student, layers in (("a", [1]), ("b", [3, 1])):
    folder = tmp_path / "students" / student / "start"
    assert f"Wrote {folder}: " in output
    found = exporting.tensors(folder)
    for own, theirs in enumerate(layers):
      given = teacher[name.format(theirs - 1)]
      np.testing.assert_array_equal(found[name.format(own)], given)
  assert "students/c/start: 2 layers of 32, random" in output
  wrong = "--config.students.b.student.init_from=teacher:lowest"
  output = command(
    capsys, *words("start", tiny, tmp_path, *flags, wrong), code=2
  )
  assert "b: student.init_from='teacher:lowest': expected teacher:low" in output


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      [begin("teacher:lower"), "--config.student.hidden_size=64"],
      "student.hidden_size=64, there it is 32",
    ),
    (
      [begin("teacher:lower"), "--config.student.num_heads=8"],
      "student.num_heads=8, there it is 4",
    ),
    (
      [begin("teacher:lower"), "--config.student.narrowing=best"],
      "student.narrowing='best'",
    ),
    ([begin("teacher:9,1"), *SHAPE], "the teacher has no layer 9; expected"),
    ([begin("nowhere/at/all")], "no model folder at"),
    (["--config.teacher.path="], "teacher.path is empty"),
  ],
)
def test_refusals(capsys, tiny, tmp_path, flags, message):
  output = command(capsys, *words("start", tiny, tmp_path, *flags), code=2)
  *_, line = output.strip().splitlines()
  assert line.startswith("time_jax: error: ") and message in line
  assert not (tmp_path / "start").exists()


def test_nothing_else_is_replaced(capsys, tiny, tmp_path):
  (tmp_path / "start").mkdir()
  (tmp_path / "start" / "notes.txt").write_text("mine")
  output = command(capsys, *words("start", tiny, tmp_path), code=2)
  assert f"{tmp_path}/start holds something" in output


def test_an_imported_student_is_its_own_start(capsys, tiny, tmp_path):
  sizes = dict(num_layers=2, hidden_size=16, intermediate_size=32)
  source = exporting.random_model(
    tmp_path / "source", tiny / "teacher", **sizes
  )
  run = tmp_path / "run"
  command(capsys, "import", source, f"--workdir={run}")
  output = command(capsys, *words("start", tiny, run), code=2)
  assert f"time_jax export --workdir={run} --step=0` writes it" in output


def test_a_student_may_be_narrower(capsys, tiny, tmp_path, rows):
  """Of a wider teacher its weights are made once, and read from there."""
  flags = (
    begin("teacher:lower"),
    "--config.train.num_steps=2",
    "--config.checkpoint.every=1",
    "--config.data.validation=()",
    "--config.train.warmup_steps=1",
  )
  command(capsys, *words("distill", tiny, tmp_path / "run", *flags))
  output = command(capsys, *words("start", tiny, tmp_path / "alone", *flags))
  assert "the teacher's layers 1, 2, made narrower (the square " in output
  given = exporting.tensors(tmp_path / "run" / "start")
  np.testing.assert_equal(exporting.tensors(tmp_path / "alone/start"), given)
  command(capsys, "export", f"--workdir={tmp_path}/run", "--step=1")
  np.testing.assert_equal(exporting.tensors(tmp_path / "run/export"), given)
  record = json.loads((tmp_path / "run/start/start.json").read_text())
  assert 0.5 < record["narrowing"]["share"] < 1
  y = states(tiny / "teacher", rows)[:3]
  basis = safetensors.numpy.load_file(tmp_path / "run/start/basis.safetensors")
  wanted = y @ basis["basis"]
  found = states(tmp_path / "run" / "start", rows)
  missed = np.square(found - wanted).sum() / np.square(wanted).sum()
  assert missed < 0.5
  # The basis alone makes another student of it.
  other = "--config.student.narrowing=selection"
  command(capsys, *words("start", tiny, tmp_path / "alone", *flags, other))
  again = exporting.tensors(tmp_path / "alone/start")
  name = "embeddings.word_embeddings.weight"
  assert not np.array_equal(again[name], given[name])
  output = command(
    capsys, *words("start", tiny, tmp_path / "run", *flags, other), code=2
  )
  assert "began otherwise: student.narrowing" in output
