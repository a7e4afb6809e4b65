"""The table of the relation loss's implementations says what is so."""

import functools
import json

import pytest

from time_jax.bench.peers import relations
from time_jax.cli import main
from time_jax.relations import custom_vjp, one_pass
from time_jax.relations.loss import IMPLEMENTATIONS, PLATFORMS

SMALL = (
  "--batch_size=2",
  "--seq_lens=64",
  "--num_heads=8",
  "--teacher_width=64",
  "--student_width=32",
  "--repeats=2",
)


def table(capsys, *flags):
  assert main.main(["bench", "relations", *SMALL, *flags]) == 0
  output = capsys.readouterr()
  assert not output.err
  title, header, *rest = output.out.splitlines()
  rows = [line for line in rest if "needs a" not in line]
  assert len({len(row) for row in (header, *rows)}) == 1
  return title, header, [row.split() for row in rows], rest[len(rows) :]


def test_the_table(capsys, tmp_path):
  file = tmp_path / "relations.json"
  title, header, rows, notes = table(
    capsys, "--seq_lens=64,100", "--torch", f"--json={file}"
  )
  for words in ("one relation, 2 rows, widths 64 and 32", "median of 2 alter"):
    assert words in title
  assert header.split()[:3] == ["implementation", "S", "R"]
  names = {*IMPLEMENTATIONS, "torch"} - {"auto"}
  for length in ("64", "100"):
    assert {row[0] for row in rows if row[1] == length} == names
  assert all(row[2] == "8" for row in rows)
  dense = rows[0]
  assert dense[0] == "dense"
  assert dense[4] == "1.00x" and dense[7] == "100.0%"
  assert float(dense[8]) == float(dense[9]) == 0
  for row in rows:
    if row[0] in PLATFORMS:
      assert set(row[3:]) == {"-"}
      continue
    assert float(row[3]) > 0
    assert float(row[8]) < 1e-5, row
    assert float(row[9]) < 1e-4, row
  assert "pallas_tpu, S = 64: needs a TPU" in notes
  content = json.loads(file.read_text())
  assert content["schema"] == relations.SCHEMA
  assert len(content["rows"]) == len(rows)
  assert content["rows"][0]["case"]["seq_len"] == 64


def test_a_wrong_implementation_shows(capsys, monkeypatch):
  def wrong(*args, **kwargs):
    kl_B, grads = one_pass.kl_and_grad(*args, **kwargs)
    return 1.01 * kl_B, tuple(1.01 * grad for grad in grads)

  monkeypatch.setitem(
    IMPLEMENTATIONS,
    "one_pass",
    functools.partial(custom_vjp.relation_kl, implementation=wrong),
  )
  _, _, rows, _ = table(capsys)
  (row,) = (row for row in rows if row[0] == "one_pass")
  assert float(row[7]) == pytest.approx(0.01, rel=0.1)
  assert 1e-3 < float(row[8]) < 0.1


def test_memory_is_that_of_the_programs():
  case = relations.Case(2, 128, 16, 64, 32)
  rows = {row.name: row for row in relations.measure(case, 1)}
  scores = 2 * 16 * 128 * 128 * 4  # bytes of one S x S matrix per head
  assert rows["dense"].temporary_bytes > scores
  assert rows["one_pass"].temporary_bytes < scores


def test_what_does_not_fit_is_skipped(monkeypatch):
  monkeypatch.setattr(relations.memory, "free", lambda: 2**21)
  case = relations.Case(2, 128, 16, 64, 32)
  rows = {row.name: row for row in relations.measure(case, 1, with_torch=True)}
  for name in ("dense", "torch"):
    assert rows[name].seconds is None
    assert "MB" in rows[name].skipped or "GB" in rows[name].skipped
  assert rows["one_pass"].seconds is not None
  # Nothing to compare with.
  assert rows["one_pass"].value_error is None


def test_heads_that_do_not_divide_the_widths(capsys):
  assert main.main(["bench", "relations", *SMALL, "--num_heads=5"]) == 2
  output = capsys.readouterr()
  assert not output.out
  assert output.err == (
    "time_jax: error: relations.num_heads=5 must divide every width: "
    "teacher_width=64, student_width=32. Divisors of all: [1, 2, 4, 8, 16, "
    "32].\n"
  )
