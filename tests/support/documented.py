"""The commands that documents print: found in them, and made ready to parse."""

import ast
import pathlib
import re
import shlex

import yaml

from time_jax.cli.commands import COMMANDS
from time_jax.config.command import flags_of

ROOT = pathlib.Path(__file__).parents[2]
MARKDOWN = (
  *(ROOT / name for name in ("README.md", "RESULTS.md", "benchmarks.md")),
  *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md")),
  *sorted((ROOT / "docs").glob("*.md")),
)
SCRIPTS = sorted(p for p in (ROOT / "launch").iterdir() if p.is_file())
RECIPES = sorted((ROOT / "configs").glob("*.py"))

_STARTS = ("python -m time_jax ", "time-jax ")
# What a document writes where a reader puts in something else.
_PLACEHOLDERS = {
  "SIZE": "m",
  "ROWS": "30000",
  "T": "v5e:4x4",
  "B": "256",
  "F": "4",
  "M": "32",
  "N": "1",
  "SIGMAS": "6",
  "DECAY": "0.99",
}
_ANY_RECIPE = {
  "finetune ud": "configs/ud.py:model=MODEL,train=TRAIN,dev=DEV",
  "finetune ner": "configs/ner.py:model=MODEL,train=TRAIN,dev=DEV",
  "finetune qa": "configs/qa.py:model=MODEL,train=TRAIN,dev=DEV",
}


def in_markdown(text):
  """Commands of a document, as words after the program's name.

  Gives:
    (commands that are meant to be typed, those that only show some flags,
    words such as --flag=value that stand alone).
  """
  blocks, prose = _parts(text)
  whole = [command for block in blocks for command in _in_shell(block)]
  spans = [" ".join(s.split()) for s in re.findall(r"`([^`]+)`", prose)]
  excerpts, flags = [], []
  for span in spans:
    if found := _in_shell(span):
      whole += found
    elif span.startswith("--"):
      flags += shlex.split(span)
    elif (name := name_of(span.split())) and span != name:
      excerpts.append(until_redirected(shlex.split(span)))
  return whole, excerpts, flags


def _parts(text):
  """(code blocks, the rest)."""
  blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.M | re.S)
  rest = re.sub(r"^ *```\w*\n.*?^ *```", "", text, flags=re.M | re.S)
  blocks += re.findall(r"(?:^    .*\n|^\n(?=    ))+", rest, re.M)
  return blocks, re.sub(r"^    .*\n", "", rest, flags=re.M)


def _in_shell(text):
  """Commands in lines as they are typed."""
  found = []
  for line in re.sub(r"\\\n\s*", "\\\n", text).replace("\\\n", "").splitlines():
    launched = re.search(r"launch/[\w.]+ ", line)
    if any(start in line for start in _STARTS):
      rest = re.split("|".join(map(re.escape, _STARTS)), line)[1]
      found.append(until_redirected(shlex.split(rest, comments=True)))
    elif launched:
      words = shlex.split(line[launched.end() :], comments=True)
      while words and not name_of(words):
        words = words[1:]
      found.append(until_redirected(words))
  return [words for words in found if words and name_of(words)]


def until_redirected(words):
  """Words up to where a shell takes over."""
  for i, word in enumerate(words):
    if word in ("<", ">", "|", "&&"):
      return words[:i]
  return words


def name_of(words):
  """The command that words begin with; empty: none."""
  for count in (2, 1):
    if (name := " ".join(words[:count])) in COMMANDS:
      return name
  return ""


def in_script(path):
  """Commands in the comments of a launcher, or in what a manifest starts."""
  text = path.read_text()
  if path.suffix == ".yaml":
    found = [d["command"][1:] for d in _dicts(yaml.safe_load(text), "command")]
    assert found
    return found
  comments = re.findall(r"^#( .*)?$", text, re.M)
  return _in_shell("\n".join(comments))


def _dicts(tree, key):
  """All dictionaries in a tree that have a key."""
  if isinstance(tree, list):
    return [one for item in tree for one in _dicts(item, key)]
  if not isinstance(tree, dict):
    return []
  return [tree] * (key in tree) + _dicts(list(tree.values()), key)


def in_recipe(path):
  """Commands at the head of a file in configs/."""
  return _in_shell(ast.get_docstring(ast.parse(path.read_text())))


def ready(words, complete=True):
  """Words with values in place of placeholders.

  Args:
    words: of a command.
    complete: whether nothing may be missing; else flags that the command needs
      are added.
  """
  name = name_of(words)
  command = COMMANDS[name]
  complete = complete and "..." not in words
  done = [_filled(word, name) for word in words if word != "..."]
  if complete:
    return done
  for flag in flags_of(command):
    if not flags_of(command)[flag].required:
      continue
    given = any(word.startswith(f"--{flag}=") for word in done)
    if flag != command.argument and not given:
      shown = shlex.split(command.example)
      done += [word for word in shown if word.startswith(f"--{flag}=")]
  bare = [w for w in done[len(name.split()) :] if not w.startswith("--")]
  if (
    command.argument
    and flags_of(command)[command.argument].required
    and not bare
  ):
    done.append("SOMETHING")
  return done


def _filled(word, name):
  if word == "--config=...":
    return f"--config={_ANY_RECIPE.get(name, 'configs/quickstart.py')}"
  start, equals, value = word.rpartition("=")
  return start + equals + _PLACEHOLDERS.get(value, value) if equals else word
