"""The order of the folders: imports go one way, and files stay small."""

import ast
import graphlib
import importlib.metadata
import sys

import pytest
from modules import FILES, MODULES, PACKAGE, ROOT, imported, module_name

# A file imports from its own folder and from those above it in this list. The
# files that lie in time_jax/ itself stand above all of them.
_ORDER = """
core core.storage
catalog
config
telemetry
parallel
relations
models
checkpoint
data
hf
step
starts
run
trim
release
report
evals.common evals.ud evals.probing evals.ner evals.qa evals.split evals.predict
evals.publish
serve
spacy_pipeline
bench.common bench.peers bench.aot bench.scaling bench.inference bench.pipeline
bench.raw bench.trim bench.serving
sweeps
cli
"""
FOLDERS = _ORDER.split()

# Files of the package itself, its recipes and its tests.
ALL_FILES = sorted(
  [*FILES, *(ROOT / "configs").glob("*.py"), *(ROOT / "tests").rglob("*.py")]
)


def folder_of(name):
  path = MODULES[name].parent.relative_to(PACKAGE)
  return ".".join(path.parts)


def rank(name):
  folder = folder_of(name)
  return FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS)


def test_every_folder_has_its_place():
  folders = {folder_of(n) for n, p in MODULES.items() if p.stem != "__init__"}
  assert folders - {""} == set(FOLDERS)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_one_way(path):
  name = module_name(path)
  upward = {n for n in imported(path) if rank(n) > rank(name)}
  assert not upward, f"{name} imports {upward}, which lie in later folders"


def test_there_are_no_circles():
  graph = {name: imported(path) for name, path in MODULES.items()}
  list(graphlib.TopologicalSorter(graph).static_order())


def test_folders_are_small_enough_to_read():
  for folder in {path.parent for path in FILES}:
    files = [p for p in folder.glob("*.py") if p.stem != "__init__"]
    assert len(files) <= 22, f"{folder} holds {len(files)} files"
  assert len(list(PACKAGE.glob("*.py"))) <= 4


def test_no_name_is_one_of_another_package():
  taken = set(sys.stdlib_module_names)
  taken |= set(importlib.metadata.packages_distributions())
  names = {part for name in MODULES for part in name.split(".")}
  ours = {"time_jax", "__main__", ""}
  assert not names & taken - ours
  assert not names & {"utils", "util", "helpers"}


@pytest.mark.parametrize("path", ALL_FILES, ids=str)
def test_files_and_functions_stay_small(path):
  text = path.read_text()
  assert text.count("\n") < 400
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < 80, node.name
      taken = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
      assert sum(a.arg not in ("self", "cls") for a in taken) <= 8, node.name


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_everything_public_has_a_docstring(path):
  tree = ast.parse(path.read_text())
  assert ast.get_docstring(tree), path
  todo = list(tree.body)
  while todo:
    node = todo.pop()
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
      continue
    if node.name.startswith("_") or node.name == "setup":
      continue
    assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name}"
    if isinstance(node, ast.ClassDef):
      todo += node.body
