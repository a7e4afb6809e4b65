"""`predict` where the terminal, the disk or the packages are odd."""

import errno
import io
import json
import re
import shutil
import sys
import types

import huggingface_hub
import pytest
import tiny_ud

from time_jax import api
from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.hf import onnx_session
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


def test_a_model_of_the_hub(folder, monkeypatch, tmp_path):
  asked = []

  def snapshot_download(name, *, revision, allow_patterns):
    asked.append((name, revision))
    # What is downloaded has all that is read.
    copy = tmp_path / "snapshot"
    ignore = shutil.ignore_patterns("*")
    shutil.copytree(folder, copy, ignore=ignore, dirs_exist_ok=True)
    for pattern in allow_patterns:
      for path in folder.glob(pattern):
        shutil.copy(path, copy)
    return str(copy)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
  monkeypatch.chdir(tmp_path)
  expected = api.predict(folder, LINES, "jax")
  assert api.predict("someone/ga-ud@main", LINES, "jax") == expected
  assert asked == [("someone/ga-ud", "main")]
  (tmp_path / "someone").mkdir()  # Then it is a path.
  with pytest.raises(UserError, match=r"someone/ga-ud .*expected the folder"):
    api.predict("someone/ga-ud", LINES, "jax")


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
    ({"task": ["ud"]}, r"task is \['ud'\]; expected a name, such as"),
    ({"task": "pos"}, "is of task 'pos'; expected one of ud, ner, split, qa"),
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


def without_a_class(description):
  description["classes"]["UPOS"].pop()


def with_a_relation(description):
  description["classes"]["DEPREL"].append("orphan")


def without_a_column(description):
  del description["classes"]["FEATS"]


def without_relations(description):
  del description["classes"]["DEPREL"]


def with_a_column(description):
  description["classes"]["MISC"] = ["_"]


def of_another_width(description):
  description["heads"]["arc"] = 24


def without_a_width(description):
  del description["heads"]["arc"]


def without_lists(description):
  description["classes"] = {"UPOS": 3}


def without_names(description):
  description["classes"] = {"UPOS": [7]}


MISFIT = r"the heads in .* do not fit the classes and sizes of its task\.json"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (without_a_class, MISFIT + r".*/bias is \(14,\), expected \(13,\); "),
    (with_a_relation, r": pairs is \(\d+, 8, 8\), expected \(\d+, 8, 8\); "),
    (without_a_column, r": tags_FEATS/.*/bias is \(\d+,\), expected none; "),
    (without_relations, r": pairs is \(\d+, 8, 8\), expected \(1, 8, 8\); "),
    (with_a_column, r": tags_MISC/.* is missing, expected \(1,\); "),
    (of_another_width, r": arc_bias/kernel is \(16, 1\), expected \(24, 1\); "),
    (without_a_width, r"describe no network \(TypeError: .*'arc'\); expected"),
    (without_lists, r"classes is {'UPOS': 3}; expected lists of names, such"),
    (without_names, r"classes is {'UPOS': \[7\]}; expected lists of names"),
  ],
)
def test_classes_that_do_not_fit_the_heads(
  folder, change, message, tmp_path, monkeypatch, capsys
):
  model = shutil.copytree(folder, tmp_path / "model")
  description = json.loads((model / "task.json").read_text())
  change(description)
  (model / "task.json").write_text(json.dumps(description))
  assert run(model, LINES.encode(), io.StringIO(), monkeypatch) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert re.search(message, line), line
  assert line.endswith("fine-tune again.")


def test_a_package_that_is_broken(monkeypatch):
  def broken(name):
    raise ImportError("libonnx.so: cannot open shared object file")

  monkeypatch.setattr(onnx_session.importlib, "import_module", broken)
  with pytest.raises(UserError, match=r"^onnx .* needs it: libonnx\.so: .* In"):
    onnx_session.require("onnx", "onnxruntime")
