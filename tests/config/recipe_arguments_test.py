"""NAME=VALUE after a recipe's file, with commas in the values."""

import importlib.machinery
import pathlib

import pytest
import running

from time_jax.config import recipe_arguments
from time_jax.core.errors import UserError
from time_jax.sweeps import grid


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("", {}),
    ("lang=da,,size=m,", {"lang": "da", "size": "m"}),
    ("train=a,b/x.iob2,dev=c", {"train": "a,b/x.iob2", "dev": "c"}),
    ("train=/a, b/1,2=3,dev=", {"train": "/a, b/1,2=3", "dev": ""}),
    (r"train=a\,lr=3/x,dev=y=z", {"train": "a,lr=3/x", "dev": "y=z"}),
    (r"train=a\\,dev=\,,,", {"train": "a\\", "dev": ","}),
    (
      r"train=,a\b\,\\,x,dev=\\\,a=b\\",
      {"train": ",a\\b,\\,x", "dev": "\\,a=b\\"},
    ),
  ],
)
def test_a_comma_separates_only_before_a_name(text, expected):
  found = recipe_arguments.parse(text, "FILE")
  assert found == expected
  again = recipe_arguments.join(found)
  assert recipe_arguments.parse(again, "FILE") == expected


def test_an_escaped_comma_before_a_known_name():
  known = ("train", "data")
  found = recipe_arguments.parse(r"train=/tmp/a\,data", "FILE", known)
  assert found == {"train": "/tmp/a,data"}
  again = recipe_arguments.join(found)
  assert recipe_arguments.parse(again, "FILE", known) == found


def test_names_that_are_not_known_or_have_no_value():
  for text, message in (
    ("a=1,c=2", "^FILE has no argument 'c'; known: a, b.$"),
    ("c", "^FILE has no argument 'c'; known: a, b.$"),
    ("a=1,b", "^FILE: the argument 'b' has no value; expected b=VALUE.$"),
  ):
    with pytest.raises(UserError, match=message):
      recipe_arguments.parse(text, "FILE", ("a", "b"))


@pytest.mark.parametrize("task", ["ud", "ner", "qa", "split"])
def test_a_path_with_a_comma_in_every_recipe(task):
  path = f"{running.ROOT}/configs/{task}.py"
  module = importlib.machinery.SourceFileLoader(task, path).load_module()
  text = "lang=da,train=/my, own/1.x,dev=/a,b,test=c,model=runs/a,b"
  config = module.get_config(text)
  assert config.data.train == "/my, own/1.x"
  assert (config.data.dev, config.data.test) == ("/a,b", "c")
  assert (config.lang, config.model) == ("da", "runs/a,b")


def test_a_path_with_a_comma_in_a_sweep(monkeypatch):
  monkeypatch.chdir(running.ROOT)
  sweep = grid.load("configs/sweep_heads.py:lang=da,ud=/a,b/d\\,e=f,size=s")
  folder = pathlib.Path("runs/x,y=z")
  *_, (_, _, scored, _) = sweep.stages(folder, heads=2)
  arguments = scored.partition(":")[2]
  found = recipe_arguments.parse(arguments, "FILE")
  assert found["model"] == "runs/x,y=z/student"
  assert found["data"] == "/a,b/d,e=f"
