"""The code of docs/using.md runs, with exports of tiny models."""

import importlib
import re
import shlex
import warnings

import numpy as np
import pytest
import served
from modules import ROOT

from time_jax.serve import load

PAGE = (ROOT / "docs" / "using.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
ALONE = ("sentence_transformers", "stanza")  # Nothing else needs them.


@pytest.fixture(scope="module")
def exports(mesh, tmp_path_factory):
  home = tmp_path_factory.mktemp("exports")
  folders = served.of_page(home, mesh)
  (home / "split").mkdir()
  parts = [served.export("split", home / "split", mesh)]
  parts += [folders[name] for name in ("TREES", "NAMES", "ENCODER")]
  return folders | {"PIPELINE": served.pipeline_of(parts, home)}


def run(block, exports, capsys, scope=None):
  """What a block prints, with real folders in place of the names."""
  for package in ALONE:
    if f"from {package}" in block:
      pytest.importorskip(package)
  for name, folder in exports.items():
    block = re.sub(rf'"{name}\b', f'"{folder}', block)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    exec(block, {} if scope is None else scope)
  return capsys.readouterr().out


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_runs(block, exports, capsys):
  assert run(block, exports, capsys).strip()


def test_what_needs_no_code_of_ours_finds_the_same(exports, capsys):
  """But for the tree, which a random model may not have at once."""
  graphs, own = (
    run(block, exports, capsys).strip().split("\n")
    for block in BLOCKS
    if "TREES/task.json" in block
  )
  assert own == graphs
  (expected,) = load(exports["TREES"])(["It works ."])
  words, tags, *_ = zip(*map(str.split, graphs), strict=True)
  assert [*words] == expected["form"] and [*tags] == expected["upos"]


def test_sentence_transformers_finds_the_vectors_that_are_served(
  exports, capsys
):
  (block,) = (b for b in BLOCKS if "SentenceTransformer" in b)
  run(block, exports, capsys, scope := {})
  texts = ["Small is fast.", "", "a " * 200]
  found = scope["model"].encode(texts)
  expected = load(exports["ENCODER"])(texts)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_stanza_has_the_flags():
  pytest.importorskip("stanza")
  (command,) = re.findall(r"^python -m (stanza.*\\\n.*)$", PAGE, re.M)
  name, *words = shlex.split(command.replace("\\\n", ""))
  importlib.import_module(name).build_argparse().parse_args(words)
  others = re.findall(r"`(stanza\.models\.\w+)`", PAGE)
  assert len(others) == 2
  for other in others:
    parser = importlib.import_module(other).build_argparse()
    flags = {word.partition("=")[0] for word in words[-2:]}
    assert flags <= {*parser._option_string_actions}


def test_there_are_blocks_for_each():
  for name in ("transformers", "onnxruntime", "time_jax", *ALONE):
    assert any(re.search(rf"^(import|from) {name}", b, re.M) for b in BLOCKS)
