"""`choose --by=probe` and `probe WORKDIR@STEP`, on a run of two students."""

import json

import alone
import pytest
import running
import tiny_ud

from time_jax.core import notes

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
    "--config.students.b.student.seed=5",
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
  assert all(0 < one["mean_teacher_share"] < 100 for one in probed)
  found = [*(choice["candidates"][s] for s in ("10", "20")), choice["start"]]
  for one, other in zip(found, probed, strict=True):
    assert one["mean"] == pytest.approx(other["mean"])
    assert one["explained"] == pytest.approx(other["mean_explained"])
    assert one["FEATS"] == pytest.approx(other["best"]["FEATS"])
  best = max(("10", "20"), key=lambda s: choice["candidates"][s]["mean"])
  if len({value["mean"] for value in choice["candidates"].values()}) == 2:
    assert choice["step"] == int(best)
