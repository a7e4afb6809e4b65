"""The distribution that serves alone has what it needs, and no more."""

import subprocess
import sys
import tomllib
import zipfile

import pytest
import served
from modules import MODULES, ROOT, imported

from time_jax.core.storage.paths import Path
from time_jax.spacy_pipeline import pipeline

HOME = ROOT / "launch" / "serve"
PARTS = ("serve", "spacy_pipeline")
HEAVY = ("jax", "jaxlib", "flax", "torch", "transformers", "ml_collections")


def needed():
  """The modules that it is for, and those that these import."""
  todo = [name for name in MODULES if name.split(".")[0] in PARTS]
  found = set()
  while todo:
    name = todo.pop()
    if name not in found:
      found.add(name)
      todo += imported(MODULES[name])
  return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """The folder that the wheel is unpacked in."""
  out, folder = (tmp_path_factory.mktemp(name) for name in ("out", "in"))
  words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out]
  subprocess.run(words, cwd=HOME, check=True, capture_output=True)
  (wheel,) = out.glob("time_jax_serve-*-py3-none-any.whl")
  zipfile.ZipFile(wheel).extractall(folder)
  return folder


def test_it_has_the_modules_that_are_imported(installed):
  package = installed / "time_jax"
  files = {str(path.relative_to(package)) for path in package.rglob("*.py")}
  modules = {MODULES[name].relative_to(ROOT / "time_jax") for name in needed()}
  folders = {folder for path in modules for folder in path.parents}
  expected = {*modules, *(folder / "__init__.py" for folder in folders)}
  whole = {"core", *PARTS}  # They come as folders.
  some = {path for path in files if path.split("/")[0] not in whole}
  assert some - {"former_paths.py"} == {
    str(path) for path in expected if path.parts[0] not in whole
  }
  assert {str(path) for path in expected} <= files


def test_its_version_and_packages_are_ours():
  own = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
  ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  for name in ("version", "license", "requires-python"):
    assert own[name] == ours[name]
  known = {*ours["dependencies"], *ours["optional-dependencies"]["serve"]}
  assert {*own["dependencies"]} <= known
  assert {*ours["optional-dependencies"]["serve"]} <= {*own["dependencies"]}


def run(installed, home, program):
  """What a program prints where the wheel is there and no heavy package."""
  before = f"""
import sys
class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in {HEAVY!r}:
      raise ImportError(f"{{name}} is not to be imported")
def is_editable(finder): return "Editable" in getattr(finder, "__name__", "")
sys.meta_path = [f for f in sys.meta_path if not is_editable(f)]
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, {str(installed)!r})
import time_jax
assert time_jax.__file__.startswith({str(installed)!r}), time_jax.__file__
"""
  done = subprocess.run(
    [sys.executable, "-c", before + program],
    capture_output=True,
    text=True,
    check=False,
    cwd=home,
  )
  assert not done.returncode, done.stderr
  return done.stdout.split("\n")


@pytest.mark.parametrize("task", served.TASKS)
def test_it_runs_without_the_rest(installed, mesh, tmp_path, task):
  export = served.export(task, tmp_path, mesh)
  program = f"""
import time_jax.serve.app, time_jax.serve.command
print(len(time_jax.serve.load({str(export)!r})({served.ITEMS[task]!r})))
try:
  time_jax.embed
except ImportError as error:
  print(error)
"""
  count, told, _ = run(installed, tmp_path, program)
  assert count == str(len(served.ITEMS[task]))
  assert "time_jax.embed is in the distribution time-jax, and" in told


def test_spacy_runs_with_it(installed, mesh, tmp_path):
  export, out = served.export("split", tmp_path, mesh), tmp_path / "fr"
  pipeline.write([str(export)], "fr", Path(str(out)), int8=False)
  program = f"""
import spacy
print(*spacy.load({str(out)!r})("a b"), sep="|")
"""
  (words, _) = run(installed, tmp_path, program)
  assert words.replace("|", " ") == "a b"
