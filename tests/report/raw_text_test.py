"""Scores of raw text in reports."""

from written_results import finetuned, ud

from time_jax.cli import main


def run(capsys, *arguments):
  assert main.main(["report", *map(str, arguments)]) == 0
  return capsys.readouterr().out


def test_scores_of_raw_text(tmp_path, capsys):
  """They stand in a table of their own, and in no mean."""
  split = {"Tokens": [99.0], "Sentences": [90.0], "Words": [98.0]}
  raw = split | {"UPOS": [88.0], "LAS": [66.0]}
  trees = ud(tmp_path / "ud", "a", (90.0, 80.0, 70.0))
  others = [
    finetuned(tmp_path / "split", "split", "a", split),
    finetuned(tmp_path / "raw", "raw", "b", raw, predicted="b.conllu"),
  ]
  out = f"--out={tmp_path / 'report'}"
  alone = run(capsys, trees, out)
  both = run(capsys, trees, *others, out)
  assert "Raw text" not in alone and "pareto.png" in both

  def rows(text, label):
    lines = [x for x in text.splitlines() if x.startswith(f"| ga | {label} |")]
    return [[x.strip() for x in line.strip("|").split("|")] for line in lines]

  own, from_text = rows(both, "a")
  assert [own] == rows(alone, "a") and own[10] == "80.00 (of 5)"
  assert from_text[2:] == ["99.00", "90.00", "98.00", "-", "-"]
  (from_text,) = rows(both, "b")  # It has nothing for the other table.
  assert from_text[5:] == ["88.00", "66.00"]
  assert run(capsys, others[1], out).strip().startswith("## Raw text")
  header = " ".join(both[both.index("## Raw text") :].split())
  assert "Tokens | Sentences | Words | raw UPOS | raw LAS |" in header
