"""sdist and wheel hold all that a user without the repository needs."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
BUILD = """
import sys
from setuptools import build_meta
out = sys.argv[1]
build_meta.build_sdist(out)
build_meta.build_wheel(out)
"""
COMMANDS = (
  ["recipes"],
  ["recipe", "quickstart"],
  ["distill", "--config=quickstart", "--help"],
  ["distill", "--config=time:lang=da,size=xs", "--help"],
  ["finetune", "ud", "--config=ud:lang=da,model=m", "--help"],
)
# An editable install would find the repository first.
PROGRAM = """
import sys
def is_editable(finder): return "Editable" in getattr(finder, "__name__", "")
sys.meta_path = [f for f in sys.meta_path if not is_editable(f)]
from time_jax.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """The folder with both, built from a copy of what they are made of."""
  pytest.importorskip("setuptools", "77", "the builder is not installed")
  source = tmp_path_factory.mktemp("source")
  out = tmp_path_factory.mktemp("out")
  ignored = shutil.ignore_patterns("__pycache__")
  for name in ("time_jax", "configs", "launch"):
    shutil.copytree(ROOT / name, source / name, ignore=ignored)
  for path in ROOT.iterdir():
    if path.is_file() and path.name[0] != ".":
      shutil.copy(path, source)
  done = run("-c", BUILD, out, cwd=source)
  assert done.returncode == 0, done.stderr
  return out


def run(*words, **options):
  return subprocess.run(
    [sys.executable, *words],
    capture_output=True,
    text=True,
    check=False,
    **options,
  )


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
  """The folder that the wheel is unpacked in."""
  folder = tmp_path_factory.mktemp("installed")
  (wheel,) = built.glob("*.whl")
  zipfile.ZipFile(wheel).extractall(folder)
  return folder


def files_in(folder, *patterns):
  return {
    str(path.relative_to(ROOT / folder))
    for pattern in patterns
    for path in (ROOT / folder).rglob(pattern)
    if path.is_file() and "__pycache__" not in path.parts
  }


def test_the_wheel_holds_code_types_recipes_and_launchers(installed):
  package = installed / "time_jax"
  expected = {
    *files_in("time_jax", "*.py", "*.tsv", "*.md", "py.typed"),
    *(f"recipes/{name}" for name in files_in("configs", "*")),
    # What is in a folder of it is built in the repository alone.
    *(f"launch/{name}" for name in files_in("launch", "*") if "/" not in name),
  }
  files = [path for path in package.rglob("*") if path.is_file()]
  held = {str(path.relative_to(package)) for path in files}
  assert held == expected
  assert "py.typed" in held and "recipes/quickstart_text/train.jsonl.gz" in held
  top = {path.name.split("-")[0] for path in installed.iterdir()}
  assert top == {"time_jax"}


def test_the_sdist_holds_what_the_wheel_is_built_of(built):
  (sdist,) = built.glob("*.tar.gz")
  with tarfile.open(sdist) as archive:
    held = {name.partition("/")[2] for name in archive.getnames()}
  for folder in ("time_jax", "configs", "launch"):
    assert {f"{folder}/{name}" for name in files_in(folder, "*")} <= held
  assert {"setup.py", "pyproject.toml", "LICENSE", "requirements.txt"} <= held


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_runs_in_an_empty_folder(installed, tmp_path, words):
  """With the packages that are installed here, but the wheel's time_jax."""
  done = run(
    *("-c", PROGRAM, *words),
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(installed)},
  )
  assert done.returncode == 0, done.stderr
  shown = {"recipes": f"{installed}/time_jax/recipes", "recipe": "get_config"}
  assert shown.get(words[0], "fields of this recipe:") in done.stdout
  assert str(ROOT) not in done.stdout
  if words[1:2] == ["--config=quickstart"]:
    assert f"{installed}/time_jax/recipes/quickstart_text" in done.stdout
