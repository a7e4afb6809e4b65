"""The comments on the fields of commands and configs, which `--help` shows.

A comment stands above a field, or at the end of its line. It is read from the
source, so that each field is explained in one place.
"""

import ast
import inspect
import io
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def of_class(cls: type) -> dict[str, str]:
  """Returns field -> comment for the annotated fields of a class.

  Fields of the classes that it is derived from are among them.
  """
  comments: dict[str, str] = {}
  for base in reversed(cls.__mro__[:-1]):
    tree, source = _parsed(base)
    for node in tree.body:
      if isinstance(node, ast.ClassDef) and node.name == base.__name__:
        for names, comment in _comments(node.body, source):
          comments |= dict.fromkeys(names[:1], comment)
  return comments


def of_config(recipe: Callable[..., Any]) -> dict[str, str]:
  """Returns "SECTION.FIELD" -> comment for the fields of a config.

  Args:
    recipe: the function that makes the config, with lines such as
      `config.FIELD = ...`, or `s.FIELD = ...` after `config.SECTION = s = ...`.
      Functions of its module that begin with `_` are taken for parts of it.
  """
  comments: dict[str, str] = {}
  tree, source = _parsed(recipe)
  for node in tree.body:
    if not isinstance(node, ast.FunctionDef):
      continue
    if node.name[0] != "_" and node.name != recipe.__name__:
      continue
    sections = {"config": ""}  # variable -> section and a dot
    for targets, comment in _comments(node.body, source):
      parts = [target.partition(".") for target in targets]
      names = [sections[a] + b for a, _, b in parts if b and a in sections]
      for variable, _, field in parts:
        if names and not field:
          sections[variable] = f"{names[0]}."
      comments |= {n: comment for n in names if comment and n not in comments}
  return comments


def _parsed(thing: Any) -> tuple[ast.Module, str]:
  source = inspect.getsource(sys.modules[thing.__module__])
  return ast.parse(source), source


def _comments(
  body: Sequence[ast.stmt], source: str
) -> Iterator[tuple[list[str], str]]:
  """Yields what each line assigns to, and from, and the line's comment."""
  lines = source.splitlines()
  tokens = tokenize.generate_tokens(io.StringIO(source).readline)
  comments = {
    token.start[0]: token.string.removeprefix("#").strip()
    for token in tokens
    if token.type == tokenize.COMMENT
  }
  for node in body:
    if not isinstance(node, ast.Assign | ast.AnnAssign):
      continue
    targets = (
      [*node.targets, node.value]
      if isinstance(node, ast.Assign)
      else [node.target]
    )
    first, last = node.lineno, node.end_lineno or node.lineno
    while lines[first - 2].lstrip().startswith("#"):
      first -= 1
    text = (comments.get(line, "") for line in range(first, last + 1))
    yield (
      [
        ast.unparse(t)
        for t in targets
        if isinstance(t, ast.Name | ast.Attribute)
      ],
      " ".join(filter(None, text)),
    )
