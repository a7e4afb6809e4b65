"""Tokens that begin within a run of letters are counted."""

import pytest
import tiny_split
from tiny_split import row

from time_jax.core import notes
from time_jax.core.errors import UserError
from time_jax.evals.split import inner_tokens
from time_jax.evals.split.task import Split


def cannot(plain):
  """A treebank of `cannot` and so many words."""
  words = [row(str(i + 3), "a") for i in range(plain)]
  rows = row("1", "can", "SpaceAfter=No") + row("2", "not") + "".join(words)
  return tiny_split.read(rows)


def test_some_are_noted(capsys):
  notes.note.cache_clear()
  inner_tokens.check(cannot(8))
  found = capsys.readouterr().err
  assert "note: sample: 1 of 10 tokens begin within a run of letters" in found
  assert "such as 'not' in 'cannot'. They are taught" in found
  inner_tokens.check(tiny_split.read(tiny_split.SAMPLE))
  assert capsys.readouterr().err == ""


def test_many_are_refused():
  """Before anything is learnt."""
  inner_tokens.check(cannot(3))  # one of five
  task = Split.__new__(Split)
  task.data = {"train": cannot(2)}
  with pytest.raises(
    UserError, match=r"^sample: 1 of 4 .* expected at most 20%, since text is"
  ):
    task.learn()
