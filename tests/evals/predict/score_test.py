"""`score`: annotations of any program beside those of fine-tuned models."""

import csv
import gzip
import json
import pathlib

import pytest
import tiny_ud

from time_jax.cli import main
from time_jax.core.errors import EXIT_BAD_INPUT
from time_jax.evals.ud import conllu, raw_scores, scoring
from time_jax.report import per_item

GOLD = tiny_ud.UD / "ga-dev.conllu.gz"
NAMES = pathlib.Path(__file__).parents[1] / "ner" / "da-dev.iob2"


def write(path, sentences):
  path.write_text(conllu.to_text(sentences))
  return path


@pytest.fixture
def gold(tmp_path):
  """A file of enough sentences for intervals."""
  return write(tmp_path / "gold.conllu", conllu.read(GOLD) * 4)


@pytest.fixture
def found(gold, tmp_path):
  """The gold file with every UPOS of its second half NOUN."""
  gold = conllu.read(gold)
  half = len(gold) // 2
  changed = [
    sentence.with_columns({"UPOS": ["NOUN"] * len(sentence.words)})
    for sentence in gold[half:]
  ]
  return write(tmp_path / "found.conllu", [*gold[:half], *changed])


def run(capsys, *words, code=0):
  assert main.main([*map(str, words)]) == code
  return capsys.readouterr()


def score(capsys, found, out, *flags, gold=GOLD, code=0):
  words = (f"--gold={gold}", "--label=other", "--lang=ga", f"--out={out}")
  return run(capsys, "score", found, *words, *flags, code=code)


def test_the_scores_are_those_of_udtools_and_reports_take_them(
  gold, found, capsys, tmp_path
):
  out = tmp_path / "other"
  text = score(capsys, found, out, gold=gold).out
  content = json.loads((out / "scores.json").read_text())
  right = conllu.read(gold)
  expected = scoring.score(right, conllu.read(found))
  means = {k: v["mean"] for k, v in content["scores"]["test"].items()}
  assert means == expected and expected["UPOS"] < expected["LAS"] == 100
  assert f"{expected['UPOS']:.2f}" in text
  items = per_item.read(out / "seed-0", "test")
  assert items == scoring.per_item(right, conllu.read(found))
  score(capsys, gold, tmp_path / "gold", "--label=gold", gold=gold)
  report = tmp_path / "report"
  flags = (f"--out={report}", "--teacher=gold", "--by=upos")
  text = run(capsys, "report", out, tmp_path / "gold", *flags).out
  with (report / "differences.csv").open() as file:
    (line,) = (
      x
      for x in csv.DictReader(file)
      if (x["label"], x["column"]) == ("other", "UPOS")
    )
  assert float(line["difference"]) == pytest.approx(expected["UPOS"] - 100)
  assert float(line["high"]) < 0
  assert "| other |" in text and "Fine-tuned on" not in text
  assert "## ga: UPOS by upos" in text


def test_only_metrics_that_mean_the_same(gold, found, capsys, tmp_path):
  out = tmp_path / "other"
  score(capsys, found, out, "--metrics=UPOS,LAS", gold=gold)
  assert [*per_item.read(out / "seed-0", "test")] == ["UPOS", "LAS"]
  text = run(capsys, "report", out, f"--out={tmp_path / 'report'}").out
  (row,) = (x for x in text.splitlines() if x.startswith("| ga | other |"))
  cells = [cell.strip() for cell in row.strip("|").split("|")]
  assert cells[3:6] == ["-", "-", "-"] and cells[6] == "100.00"
  error = score(capsys, found, out, "--metrics=Luck", code=2).err
  assert "--metrics: ud has no 'Luck'; known: UPOS, " in error
  error = score(capsys, found, out, "--metrics=CLAS", code=2).err
  assert "no table shows these; expected one of UPOS, UFeats" in error
  flags = ("--by=upos", f"--out={tmp_path / 'report'}")
  text = run(capsys, "report", out, *flags).out
  assert "UPOS by upos" not in text or "NOUN" not in text
  assert (out / "scores.json").exists()


def test_names(capsys, tmp_path):
  out = tmp_path / "other"
  text = score(capsys, NAMES, out, "--task=ner", gold=NAMES).out
  assert text.split()[:7] == [
    "F1",
    "precision",
    "recall",
    "test",
    *["100.00"] * 3,
  ]
  assert [*per_item.read(out / "seed-0", "test")] == ["F1"]
  # It may be written again, and nothing else may be replaced.
  score(capsys, NAMES, out, "--task=ner", gold=NAMES)
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.tex").touch()
  error = score(capsys, NAMES, tmp_path / "mine", "--task=ner", code=2).err
  assert "holds something; expected an empty or new folder" in error
  (out / "mine.txt").touch()
  error = score(capsys, NAMES, out, "--task=ner", gold=NAMES, code=2).err
  assert "holds something; expected an empty or new folder" in error


def test_files_that_do_not_fit(capsys, tmp_path):
  out = tmp_path / "other"
  gold = conllu.read(GOLD)
  short = write(tmp_path / "short.conllu", gold[1:])
  error = score(capsys, short, out, code=EXIT_BAD_INPUT).err
  counts = f"{len(gold)} sentences and {short} {len(gold) - 1}"
  assert counts in error
  forms = [*gold[2].column("FORM")]
  forms[0] = "Eile"
  others = [*gold[:2], gold[2].with_columns({"FORM": forms}), *gold[3:]]
  changed = write(tmp_path / "changed.conllu", others)
  error = score(capsys, changed, out, code=EXIT_BAD_INPUT).err
  assert f"{changed}:" in error and "has other words than the one at" in error
  assert "'Eile " in error and not out.exists()
  error = score(capsys, tmp_path / "no", out, code=EXIT_BAD_INPUT).err
  assert f"no file at {tmp_path}/no" in error
  torn = tmp_path / "torn.conllu"
  torn.write_bytes(gzip.decompress(GOLD.read_bytes())[:1000])
  assert str(torn) in score(capsys, torn, out, code=EXIT_BAD_INPUT).err


def test_words_are_the_gold_files_however_a_program_writes_them(
  capsys, tmp_path
):
  """French contracts words; many programs write their parts alone."""
  lines = [
    "1-2\tau\t_\t_\t_\t_\t_\t_\t_\t_",
    "1\tà\tà\tADP\t_\t_\t3\tcase\t_\t_",
    "2\tle\tle\tDET\t_\t_\t3\tdet\t_\t_",
    "3\tparc\tparc\tNOUN\t_\t_\t0\troot\t_\t_",
  ]
  gold = tmp_path / "gold.conllu"
  gold.write_text("\n".join([*lines, "", ""]))
  plain = "\n".join([*lines[1:], "", ""])
  found = tmp_path / "found.conllu"
  found.write_text(plain.replace("\tdet\t_\t", "\tdet\tx\t"))  # DEPS, too
  out = tmp_path / "out"
  score(capsys, found, out, gold=gold)
  content = json.loads((out / "scores.json").read_text())
  assert content["scores"]["test"]["LAS"]["mean"] == 100


def test_tasks_of_a_program_share_a_row(gold, found, capsys, tmp_path):
  tags, names = tmp_path / "tags", tmp_path / "names"
  score(capsys, found, tags, gold=gold)
  score(capsys, NAMES, names, "--task=ner", gold=NAMES)
  text = run(capsys, "report", tags, names, f"--out={tmp_path / 'report'}").out
  (row,) = (x for x in text.splitlines() if x.startswith("| ga | other |"))
  assert row.count("100.00") >= 2


@pytest.fixture
def joined(found, tmp_path):
  """`found` with its first two sentences written as one."""
  first, second, *others = conllu.read(found)
  rows = [list(row) for row in [*first.words, *second.words]]
  for number, row in enumerate(rows, 1):
    row[0] = str(number)
    if number > len(first.words):
      row[6] = str(int(row[6]) + len(first.words) if row[6] != "0" else 1)
  text = "".join("\t".join(row) + "\n" for row in rows)
  path = tmp_path / "joined.conllu"
  path.write_text(text + "\n" + conllu.to_text(others))
  return path


def test_raw_text(gold, joined, found, capsys, tmp_path):
  """Its scores have a table of their own, and change nothing beside it."""
  own, other = tmp_path / "raw", tmp_path / "given"
  text = score(capsys, joined, own, "--task=raw", gold=gold).out
  means = json.loads((own / "scores.json").read_text())["scores"]["test"]
  expected = raw_scores.score(conllu.read(gold), conllu.read(joined))
  assert {k: v["mean"] for k, v in means.items()} == expected
  assert [*expected] == [*raw_scores.METRICS] == text.split()[:8]
  assert expected["Sentences"] < expected["LAS"] < 100
  assert not (own / "seed-0" / per_item.FILE).exists()
  score(capsys, joined, own, "--task=raw", gold=gold)  # It may be again.
  score(capsys, found, other, gold=gold)
  score(capsys, gold, tmp_path / "best", "--label=best", gold=gold)
  flags = (other, tmp_path / "best", "--teacher=best", "--by=upos")
  before = run(capsys, "report", *flags, f"--out={tmp_path / 'report'}").out
  after = run(capsys, "report", own, *flags, f"--out={tmp_path / 'report'}").out
  start, _, rest = after.partition("\n## Raw text\n")
  table, _, end = rest.partition("\n## ga: differences")
  assert start + "\n## ga: differences" + end == before
  (row,) = (x for x in table.splitlines() if x.startswith("| ga | other |"))
  cells = [cell.strip() for cell in row.strip("|").split("|")]
  assert cells[2:] == [f"{x:.2f}" for x in expected.values()]
  with (tmp_path / "report" / "report.csv").open() as file:
    lines = {line["label"]: line for line in csv.DictReader(file)}
  assert float(lines["other"]["raw LAS"]) == expected["LAS"]
  assert lines["best"]["raw LAS"] == "" and lines["best"]["LAS"] == "100.0"


def test_raw_text_without_annotation(gold, capsys, tmp_path):
  words = write(
    tmp_path / "words.conllu",
    [conllu.make_sentence(own.column("FORM")) for own in conllu.read(gold)],
  )
  out = tmp_path / "raw"
  text = score(capsys, words, out, "--task=raw", gold=gold).out
  assert text.split()[:4] == ["Tokens", "Sentences", "Words", "test"]
  left = "UPOS, UFeats, Lemmas, UAS, LAS"
  assert f"Not in {words}, and not scored: {left}." in text
  report = f"--out={tmp_path / 'report'}"
  best = tmp_path / "best"
  score(capsys, gold, best, "--task=raw", "--label=best", gold=gold)
  text = run(capsys, "report", out, best, report).out
  rows = [x for x in text.splitlines() if x.startswith("| ga | other |")]
  assert rows[0].count(" - |") == 5
  flags = ("--task=raw", "--metrics=Words,LAS")
  error = score(capsys, words, out, *flags, gold=gold, code=2).err
  assert f"--metrics: {words} has nothing to score 'LAS' by" in error
  assert "expected some of Tokens, Sentences, Words." in error
  score(capsys, gold, out, *flags, gold=gold)
  text = run(capsys, "report", out, report).out
  assert "| language | model | Words | raw LAS |" in " ".join(text.split())


def test_raw_text_that_does_not_fit(gold, capsys, tmp_path):
  out = tmp_path / "raw"
  short = write(tmp_path / "short.conllu", conllu.read(gold)[:-1])
  flags = ("--task=raw",)
  error = score(capsys, short, out, *flags, gold=gold, code=2).err
  assert f"{short}:" in error and f"that of {gold}:" in error
  assert "comes nothing more, and in the gold file '" in error
  error = score(capsys, tmp_path / "no", out, *flags, gold=gold, code=2).err
  assert f"no file at {tmp_path}/no" in error
  error = score(capsys, gold, out, *flags, "--metrics=Luck", code=2).err
  assert "--metrics: raw has no 'Luck'; known: Tokens, Sentences, " in error
  assert not out.exists()
