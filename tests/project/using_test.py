"""The code of docs/using.md runs, with exports of tiny models."""

import re
import warnings

import pytest
import served
from modules import ROOT

from time_jax.serve import load
from time_jax.serve.folder import VECTORS

PAGE = (ROOT / "docs" / "using.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
NAMES = {"ENCODER": VECTORS, "NAMES": "ner", "ANSWERS": "qa", "TREES": "ud"}


@pytest.fixture(scope="module")
def exports(mesh, tmp_path_factory):
  return {
    name: served.export(task, tmp_path_factory.mktemp("export"), mesh)
    for name, task in NAMES.items()
  }


def run(block, exports, capsys):
  """What a block prints, with real folders in place of the names."""
  for name, folder in exports.items():
    block = re.sub(rf'"{name}\b', f'"{folder}', block)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    exec(block, {})
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


def test_there_are_blocks_for_each():
  for name in ("transformers", "onnxruntime", "time_jax"):
    assert any(re.search(rf"^(import|from) {name}", b, re.M) for b in BLOCKS)
