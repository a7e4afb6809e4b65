"""Commands take a student of several as if it had been trained alone."""

import json
import shutil

import exporting
import jax
import joining
import numpy as np
import pytest
import running
import tiny_ner
from meshes import make_mesh

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.evals.common import encoders
from time_jax.hf import files
from time_jax.models.bert import BertConfig, Encoder
from time_jax.models.family import abstract_params
from time_jax.parallel import sharding
from time_jax.run import corpus, run_files, saved_student

pytestmark = pytest.mark.usefixtures("without_torch")


@pytest.fixture(scope="module")
def joint(released, tmp_path_factory):
  """Folder of a run in which xs is the released student and m another."""
  alone, *_ = released
  workdir = tmp_path_factory.mktemp("joint") / "run"
  shape = BertConfig(**json.loads((alone / "student.json").read_text()))
  boxed = abstract_params(Encoder(shape, shape.num_layers))
  abstract = {"params": sharding.abstract(boxed, make_mesh(1, 1, 1))}
  joining.join(
    workdir,
    {"m": alone, "xs": alone},
    abstract,
    lambda name, leaf: leaf * np.float32(1.5) if name == "m" else leaf,
  )
  return workdir


@pytest.fixture
def copied(joint, tmp_path):
  shutil.copytree(joint, tmp_path / "run")
  return tmp_path / "run"


def written(folder):
  """The files of an export, with a card that does not say where it is."""
  found = {path.name: path.read_bytes() for path in folder.iterdir()}
  card = found["README.md"].decode().replace(str(folder), "FOLDER")
  lines = card.splitlines()
  return found | {"README.md": [x for x in lines if "PyTorch" not in x]}


def test_choose_export_and_verify(released, joint, capsys):
  alone, _, _ = released
  xs, m = joint / "students" / "xs", joint / "students" / "m"
  output = exporting.command(capsys, "choose", f"--workdir={xs}")
  assert f"written to {xs}/choice.json" in output
  assert (xs / "choice.json").read_bytes() == (
    alone / "choice.json"
  ).read_bytes()
  flags = f"--workdir={xs}", "--license=cc-by-4.0"
  exporting.command(capsys, "export", *flags)
  # The card and the record too: with the text that it was trained on.
  found, wanted = written(xs / "export"), written(alone / "export")
  assert found == wanted
  assert any("train.jsonl: " in line for line in found["README.md"])
  output = exporting.command(capsys, "verify", xs / "export", f"--against={xs}")
  assert "No problem found" in output
  other = exporting.command(
    capsys, "verify", xs / "export", f"--against={m}", code=2
  )
  assert "WRONG" in other
  assert not (joint / "choice.json").exists()
  assert {path.name for path in joint.iterdir()} == {
    *("config.json", "checkpoints", "data", "students"),
  }


def test_finetune_begins_with_it(released, joint, mesh):
  alone, *_ = released
  how = {"mesh": mesh, "dtype": "float32", "step": 20}
  wanted = encoders.open_encoder(str(alone), **how)
  found = encoders.open_encoder(str(joint / "students" / "xs"), **how)
  other = encoders.open_encoder(str(joint / "students" / "m"), **how)
  assert found.name == "xs@20" and found.identity == wanted.identity
  assert other.identity.value != wanted.identity.value
  jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)


def test_status(joint, capsys):
  folder = joint / "students" / "xs"
  output = exporting.command(capsys, "status", folder)
  assert output.startswith(f"{folder}: done, step 30 of 30")
  assert "checkpoints  3, the newest of step 30;" in output


def test_its_text_is_that_of_the_run(copied):
  folder = copied / "students" / "xs"
  config = run_files.read_config(folder)
  assert corpus.data_folder(config, folder) == copied / "data"
  (folder / "data").mkdir()
  assert corpus.data_folder(config, folder) == folder / "data"
  config.data.folder = "/other"
  assert str(corpus.data_folder(config, folder)) == "/other"


def refusals(workdir, tiny, tmp_path):
  """Name -> the words of a command that wants one student."""
  recipe = running.command(tiny, tmp_path / "new")
  return {
    "choose": ["choose", f"--workdir={workdir}"],
    "export": ["export", f"--workdir={workdir}"],
    "against": ["verify", tiny / "teacher", f"--against={workdir}"],
    "verify": ["verify", workdir],
    "finetune": tiny_ner.command(workdir, tmp_path / "tuned"),
    "init_from": [*recipe, f"--config.student.init_from={workdir}"],
    "plot": ["status", workdir, f"--plot={tmp_path}/losses.png"],
  }


NAMES = refusals("", running.ROOT, running.ROOT)


def refused(words, capsys):
  """The line that a command ends with."""
  assert main.main([str(word) for word in words]) == 2
  output = capsys.readouterr()
  wrong = [x for x in output.out.splitlines() if "WRONG" in x]  # `verify`
  *_, line = wrong or output.err.strip().splitlines()
  assert wrong or line.startswith("time_jax: error: ")
  return line.removeprefix("time_jax: error: ")


@pytest.mark.parametrize("name", NAMES)
def test_one_of_several_is_to_be_named(
  joint, tiny, capsys, tmp_path, name, one_process
):
  line = refused(refusals(joint, tiny, tmp_path)[name], capsys)
  assert line.endswith(
    f"{joint} holds the students m, xs; expected one of them, such as "
    f"{joint}/students/m."
  )


@pytest.mark.parametrize("name", [n for n in NAMES if n != "plot"])
def test_a_folder_that_was_moved_out(
  joint, tiny, capsys, tmp_path, name, one_process
):
  moved = tmp_path / "moved" / "a" / "xs"
  shutil.copytree(joint / "students" / "xs", moved)
  line = refused(refusals(moved, tiny, tmp_path)[name], capsys)
  if name in ("verify", "init_from"):  # As of any other workdir.
    assert f"time_jax export --workdir={moved}` makes one" in line
  else:
    assert f"{moved} is the folder of the student xs of a run of" in line
    assert f"expected xs among the students of {tmp_path}/moved/config" in line


def test_status_of_a_folder_that_was_moved_out(joint, capsys, tmp_path):
  moved = tmp_path / "xs"
  shutil.copytree(joint / "students" / "xs", moved)
  line = refused(["status", moved], capsys)
  assert line.startswith(f"{moved} is the folder of the student xs of a run")


def test_no_model_of_transformers(joint):
  with pytest.raises(UserError, match="a workdir, not the folder of"):
    files.model_config(joint / "students" / "xs")


def test_a_step_that_is_not_there(joint):
  folder = joint / "students" / "xs"
  with pytest.raises(UserError, match=f"of step 11 in {folder}; the"):
    saved_student.read_student(folder, 11)
