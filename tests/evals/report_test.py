"""The table of results, from files of results alone."""

import csv
import hashlib
import json
import statistics

import pytest

from time_jax import cli

UD = {"UPOS": 90.0, "Lemmas": 80.0, "LAS": 70.0}


def finetuned(folder, task, label, scores, *, by=None, **changes):
  """A workdir of `finetune`; scores: metric -> values of the seeds."""
  metrics = {
    name: {
      "mean": statistics.fmean(values),
      "std": statistics.stdev(values) if len(values) > 1 else 0.0,
      "values": values,
    }
    for name, values in scores.items()
  }
  count = max(map(len, scores.values()))
  content = {
    "schema": "time_jax.finetune/1",
    "task": task,
    "lang": "ga",
    "label": label,
    "fingerprint": label * 2,
    "parameters": {"all": 2_000_000, "without_embeddings": 1},
    "hardware": {"kind": "abacus", "n_devices": 1},
    "seeds": list(range(count)),
    "scores": {"test": metrics},
    **changes,
  }
  folder.mkdir()
  (folder / "scores.json").write_text(json.dumps(content))
  for seed in range(count):
    (folder / f"seed-{seed}").mkdir()
    text = json.dumps({"by": {"test": by or {}}})
    (folder / f"seed-{seed}" / "scores.json").write_text(text)
  return folder


def ud(folder, label, values, **changes):
  scores = dict(zip(UD, ([v] for v in values), strict=True))
  return finetuned(folder, "ud", label, scores, **changes)


def measured(folder, **milliseconds):
  """A folder of `bench inference`: label -> p50."""
  rows = [
    {
      "model": label,
      "engine": engine,
      "batch_size": size,
      "latency_s": {"p50": size * ms / 1000},
      "energy": {"joules_per_sentence": 0.25} if label == "big" else None,
    }
    for label, ms in milliseconds.items()
    for engine in ("torch", "jax")
    for size in (32, 1)
  ]
  content = {
    "schema": "time_jax.bench.inference/1",
    "hardware": {"kind": "abacus", "n_devices": 1},
    "models": [{"name": k, "fingerprint": k * 2} for k in milliseconds],
    "rows": rows,
  }
  folder.mkdir()
  (folder / "inference.json").write_text(json.dumps(content))
  return folder


def run(capsys, *arguments, code=0):
  assert cli.main(["report", *map(str, arguments)]) == code
  return capsys.readouterr()


def test_scores_that_are_undefined_have_a_word_and_no_part_in_means(
  capsys, tmp_path
):
  names = finetuned(tmp_path / "ner", "ner", "s", {"F1": [50.0, 60.0]})
  content = json.loads((names / "scores.json").read_text())
  nothing = {"mean": None, "std": None, "values": [None, None]}
  content["scores"]["test"]["F1"] = nothing
  (names / "scores.json").write_text(json.dumps(content))
  tags = ud(tmp_path / "ud", "s", (90, 80, 70))
  output = run(capsys, names, tags, "--teacher=s", f"--out={tmp_path / 'out'}")
  assert (
    "| 90.00 | 80.00 | 70.00 | undefined | - | - | 100.0 (of 3)" in output.out
  )
  assert "* undefined: there is no name to find" in output.out


def cells(text, label):
  (line,) = (x for x in text.splitlines() if f"| {label} |" in x)
  return "  ".join(cell.strip() for cell in line.strip("|").split("|"))


@pytest.fixture
def workdirs(tmp_path):
  return [
    ud(tmp_path / "a", "big", (90, 80, 70)),
    finetuned(tmp_path / "b", "ner", "big", {"F1": [60.0, 64.0]}),
    finetuned(tmp_path / "c", "qa", "big", {"F1": [50.0]}),
    ud(tmp_path / "d", "small", (81, 72, 63)),
    measured(tmp_path / "e", big=20.0, small=2.0),
  ]


def test_the_table_by_hand(workdirs, capsys, tmp_path):
  out = tmp_path / "out" / "here"
  text = run(capsys, *workdirs, "--teacher=big", f"--out={out}").out
  assert cells(text, "big") == (
    "ga  big  90.00  80.00  70.00  62.00 ± 2.83  50.00  70.40  100.0  "
    "2.00 M  20.00  0.25"
  )
  # What was not measured is no zero and no guess: its share is over 3 columns.
  assert cells(text, "small") == (
    "ga  small  81.00  72.00  63.00  -  -  -  90.0 (of 3)  2.00 M  2.00  -"
  )
  assert "ms: median of a batch of 1 in JAX on 1 x abacus." in text
  assert (out / "report.md").read_text() in text
  assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
  with (out / "report.csv").open() as file:
    big, small = csv.DictReader(file)
  assert float(big["NER F1"]) == 62 and big["NER F1 seeds"] == "2"
  assert small["average"] == small["QA F1"] == ""
  assert float(small["teacher_percent"]) == pytest.approx(90)


def test_what_is_known_of_dev_alone_is_marked_and_in_no_mean(
  workdirs, capsys, tmp_path
):
  path = workdirs[1] / "scores.json"
  content = json.loads(path.read_text())
  content["scores"] = {"dev": content["scores"]["test"]}
  path.write_text(json.dumps(content))
  text = run(capsys, *workdirs, f"--out={tmp_path}/out").out
  assert "  62.00 ± 2.83 (dev)  50.00  -  " in cells(text, "big")
  assert "(dev): scored on dev only" in text
  assert "% of teacher: which label is the teacher's, --teacher says." in text


def test_classes_are_pooled_over_the_seeds(capsys, tmp_path):
  by = {
    "feats": {
      "Case=Gen": {"gold": 4, "predicted": 6, "right": 3},
      "Mood=Imp": {"gold": 9, "predicted": 0, "right": 0},
    },
    "upos": {
      "NOUN": {"words": 8, "UPOS": 6, "UFeats": 4, "Lemmas": 2, "LAS": 1}
    },
  }
  two = {name: [value, value] for name, value in UD.items()}
  a = finetuned(tmp_path / "a", "ud", "big", two, by=by)
  b = ud(tmp_path / "b", "small", (1, 2, 3), by={"feats": {}, "upos": {}})
  text = run(capsys, a, b, "--by=feats", f"--out={tmp_path}/out").out
  assert "## ga: F1 by feats" in text
  lines = text.splitlines()
  assert "| Case=Gen | 4 | 60.00 | - |" in lines
  rare, common = (
    lines.index(f"| {name} |")
    for name in ("Case=Gen | 4 | 60.00 | -", "Mood=Imp | 9 | 0.00 | -")
  )
  assert common < rare
  text = run(capsys, a, b, "--by=upos", f"--out={tmp_path}/out").out
  for metric, share in (("UPOS", 75), ("UFeats", 50), ("LAS", 12.5)):
    part = text.split(f"## ga: {metric} by upos")[1]
    assert part.splitlines()[4] == f"| NOUN | 8 | {share:.2f} | - |"


def test_what_cannot_be_reported(workdirs, capsys, tmp_path):
  def error(*arguments):
    out = f"--out={tmp_path}/out"
    (line,) = run(capsys, *arguments, out, code=2).err.splitlines()
    assert not (tmp_path / "out").exists()
    return line

  a, *_, speed = workdirs
  assert "report needs WORKDIRS; for example" in error()
  assert "no scores in what is given" in error(speed)
  assert "holds neither scores.json nor inference.json" in error(tmp_path)
  line = error(*workdirs, "--teacher=huge")
  assert "no result is of teacher 'huge'; known: big, small." in line
  again = ud(tmp_path / "again", "other", (1, 2, 3), fingerprint="bigbig")
  line = error(a, again)
  assert f"{a} and {again} both hold ud" in line and "give one" in line
  path = a / "scores.json"
  whole = path.read_text()
  path.write_text(whole[: len(whole) // 2])
  assert f"{path} is not readable JSON" in error(a)
  path.write_text('{"schema": "time_jax.finetune/9"}')
  assert "is of schema 'time_jax.finetune/9', expected" in error(a)
  path.write_text('{"schema": "time_jax.finetune/1"}')
  assert f"{path} lacks 'seeds'" in error(a)


def test_labels(capsys, tmp_path):
  """A label is of one model in a language; a model may have several."""
  out = f"--out={tmp_path}/out"
  a = ud(tmp_path / "a", "B", (90, 80, 70), fingerprint="same")
  b = finetuned(tmp_path / "b", "ner", "A", {"F1": [60.0]}, fingerprint="same")
  small = ud(tmp_path / "c", "small", (81, 72, 63))
  for teacher in "AB":
    text = run(capsys, a, b, small, f"--teacher={teacher}", out).out
    assert cells(text, "B / A").startswith("ga  B / A  90.00  80.00  70.00  60")
    assert "  90.0 (of 3)  " in cells(text, "small")
  other = finetuned(tmp_path / "d", "qa", "small", {"F1": [1]}, fingerprint="x")
  error = run(capsys, a, small, other, "--teacher=B", out, code=2).err
  assert f"{small} and {other} are both labelled 'small' in 'ga'" in error
  assert "--config.label=NAME" in error
  danish = ud(tmp_path / "e", "small", (1, 2, 3), fingerprint="x", lang="da")
  assert run(capsys, small, danish, out).err == ""


IMPORTED = hashlib.sha256(json.dumps([{}, 0]).encode()).hexdigest()


def test_results_of_earlier_versions_join_those_of_the_same_model(
  capsys, tmp_path
):
  out = f"--out={tmp_path}/out"
  early = ud(tmp_path / "a", "m", (90, 80, 70), fingerprint="old")
  now = dict(fingerprint="new", fingerprint_before="old")
  late = finetuned(tmp_path / "b", "ner", "m", {"F1": [60.0]}, **now)
  speed = measured(tmp_path / "c", old=2.0)
  content = (speed / "inference.json").read_text().replace("oldold", "old")
  (speed / "inference.json").write_text(content)
  found = run(capsys, early, late, speed, out)
  assert "70.00  60.00  -  -  -  2.00 M  2.00" in cells(found.out, "m")
  (line,) = found.err.splitlines()
  assert f"{early}, {speed}/inference.json know(s) a model by the hash" in line
  third = dict(fingerprint="third", fingerprint_before="old", lang="da")
  other = ud(tmp_path / "d", "n", (1, 2, 3), **third)
  error = run(capsys, early, late, other, out, code=2).err
  assert "the hash old, which several models had" in error
  assert run(capsys, late, other, out).err == ""


def test_all_imported_models_had_one_hash(capsys, tmp_path):
  out = f"--out={tmp_path}/out"
  a = ud(tmp_path / "a", "a", (90, 80, 70), fingerprint=IMPORTED)
  b = finetuned(tmp_path / "b", "ner", "b", {"F1": [6]}, fingerprint=IMPORTED)
  run(capsys, a, out)
  error = run(capsys, a, b, out, code=2).err
  assert f"{a}, {b}: an earlier version knew a model by the hash" in error
  assert "Fine-tune or measure again with this version" in error
