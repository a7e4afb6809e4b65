"""`choose --by=probe`, `--by=teacher` and `probe` on a run of two students."""

import dataclasses
import json

import alone
import jax
import numpy as np
import pytest
import running
import tiny_ud
from meshes import make_mesh

from time_jax.checkpoint import layout
from time_jax.core import notes
from time_jax.core.arrays import make_batch
from time_jax.core.errors import UserError
from time_jax.data import pipeline
from time_jax.evals.common.encoders import open_encoder
from time_jax.evals.probing import text_share
from time_jax.hf import load
from time_jax.run import assembly, corpus, run_files, saved_student

TREEBANK = (
  f"--train={tiny_ud.UD / 'ga-train.conllu.gz'}",
  f"--dev={tiny_ud.UD / 'ga-dev.conllu.gz'}",
)


@pytest.fixture(scope="module")
def together(tiny, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("together")
  flags = (
    "--config.train.num_steps=20",
    "--config.checkpoint.every=10",
    "--config.checkpoint.keep_every=10",
    "--config.students.a.student.num_layers=1",
    "--config.students.a.student.hidden_size=32",
    "--config.students.b.student.init_from=teacher:lower",
  )
  alone.run(*running.command(tiny, workdir, *flags))
  return workdir


def test_steps_and_the_start_have_the_scores_of_the_probe(
  tiny, together, tmp_path
):
  notes.note.cache_clear()
  student = together / "students" / "b"
  printed = alone.run("choose", f"--workdir={student}", "--by=probe", *TREEBANK)
  choice = json.loads((student / "choice.json").read_text())
  assert choice["by"] == "probe"
  assert choice["dev"]["path"].endswith("ga-dev.conllu.gz")
  assert "mean of UPOS, FEATS, DEPREL, heads on ga-dev.conllu.gz" in printed
  out = tmp_path / "probe.json"
  models = [f"{student}@10", f"{student}@20", student / "start"]
  teacher = f"--teacher={tiny / 'teacher'}"
  alone.run("probe", *models, *TREEBANK, teacher, f"--json={out}")
  probed = json.loads(out.read_text())["models"]
  for one in probed:
    assert one["teacher_layers"] == [1, 2, 3]
    assert one["teacher_share"] == one["teacher_shares"][-1][2] < 100
  found = [*(choice["candidates"][s] for s in ("10", "20")), choice["start"]]
  for one, other in zip(found, probed, strict=True):
    assert one["mean"] == pytest.approx(other["mean"])
    assert one["explained"] == pytest.approx(other["mean_explained"])
    assert one["FEATS"] == pytest.approx(other["best"]["FEATS"])
  best = max(("10", "20"), key=lambda s: choice["candidates"][s]["mean"])
  if len({value["mean"] for value in choice["candidates"].values()}) == 2:
    assert choice["step"] == int(best)


def states_of(split, tiny, workdir, step, layer=-1):
  """Tokens of a split: a student's last states, or a layer's, and the third."""
  rows = pipeline.open_rows(layout.data_folder(workdir), split)
  host = next(pipeline.sequential_batches(rows, len(rows)))
  batch = make_batch(host["tokens"], host["segment_ids"])
  encoder, params = load.load_encoder(
    tiny / "teacher", dtype="float32", mesh=make_mesh(1, 1, 1)
  )
  network, own = encoder, params
  if step is not None:
    student = saved_student.read_student(workdir, step)
    network, own = student.encoder, student.params
  states = [
    net.apply({"params": p}, batch, method="hidden_states")[number]
    for net, p, number in ((network, own, layer), (encoder, params, 3))
  ]
  return [np.asarray(x, float)[host["segment_ids"] > 0] for x in states]


def share_by_hand(*of):
  x, y = states_of("train", *of)
  mean = x.mean(0), y.mean(0)
  kernel, *_ = np.linalg.lstsq(x - mean[0], y - mean[1], rcond=None)
  x, y = states_of("validation", *of)
  missed = np.square((x - mean[0]) @ kernel + mean[1] - y).sum()
  return 100 * (1 - missed / np.square(y - y.mean(0)).sum())


def test_steps_have_the_share_of_the_teacher_that_a_linear_map_finds(
  tiny, together
):
  student = together / "students" / "b"
  printed = alone.run("choose", f"--workdir={student}", "--by=teacher")
  choice = json.loads((student / "choice.json").read_text())
  told = "share of the teacher's layer 3 on held-out text, in percent"
  assert choice["by"] == "teacher" and choice["reason"].endswith(told)
  assert choice["layer"] == 3 and len(choice["validation"]) == 1
  assert f"by the highest {told}" in printed
  found = {step: own["share"] for step, own in choice["candidates"].items()}
  assert choice["share"] == max(found.values())
  assert found[str(choice["step"])] == choice["share"]
  for step, share in found.items():
    expected = share_by_hand(tiny, student, int(step))
    # The other map is drawn to 0, as far as some rows say.
    assert share == pytest.approx(expected, abs=2)
    assert 5 < share < 95


def test_as_many_layers_of_the_teacher_are_ranked_with_the_steps(
  tiny, together, capsys
):
  notes.note.cache_clear()
  student = together / "students" / "a"
  printed = alone.run("choose", f"--workdir={student}", "--by=teacher")
  lower = json.loads((student / "choice.json").read_text())["lower"]["share"]
  expected = share_by_hand(tiny, student, None, 1)
  assert lower == pytest.approx(expected, abs=2)
  # A random student of one layer and 20 steps is nothing beside it.
  assert printed.splitlines()[1].split() == ["1", "lower", f"{lower:.2f}"]
  told = "no checkpoint scores as well as layer 1 of the teacher as it is, so"
  assert told in capsys.readouterr().err


def test_a_teacher_holds_all_of_itself_on_any_devices(tiny, together):
  student = together / "students" / "b"
  config = run_files.read_config(student)
  shares = []
  for devices in (1, 2):
    mesh = make_mesh(devices, 1, 1)
    text = text_share.read_text(config, student, mesh, 3)
    models = {str(tiny / "teacher"): None, str(student): 20}
    opened = [
      open_encoder(model, mesh=mesh, dtype="float32", step=step)
      for model, step in models.items()
    ]
    shares.append([text.share(each) for each in opened])
  np.testing.assert_allclose(*shares, atol=1e-3)
  of_itself, of_student = shares[0]
  assert of_itself == pytest.approx(100, abs=1e-3)
  assert of_student < 95


def test_text_that_is_no_good(tiny, together, monkeypatch):
  student = together / "students" / "b"
  config = run_files.read_config(student)
  vocab_size = assembly.teacher_config(config).vocab_size
  whole = corpus.open_corpus(config, student, vocab_size)
  four = pipeline.SomeRows(whole.train, range(4))
  mesh = make_mesh(1, 1, 1)
  for changes, words in (
    ({"validation": None}, "has no held-out text to compare students with"),
    ({"train": four}, "has 4 rows; expected at least 5, to fit a map with"),
  ):
    text = dataclasses.replace(whole, **changes)
    monkeypatch.setattr(corpus, "open_corpus", lambda *of, t=text: t)
    with pytest.raises(UserError, match=words):
      text_share.read_text(config, student, mesh, 3)


def test_a_student_that_is_broken(tiny, together):
  student = together / "students" / "b"
  mesh = make_mesh(1, 1, 1)
  text = text_share.read_text(run_files.read_config(student), student, mesh, 3)
  opened = open_encoder(str(student), mesh=mesh, dtype="float32", step=20)
  params = jax.tree.map(lambda x: x * np.nan, opened.params)
  broken = dataclasses.replace(opened, params=params)
  with pytest.raises(UserError, match="hidden states of b@20 hold NaN"):
    text.share(broken)
