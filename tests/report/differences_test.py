"""Differences between models: intervals by hand, and how they are shown."""

import csv
import json

import numpy as np
import pytest

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.report import bootstrap, differences, per_item, results
from time_jax.report.bootstrap import Interval
from time_jax.report.per_item import Ratios

RANDOM = np.random.default_rng(5)
WORDS = RANDOM.integers(1, 40, size=300)
UD = ("UPOS", "UFeats", "Lemmas", "UAS", "LAS")


def right(share):
  return RANDOM.binomial(WORDS, share)


def finetuned(folder, label, seeds, whole=None, task="ud", test="ab12"):
  """A workdir; seeds: for each, metric -> right of every item."""
  whole = WORDS if whole is None else whole
  folder.mkdir()
  scores = []
  for seed, metrics in enumerate(seeds):
    own = folder / f"seed-{seed}"
    own.mkdir()
    (own / "scores.json").write_text("{}")
    items = {k: Ratios(v.tolist(), whole.tolist()) for k, v in metrics.items()}
    per_item.write(own, {"test": items})
    scores.append({k: 100 * v.sum() / whole.sum() for k, v in metrics.items()})
  content = {
    "schema": "time_jax.finetune/1",
    "task": task,
    "lang": "ga",
    "label": label,
    "fingerprint": label * 2,
    "parameters": {"all": 2_000_000},
    "hardware": {"kind": "abacus", "n_devices": 1},
    "seeds": list(range(len(seeds))),
    "files": {"test": {"path": "t", "sha256": test}},
    "scores": {
      "test": {
        name: {
          "mean": float(np.mean([score[name] for score in scores])),
          "std": 0.0,
          "values": [score[name] for score in scores],
        }
        for name in scores[0]
      }
    },
  }
  (folder / "scores.json").write_text(json.dumps(content))
  return folder


def tagged(folder, label, share, whole=WORDS, **more):
  """Every column of a treebank has the same share of right words."""
  made = {name: RANDOM.binomial(whole, share) for name in UD}
  return finetuned(folder, label, [made], whole, **more)


def read(*folders):
  found, _ = results.read(folders)
  return [{result.task: result.items()} for result in found]


def test_intervals_are_those_of_the_normal_distribution(tmp_path):
  """Of many sentences a difference is nearly normal: its error is known."""
  one, other = right(0.9), right(0.88)
  a = finetuned(tmp_path / "a", "a", [dict.fromkeys(UD, one)])
  b = finetuned(tmp_path / "b", "b", [dict.fromkeys(UD, other)])
  first, second = bootstrap.draw(read(a, b), UD)
  found = Interval.of(first["LAS"] - second["LAS"])
  gap = (one.sum() - other.sum()) / WORDS.sum()
  assert found.value == pytest.approx(100 * gap)
  # The linearised variance of a ratio of sums (Cochran 1977, section 2.11).
  residuals = (one - other) - gap * WORDS
  error = np.sqrt(np.square(residuals).sum()) / WORDS.sum()
  for end, sign in ((found.low, -1), (found.high, 1)):
    assert end == pytest.approx(100 * (gap + sign * 1.96 * error), abs=0.06)
  assert found.excludes_zero == (found.low > 0)


def test_files_are_the_same_for_all_models_and_reports(tmp_path):
  folders = [tagged(tmp_path / name, name, 0.8) for name in "abc"]
  first = bootstrap.draw(read(*folders), UD)
  again = bootstrap.draw(read(*folders[::-1]), UD)[::-1]
  for one, other in zip(first, again, strict=True):
    for name in UD:
      np.testing.assert_allclose(one[name], other[name], rtol=1e-12)
  copy = tagged(tmp_path / "d", "d", 0.5)
  for file in ("scores.json", "per_item.json"):
    text = (folders[0] / "seed-0" / file).read_text()
    (copy / "seed-0" / file).write_text(text)
  one, same = bootstrap.draw(read(folders[0], copy), UD)
  assert not np.any(one["LAS"] - same["LAS"])


def test_seeds_are_averaged_and_their_number_may_differ(tmp_path):
  """Every seed and column has a score of its own, so none is mixed up."""

  def made(name, seeds):
    own = [{c: right(RANDOM.uniform(0.5, 1)) for c in UD} for _ in range(seeds)]
    return finetuned(tmp_path / name, name, own)

  folders = [made("a", 3), made("b", 1), made("c", 2)]
  drawn = bootstrap.draw(read(*folders), UD)
  for scores, result in zip(drawn, results.read(folders)[0], strict=True):
    for name in UD:
      mean = result.scores["test"][name]["mean"]
      assert scores[name][0] == pytest.approx(mean)
      assert abs(np.mean(scores[name][1:]) - mean) < 0.2
  (some,) = bootstrap.draw(read(folders[0]), ["LAS", "UPOS"])
  assert [*some] == ["LAS", "UPOS"] and len(some["LAS"]) == 10_001
  np.testing.assert_allclose(some["LAS"], drawn[0]["LAS"])


def test_a_drawn_file_may_have_nothing_to_find(tmp_path):
  whole = np.array([0, 0, 0, 4])
  names = [{"F1": np.array([0, 0, 0, 2])}, {"F1": np.array([0, 0, 0, 4])}]
  folders = [
    finetuned(tmp_path / label, label, [own], whole, task="ner")
    for label, own in zip("ab", names, strict=True)
  ]
  a, b = bootstrap.draw(read(*folders), ["NER F1"])
  assert a["NER F1"][0] == 50 and b["NER F1"][0] == 100
  assert {*np.unique(a["NER F1"])} == {0, 50}
  assert np.mean(a["NER F1"][1:] == 0) == pytest.approx(0.75**4, abs=0.02)


def rows_of(text, start):
  (line,) = (x for x in text.splitlines() if x.startswith(f"| {start} |"))
  return [cell.strip() for cell in line.strip("|").split("|")]


def report(capsys, *words, code=0):
  assert main.main(["report", *map(str, words)]) == code
  return capsys.readouterr()


def test_the_tables(capsys, tmp_path):
  shares = {"T": 0.95, "s": 0.93, "low": 0.85}
  folders = [tagged(tmp_path / k, k, share) for k, share in shares.items()]
  out = tmp_path / "out"
  flags = ("--teacher=T", "--lower=s:low", f"--out={out}")
  text = report(capsys, *folders, *flags).out
  assert "## ga: differences" in text and differences.ABOUT in text
  drawn = dict(zip(shares, bootstrap.draw(read(*folders), UD), strict=True))
  mean = {label: bootstrap.mean(own, UD) for label, own in drawn.items()}
  part, pairs = text.split("## ga: differences")[1].split("row minus column")
  header, of_student = rows_of(part, "minus T"), rows_of(part, "s")
  assert header[1:] == [*UD, "mean", "% of T", "of the gap closed"]
  own = Interval.of(drawn["s"]["LAS"] - drawn["T"]["LAS"])
  cell = f"{own.value:+.2f} [{own.low:+.2f}, {own.high:+.2f}]"
  assert of_student[5] == (f"**{cell}**" if own.excludes_zero else cell)
  share = Interval.of(100 * mean["s"] / mean["T"])
  ends = f"[{share.low:.1f}, {share.high:.1f}]"
  assert of_student[7] == f"{share.value:.1f} {ends}"
  closed = Interval.of(
    100 * (mean["s"] - mean["low"]) / (mean["T"] - mean["low"])
  )
  ends = f"[{closed.low:.0f}, {closed.high:.0f}]"
  assert of_student[8] == f"{closed.value:.0f} {ends} % above low"
  assert rows_of(part, "low")[8] == "-"
  gap = Interval.of(mean["low"] - mean["s"])
  assert gap.excludes_zero
  cell = f"**{gap.value:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]**"
  assert rows_of(pairs, "low")[2] == cell
  with (out / "differences.csv").open() as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == 6 * 6
  (line,) = (
    x
    for x in lines
    if (x["label"], x["against"], x["column"]) == ("low", "s", "mean")
  )
  assert float(line["difference"]) == gap.value
  assert float(line["low"]) == gap.low and float(line["high"]) == gap.high


def test_no_gap_to_close(capsys, tmp_path):
  shares = {"T": 0.7, "s": 0.8, "low": 0.9}  # The lower one is the best.
  made = [tagged(tmp_path / k, k, share) for k, share in shares.items()]
  flags = ("--teacher=T", "--lower=s:low", f"--out={tmp_path}/out")
  assert "no sure gap above low" in report(capsys, *made, *flags).out


def test_a_teacher_that_a_drawn_file_may_score_with_nothing(capsys, tmp_path):
  whole = np.repeat([0, 4], [29, 1])
  found = {"T": np.repeat([0, 4], [29, 1]), "s": np.repeat([0, 2], [29, 1])}
  folders = [
    finetuned(tmp_path / k, k, [{"F1": own}], whole, task="ner")
    for k, own in found.items()
  ]
  text = report(capsys, *folders, "--teacher=T", f"--out={tmp_path}/out").out
  part = text.split("## ga: differences")[1].split("row minus")[0]
  assert rows_of(part, "s")[3] == "-"


def test_what_cannot_be_compared(capsys, tmp_path):
  a, b = (tagged(tmp_path / k, k, 0.9) for k in "ab")
  out, csv_file = f"--out={tmp_path}/out", tmp_path / "out" / "differences.csv"
  report(capsys, a, b, out)
  assert csv_file.exists()
  other = tagged(tmp_path / "c", "c", 0.9, test="cd34")
  found = report(capsys, a, other, out).out
  assert "* c: no other model was scored on the same file." in found
  assert not csv_file.exists()
  # What can be compared still is.
  found = report(capsys, a, other, b, out).out
  assert "* c: no other" in found and "| b |" in found.split("row minus")[1]
  few = [
    tagged(tmp_path / k, k, 0.9, whole=np.full(29, 7), test="few") for k in "de"
  ]
  found = report(capsys, *few, out).out
  assert "* d, e: the test file of ud has 29 items; 30 are needed." in found
  content = json.loads((a / "scores.json").read_text())
  content |= {"scores": {"dev": content["scores"]["test"]}}
  (a / "scores.json").write_text(json.dumps(content))
  assert "* a: there is no test score." in report(capsys, a, b, out).out
  names = finetuned(tmp_path / "n", "n", [{"F1": WORDS}], task="ner")
  found = report(capsys, names, b, out).out
  assert "* n: no other" in found and "* b: no other" in found
  path = b / "seed-0" / "per_item.json"
  path.unlink()
  found = report(capsys, names, b, out).out
  assert f"* b: {path} is not there. Copy the folders" in found
  assert "differences" not in report(capsys, b, out).out


@pytest.mark.parametrize(
  "content",
  [
    '{"test": {"LAS": {"right": [1]}}}',
    '{"test": {"LAS": {"right": [1], "whole": [1, 2]}}}',
    '{"test": {"LAS": {"right": ["1"], "whole": [1]}}}',
    '{"test": {"LAS": {"right": 1, "whole": 2}}}',
    '{"test": {"LAS": {"right": [], "whole": []}}}',
    '{"dev": {}}',
  ],
)
def test_items_that_are_damaged(capsys, tmp_path, content):
  a, b = (tagged(tmp_path / k, k, 0.9) for k in "ab")
  path = b / "seed-0" / "per_item.json"
  path.write_text(content)
  error = report(capsys, a, b, f"--out={tmp_path}/out", code=2).err
  assert f"{path} is damaged" in error and "delete the file to rep" in error


def test_a_gap_that_is_hardly_one(capsys, tmp_path):
  """In some of the drawn files there is none, so a share of it says nothing."""
  made = {k: tagged(tmp_path / k, k, 0.9) for k in ("T", "s", "low")}
  words = np.full(300, 10)
  for name, own in (("T", 9), ("s", 9), ("low", 9)):
    right = np.full(300, own)
    # Of 300 sentences the teacher has 8 more words right, in 6 sentences.
    right[:6] += name == "T"
    items = dict.fromkeys(UD, Ratios(right.tolist(), words.tolist()))
    per_item.write(made[name] / "seed-0", {"test": items})
  flags = ("--teacher=T", "--lower=s:low", f"--out={tmp_path}/out")
  found = report(capsys, *made.values(), *flags).out
  assert "the gap above low is too small to say" in found


def test_what_one_file_alone_has_is_compared_there(capsys, tmp_path):
  """A program that has no lemmas takes that column from the others alone."""
  folders = [tagged(tmp_path / k, k, 0.9) for k in "ab"]
  names = finetuned(
    tmp_path / "n", "n", [{"F1": right(0.5)}], task="ner", test="x"
  )
  found = report(capsys, *folders, names, f"--out={tmp_path}/out").out
  assert f"mean of {', '.join(UD)}: row minus column" in found
  assert "* n: no other model was scored on the same file." in found


@pytest.mark.parametrize("short", ["seed", "metric"])
def test_items_of_different_lengths(capsys, tmp_path, short):
  a = tagged(tmp_path / "a", "a", 0.9)
  seeds = [{c: right(0.9) for c in UD} for _ in range(2)]
  b = finetuned(tmp_path / "b", "b", seeds)
  items = dict(per_item.read(b / "seed-1", "test"))
  for name in UD if short == "seed" else UD[:1]:
    items[name] = Ratios(items[name].right[1:], items[name].whole[1:])
  per_item.write(b / "seed-1", {"test": items})
  error = report(capsys, a, b, f"--out={tmp_path}/out", code=2).err
  assert "have 299 to 300 items in a score; expected as many in each" in error


def test_items_that_lack_a_score(capsys, tmp_path):
  a, b = (tagged(tmp_path / k, k, 0.9) for k in "ab")
  path = b / "seed-0" / "per_item.json"
  path.write_text('{"test": {"LAS": {"right": [1], "whole": [1]}}}')
  error = report(capsys, a, b, f"--out={tmp_path}/out", code=2).err
  assert f"{path} lacks Lemmas, which scores.json has; delete" in error


@pytest.mark.parametrize(
  "text", ["s", "s:", ":low", "s:low,", "a:b:c", "s:a,s:b"]
)
def test_what_lower_may_not_be(text):
  with pytest.raises(UserError, match="expected pairs of labels"):
    differences.parse_lower(text)


def test_lower_names_labels_that_are_there(capsys, tmp_path):
  a, b = (tagged(tmp_path / k, k, 0.9) for k in "ab")
  out = f"--out={tmp_path}/out"
  words = ("--lower=a:x", "--teacher=b", out)
  error = report(capsys, a, b, *words, code=2).err
  assert "--lower: no result is of 'x'; known: a, b." in error
  error = report(capsys, a, b, "--lower=a:b", out, code=2).err
  assert "expected --teacher=LABEL with it." in error
  assert not (tmp_path / "out").exists()
