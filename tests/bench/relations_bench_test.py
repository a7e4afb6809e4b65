"""The table of the relation loss's implementations says what is so."""

import jax
import jax.numpy as jnp
import pytest

from time_jax import cli
from time_jax.bench import relations
from time_jax.relations import one_pass
from time_jax.relations.loss import IMPLEMENTATIONS

SMALL = (
  "--batch_size=2",
  "--seq_len=64",
  "--num_heads=8",
  "--teacher_width=64",
  "--student_width=32",
  "--repeats=2",
)


def table(capsys, *flags):
  assert cli.main(["bench", "relations", *SMALL, *flags]) == 0
  output = capsys.readouterr()
  assert not output.err
  title, header, *rows = output.out.splitlines()
  assert len({len(row) for row in (header, *rows)}) == 1
  return title, header, [row.split() for row in rows]


def test_the_table(capsys):
  title, header, rows = table(capsys)
  for words in ("one relation, 2 x 64, R = 8, widths 64 and 32", "of 2 alter"):
    assert words in title
  assert header.split()[0] == "implementation"
  assert {row[0] for row in rows} == set(IMPLEMENTATIONS)
  dense = rows[0]
  assert dense[0] == "dense"
  assert dense[2] == "1.00x" and dense[4] == "100.0%"
  assert float(dense[5]) == float(dense[6]) == 0
  for name, milliseconds, _, _, _, value, gradient in rows[1:]:
    assert float(milliseconds) > 0
    assert float(value) < 1e-5, name
    assert float(gradient) < 1e-4, name


def test_a_wrong_implementation_shows(capsys, monkeypatch):
  def wrong(*args, **kwargs):
    return 1.01 * one_pass.relation_kl(*args, **kwargs)

  monkeypatch.setitem(IMPLEMENTATIONS, "one_pass", wrong)
  _, _, rows = table(capsys)
  (row,) = (row for row in rows if row[0] == "one_pass")
  assert float(row[5]) == pytest.approx(0.01, rel=0.1)
  assert 1e-3 < float(row[6]) < 0.1


def test_memory_is_that_of_the_programs():
  keys = jax.random.split(jax.random.key(1))
  inputs = (
    jax.random.normal(keys[0], (2, 128, 32)),
    jax.random.normal(keys[1], (2, 128, 64)),
    jnp.ones((2, 128), jnp.int32),
  )
  rows = {row.name: row for row in relations.measure(inputs, 16, 1)}
  scores = 2 * 16 * 128 * 128 * 4  # bytes of one S x S matrix per head
  assert rows["dense"].temporary_bytes > scores
  assert rows["one_pass"].temporary_bytes < scores
  assert all(row.seconds > 0 for row in rows.values())


def test_heads_that_do_not_divide_the_widths(capsys):
  assert cli.main(["bench", "relations", *SMALL, "--num_heads=5"]) == 2
  output = capsys.readouterr()
  assert not output.out
  assert output.err == (
    "time_jax: error: relations.num_heads=5 must divide every width: "
    "teacher_width=64, student_width=32. Divisors of all: [1, 2, 4, 8, 16, "
    "32].\n"
  )
