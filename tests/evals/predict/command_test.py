"""`predict` where the terminal, the disk or the packages are odd."""

import errno
import io
import json
import sys
import types

import pytest
import tiny_ud

from time_jax import api
from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.hf import onnx_graph
from time_jax.parallel import sharding

LINES = "Tá an lá go breá .\n\N{GRINNING FACE}\r\n"


@pytest.fixture(scope="module")
def folder(mesh, tmp_path_factory):
  return tiny_ud.write_model(tmp_path_factory.mktemp("model") / "ud", mesh)


@pytest.fixture(autouse=True)
def one_device(mesh, monkeypatch):
  """So that little is compiled."""
  monkeypatch.setattr(sharding, "make_mesh", lambda **sizes: mesh)


def run(folder, data, out, monkeypatch):
  source = types.SimpleNamespace(buffer=io.BytesIO(data))
  monkeypatch.setattr(sys, "stdin", source)
  monkeypatch.setattr(sys, "stdout", out)
  return main.main(["predict", str(folder), "--engine=jax"])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_output_is_utf8_in_every_terminal(folder, encoding, monkeypatch):
  written = io.BytesIO()
  out = io.TextIOWrapper(written, encoding=encoding)
  assert run(folder, LINES.encode(), out, monkeypatch) == 0
  text = written.getvalue().decode()
  forms = [line.split("\t")[1] for line in text.splitlines() if line]
  assert forms == LINES.split()
  assert text == api.predict(folder, LINES, "jax")


def test_half_a_surrogate_pair_is_refused(folder):
  with pytest.raises(UserError, match="^input:2: not UTF-8 at byte 3 of"):
    api.predict(folder, "Tá\na \ud83d\n", "jax")


def test_a_disk_that_is_full(folder, monkeypatch, capsys):
  class Full(io.StringIO):
    def write(self, text):
      raise OSError(errno.ENOSPC, "No space left on device")

  assert run(folder, LINES.encode(), Full(), monkeypatch) == 3
  line = capsys.readouterr().err.splitlines()[-1]
  assert line.startswith("time_jax: error: cannot write: No space left on")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"task": ["ud"]}, r"is of task \['ud'\]; expected one of ud, ner, qa"),
    ({"buckets": []}, r"buckets is \[\]; expected lengths in tokens, such"),
    ({"buckets": [32, "x"]}, r"buckets is \[32, 'x'\]; expected lengths"),
    ({"buckets": 32}, "buckets is 32; expected lengths in tokens, such"),
  ],
)
def test_a_description_that_is_no_longer_one(changes, message, tmp_path):
  sound = {"task": "ud", "heads": {}, "classes": {}, "buckets": [32]}
  (tmp_path / "task.json").write_text(json.dumps(sound | changes))
  with pytest.raises(UserError, match=message):
    api.predict(tmp_path, LINES)


def test_a_package_that_is_broken(monkeypatch):
  def broken(name):
    raise ImportError("libonnx.so: cannot open shared object file")

  monkeypatch.setattr(onnx_graph.importlib, "import_module", broken)
  with pytest.raises(UserError, match=r"^onnx .* needs it: libonnx\.so: .* In"):
    onnx_graph.require("onnx", "onnxruntime")
