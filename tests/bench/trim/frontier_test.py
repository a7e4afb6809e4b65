"""`bench trim`: the frontier is what `trim` writes, number by number."""

import json

import pytest
import tiny_multilingual
import tiny_tokenizers

from time_jax.cli import main


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
  folder = tmp_path_factory.mktemp("teacher")
  texts = tiny_multilingual.texts()
  tiny_multilingual.xlm_roberta(folder, texts, tiny_multilingual.SIZE)
  return folder


def test_the_frontier(teacher, tmp_path, capsys):
  text, other = (tiny_tokenizers.TEXT / f"{k}.jsonl.gz" for k in ("da", "de"))
  common = [f"--teacher={teacher}", f"--text={text}"]
  measured, plot = tmp_path / "frontier.json", tmp_path / "frontier.png"
  command = ["bench", "trim", *common, f"--held_out={other}", "--documents=2"]
  command += [f"--json={measured}", f"--plot={plot}", "--keep=500,700,9000"]
  assert main.main(command) == 0
  lines = capsys.readouterr().out.splitlines()
  points = json.loads(measured.read_text())["points"]
  assert len(points) == 3 and points[2]["tokens"] < 9000
  for point, keep in zip(points, (500, 700, 9000), strict=True):
    out = tmp_path / str(keep)
    assert main.main(["trim", *common, f"--keep={keep}", f"--out={out}"]) == 0
    record = json.loads((out / "trim.json").read_text())
    assert point["tokens"] == len(record["old_ids"])
    assert point["sources"] == record["sources"]
    own, of_other = point["shares"].values()
    held_out = record["held_out"]
    assert own == held_out["same_tokens"] / held_out["tokens"]
    cells = [point["tokens"], *point["sources"].values()]
    row = [f"{cell:,}" for cell in cells] + [f"{own:.3%}", f"{of_other:.3%}"]
    assert f"| {' | '.join(row)} |" in lines
  assert list(points[0]["shares"]) == ["the last of the text", str(other)]
  shares = [list(point["shares"].values()) for point in points]
  assert shares[0] < shares[1] < shares[2] == [1, 1]
  assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
  ("flag", "words"),
  [
    ("--keep=10", "--keep=10 is less than the"),
    ("--held_out=none.txt", "no file at"),
    ("--plot=none/frontier.png", "--plot=none/frontier.png cannot be written"),
  ],
)
def test_bad_input(teacher, capsys, flag, words):
  text = tiny_tokenizers.TEXT / "da.jsonl.gz"
  command = ["bench", "trim", f"--teacher={teacher}", f"--text={text}", flag]
  assert main.main(command) == 2
  message = capsys.readouterr().err
  assert words in message and message.count("\n") == 1
