"""An export without the last layer is the student up to the layer below."""

import importlib.util
import json

import exporting
import numpy as np
import pytest
from exporting import command
from meshes import make_mesh

from time_jax.core.errors import UserError
from time_jax.evals.common import encoders
from time_jax.release import probe
from time_jax.run import saved_student

pytestmark = pytest.mark.usefixtures("without_torch")
HAS_ONNX = all(map(importlib.util.find_spec, ("onnx", "onnxruntime")))


def states(student):
  """All hidden states of a few rows, the embeddings first."""
  rows = probe.make_probe(vocab_size=153, longest=17, pad_id=0, tokenize=None)
  encoder, params = student.encoder, student.params
  return np.asarray(probe.hidden_states(encoder, params, rows.batch()))


def export(capsys, workdir, out, *flags, code=0):
  flags = (f"--workdir={workdir}", f"--out={out}", *flags)
  return command(capsys, "export", *flags, code=code)


def imported_again(capsys, folder, workdir):
  command(capsys, "import", folder, f"--workdir={workdir}")
  return saved_student.read_student(workdir)


def test_states_are_the_first_of_the_student(capsys, tmp_path, imported):
  """Layer by layer, until there is one layer, which stays."""
  run, wanted = imported, states(saved_student.read_student(imported))
  given = exporting.tensors(imported.parent / "source")
  for left in (2, 1):
    out = tmp_path / f"{left}"
    output = export(capsys, run, out, "--drop_last")
    assert "(BertModel, float32, without its last layer)" in output
    assert (
      json.loads((out / "config.json").read_text())["num_hidden_layers"] == left
    )
    output = command(capsys, "verify", out, f"--against={run}")
    assert "No problem found" in output
    assert "tensors are those of step 0" in output
    run = tmp_path / f"run-{left}"
    found = states(imported_again(capsys, out, run))
    # Blocks in a loop and alone are compiled otherwise.
    np.testing.assert_allclose(found, wanted[: left + 1], atol=1e-5)
    for name, tensor in exporting.tensors(out).items():
      np.testing.assert_array_equal(tensor, given[name], err_msg=name)
  output = export(capsys, run, tmp_path / "none", "--drop_last", code=2)
  *_, line = output.strip().splitlines()
  assert line.startswith("time_jax: error: the student has one layer, so that")
  assert not (tmp_path / "none").exists()


def test_it_is_told_from_the_whole_student(capsys, tmp_path, imported, exports):
  out = tmp_path / "export"
  export(capsys, imported, out, "--drop_last")
  whole = exports("BertModel")
  path = out / "time_jax.json"
  record, of_whole = (
    json.loads((folder / "time_jax.json").read_text())
    for folder in (out, whole)
  )
  assert record["drop_last"] is True and "drop_last" not in of_whole
  assert record["identity"] != of_whole["identity"]
  mesh = make_mesh(1, 1, 1)
  opened = encoders.open_encoder(str(out), mesh=mesh, dtype="float32")
  assert opened.identity.value == record["identity"]
  path.write_text(json.dumps({**record, "drop_last": False}))
  output = command(capsys, "verify", out, f"--against={imported}", code=2)
  assert "tensors are not those of step 0" in output


def test_the_card_says_so(capsys, tmp_path, released):
  workdir, *_ = released
  out = tmp_path / "export"
  export(capsys, workdir, out, "--drop_last", "--step=20")
  text = (out / "README.md").read_text()
  assert "| left out | layer 2, the last |" in text
  assert "| layers | 1 |" in text
  assert "a layer on top of it learned" in text
  assert "is left out. The pooler is as it was initialised" in text
  assert "or take an earlier layer" not in text
  assert "No problem found" in command(
    capsys, "verify", out, f"--against={workdir}"
  )
  again = tmp_path / "again"
  imported_again(capsys, out, again)
  export(capsys, again, tmp_path / "second")
  second = (tmp_path / "second" / "README.md").read_text()
  assert "| left out | layer 2, the last |" in second


def test_an_earlier_version_knew_the_whole_one_alone(released):
  student = saved_student.read_student(released[0], 20)
  assert student.identity.known_before
  assert not student.without_last().identity.known_before


@pytest.mark.skipif(not HAS_ONNX, reason="onnx is not installed")
def test_onnx_files_have_as_many_layers(capsys, tmp_path, imported):
  """The float32 file is compared with JAX when it is written."""
  output = export(capsys, imported, tmp_path / "e", "--drop_last", "--onnx")
  assert "onnxruntime equals JAX within" in output


def test_one_layer_is_not_dropped(imported):
  student = saved_student.read_student(imported)
  one = student.without_last().without_last()
  assert one.config.num_layers == 1 and "layers" not in one.params
  with pytest.raises(UserError, match="expected at least two"):
    one.without_last()
