"""The file of a sweep: its arguments, and the grids that are shipped."""

import itertools
import json
import math
import pathlib
import shutil
import struct

import pytest
import running
import safetensors.numpy

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.run import assembly
from time_jax.sweeps import grid, summary
from time_jax.sweeps.points import make_points


def test_no_such_file_or_argument(capsys, tmp_path):
  shapes = f"{running.ROOT}/configs/sweep_shapes.py"
  (tmp_path / "plain.py").write_text("def get_sweep(a): return 1")
  for spec, message in (
    ("none.py", "no sweep 'none.py' in "),
    (
      f"{shapes}:lang=da,text=FILE,ud=",
      f"{shapes} needs ud, limit_ms: give {shapes}:ud=VALUE,limit_ms=VALUE; ",
    ),
    (f"{tmp_path}/plain.py:a=1,b=2", "plain.py has no argument 'b'; known: a."),
  ):
    words = ["sweep", spec, f"--workdir={tmp_path}/run"]
    assert main.main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  ("name", "arguments", "count"),
  [
    ("heads", {"size": "s", "lang": "da"}, 4),
    ("layers", {"lang": "da"}, 5),
    ("tokens", {"teacher": "xlmr_large"}, 4),
    ("shapes", {"text": "t.txt", "limit_ms": "5"}, 12),
    ("steps", {"sizes": "m+xs", "steps": "0+100+400"}, 6),
  ],
)
def test_the_sweeps_here(monkeypatch, tmp_path, name, arguments, count):
  seen = []
  for code, split in itertools.product(("da", "en"), ("train", "dev", "test")):
    (tmp_path / f"{code}_x-ud-{split}.conllu").touch()
  monkeypatch.setattr(assembly, "teacher_config", seen.append)
  monkeypatch.chdir(running.ROOT)
  text = ",".join(f"{k}={v}" for k, v in {"ud": tmp_path, **arguments}.items())
  found = grid.load(f"configs/sweep_{name}.py:{text}")
  points = make_points(found, pathlib.Path("runs/x"), main.COMMANDS)
  assert len(points) == count == len(seen)
  for config in seen:
    assert config.teacher.path == "FacebookAI/xlm-roberta-large"
    assembly.check_heads(
      config.relations.num_heads, {"": config.student.hidden_size, " ": 1024}
    )
    assert config.teacher.layer < 24
    assert config.student.hidden_size % config.student.num_heads == 0


def test_a_sweep_with_a_teacher_of_the_users_own(monkeypatch, tiny, tmp_path):
  monkeypatch.chdir(running.ROOT)
  for split in ("train", "dev", "test"):
    (tmp_path / f"en_x-ud-{split}.conllu").touch()
  teacher = tiny / "teacher"
  text = f"ud={tmp_path},text=t,limit_ms=5,teacher={teacher}"
  found = grid.load(f"configs/sweep_shapes.py:{text}")
  fields = "--config.data.seq_len=32", "--config.train.num_steps=9"
  found = grid.with_fields(found, fields)
  points = make_points(found, pathlib.Path("runs/x"), main.COMMANDS)
  assert len(points) == 12
  for point in points:
    measure, distill, *_ = (stage.values for stage in point.stages)
    assert measure.tokenizer == str(teacher)
    assert distill.config.teacher.path == str(teacher)
    assert distill.config.teacher.layer == 3
    assert distill.config.train.num_steps == 9


@pytest.fixture
def deep(tiny, tmp_path):
  """A teacher of 12 x 384: the headers of its files, which checks read."""
  folder = tmp_path / "deep"
  shutil.copytree(tiny / "teacher", folder)
  config = json.loads((folder / "config.json").read_text())
  config |= {"num_hidden_layers": 12, "max_position_embeddings": 512}
  config |= {"hidden_size": 384, "intermediate_size": 1536}
  (folder / "config.json").write_text(json.dumps(config))
  header, end = {}, 0
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  for name, tensor in tensors.items():
    if ".1." in name or ".2." in name:
      continue  # All layers are as the first one.
    larger = {32: 384, 64: 512 if "position" in name else 1536}
    shape = [larger.get(size, size) for size in tensor.shape]
    for layer in range(12 if ".0." in name else 1):
      start, end = end, end + 4 * math.prod(shape)
      entry = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
      header[name.replace(".0.", f".{layer}.")] = entry
  text = json.dumps(header).encode()
  with (folder / "model.safetensors").open("wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    file.truncate(file.tell() + end)  # Zeros, which take no room.
  return folder


def test_no_steps_are_the_start(monkeypatch, deep, tmp_path):
  monkeypatch.chdir(running.ROOT)
  for split in ("train", "dev", "test"):
    (tmp_path / f"hu_x-ud-{split}.conllu").touch()
  text = f"ud={tmp_path},lang=hu,sizes=xs,steps=0+7,scoring=ud_small,seeds=3+4"
  text += ",start=teacher:lower"
  found = grid.load(f"sweep_steps:{text},teacher={deep}")
  found = grid.with_fields(found, ["--config.data.seq_len=32"])
  distil, start = make_points(found, tmp_path / "run", main.COMMANDS)
  assert [stage.name for stage in start.stages] == ["start", "finetune ud"]
  model = start.stages[1].values.config.model
  assert model == str(start.folder / "student" / "start")
  assert distil.stages[0].name == "distill"
  assert distil.stages[0].values.config.train.num_steps == 7
  assert found.x == "tokens"
  assert summary.tokens(start) == 0 and summary.tokens(distil) is None
  # So little text is enough for a narrower start, where there is no other.
  assert start.stages[0].values.config.train.num_steps == 1
  begun = [p.stages[0].values.config.student.init_from for p in (start, distil)]
  assert begun == ["teacher:lower", "teacher:spaced"]
  for point in (start, distil):
    first, last = point.stages[0].values.config, point.stages[-1].values.config
    assert first.student.num_layers == 4 and first.data.seq_len == 32
    assert first.data.folder == str(tmp_path / "run" / "data")
    assert last.train.batch_size == 8 and last.seeds == (3, 4)
  with pytest.raises(UserError, match="steps='a'; expected whole"):
    grid.load(f"sweep_steps:ud={tmp_path},steps=a")
  with pytest.raises(UserError, match=r"seeds='0\+'; expected whole"):
    grid.load(f"sweep_steps:ud={tmp_path},seeds=0+")


def test_layers_that_a_teacher_lacks_are_refused_before_any_run(
  monkeypatch, tiny, tmp_path
):
  monkeypatch.chdir(running.ROOT)
  for split in ("train", "dev", "test"):
    (tmp_path / f"hu_x-ud-{split}.conllu").touch()
  text = f"ud={tmp_path},lang=hu,sizes=xs,steps=0,start=teacher:lower"
  found = grid.load(f"sweep_steps:{text},teacher={tiny / 'teacher'}")
  found = grid.with_fields(found, ["--config.data.seq_len=32"])
  with pytest.raises(UserError, match="student.num_layers=4 is more than the"):
    make_points(found, tmp_path / "run", main.COMMANDS)


def test_models_of_a_language_are_points(monkeypatch, deep, tmp_path):
  monkeypatch.chdir(running.ROOT)
  for split in ("train", "dev", "test"):
    (tmp_path / f"hu_x-ud-{split}.conllu").touch()
    (tmp_path / f"hu-{split}.iob2").touch()
  models = "teacher+lower-s+random-xs+s+paper-xs"
  text = f"data={tmp_path},lang=hu,tasks=ud+ner,ud=ud_small,seeds=0+1,epochs=5"
  text += f",models={models},teacher={deep}"
  short = ["--config.data.seq_len=32"]
  sweep = grid.with_fields(grid.load(f"sweep_models:{text}"), short)
  points = make_points(sweep, tmp_path / "run", main.COMMANDS)
  found = {point.values["model"]: point for point in points}
  assert [*found] == models.split("+")
  for name, point in found.items():
    names = [stage.name for stage in point.stages]
    assert names[-2:] == ["finetune ud", "finetune ner"]
    for stage in point.stages[-2:]:
      assert stage.values.config.label == name
      assert stage.values.config.seeds == (0, 1)
      assert stage.values.workdir == point.folder / stage.name.split()[1]
    treebank = point.stages[-2].values.config.train
    assert (treebank.batch_size, treebank.epochs, treebank.patience) == (
      8,
      5,
      5,
    )
  first = {
    name: (point.stages[0].name, point.stages[-1].values.config.model)
    for name, point in found.items()
  }
  student = {name: str(p.folder / "student") for name, p in found.items()}
  assert first == {
    "teacher": ("finetune ud", str(deep)),
    "lower-s": ("start", f"{student['lower-s']}/start"),
    "random-xs": ("start", f"{student['random-xs']}/start"),
    "s": ("distill", student["s"]),
    "paper-xs": ("distill", student["paper-xs"]),
  }
  config = {k: found[k].stages[0].values.config for k in [*found][1:]}
  begun = {name: own.student.init_from for name, own in config.items()}
  assert begun["lower-s"] == "teacher:lower"
  assert begun["random-xs"] == begun["paper-xs"] == ""
  assert config["s"].student.num_layers == 6
  assert config["paper-xs"].student.num_layers == 4
  assert config["paper-xs"].relations.weights.qq == 1
  with pytest.raises(UserError, match="unknown models 'm-xs'; known: teacher"):
    grid.load(f"sweep_models:{text}".replace("paper-xs", "m-xs"))
