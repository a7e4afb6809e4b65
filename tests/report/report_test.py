"""The table of results, from files of results alone."""

import csv
import hashlib
import json

import pytest
from written_results import UD, finetuned, ud

from time_jax.cli import main


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
  assert main.main(["report", *map(str, arguments)]) == code
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
    "| 90.00 | 80.00 | 80.00 | 80.00 | 70.00 | undefined | - | - | "
    "80.00 (of 5) | 100.0 (of 5)" in output.out
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
    "ga  big  90.00  80.00  80.00  80.00  70.00  62.00 ± 2.83  50.00  70.40  "
    "80.00 (of 5)  100.0  2.00 M  20.00  0.25"
  )
  # What was not measured is no zero and no guess: its share is over 5 columns.
  assert cells(text, "small") == (
    "ga  small  81.00  72.00  72.00  72.00  63.00  -  -  -  72.00 (of 5)  "
    "90.0 (of 5)  2.00 M  2.00  -"
  )
  assert "ms: median of a batch of 1 in JAX on 1 x abacus." in text
  assert (out / "report.md").read_text() in text
  assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
  with (out / "report.csv").open() as file:
    big, small = csv.DictReader(file)
  assert float(big["NER F1"]) == 62 and big["NER F1 seeds"] == "2"
  assert small["average"] == small["QA F1"] == ""
  assert float(small["teacher_percent"]) == pytest.approx(90)
  # What the plot shows is in the table, too.
  assert float(big["common_mean"]) == 80 and small["common_columns"] == "5"


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
  genitive = {"gold": 4, "predicted": 6, "right": 3}
  imperative = {"gold": 9, "predicted": 0, "right": 0}
  noun = {"words": 8, "UPOS": 6, "UFeats": 4, "Lemmas": 2, "UAS": 3, "LAS": 1}
  by = {"feats": {"Case=Gen": genitive, "Mood=Imp": imperative}}
  by["upos"] = {"NOUN": noun}
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
  for metric, share in (("UFeats", 50), ("UAS", 37.5), ("LAS", 12.5)):
    part = text.split(f"## ga: {metric} by upos")[1]
    assert part.splitlines()[4] == f"| NOUN | 8 | {share:.2f} | - |"
  path = a / "seed-1" / "scores.json"  # as of an earlier version
  path.write_text(path.read_text().replace('"UAS": 3, ', ""))
  text = run(capsys, a, "--by=upos", f"--out={tmp_path}/out").out
  assert "| NOUN | 8 | - |" in text.split("UAS by upos")[1].splitlines()


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
  assert "/no does not exist, so it has neither" in error(tmp_path / "no")
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
  assert f"{path} lacks 'task'" in error(a)


ABSENT = object()


def spoil(content, place, value):
  """Puts a value at a path of names; ABSENT: takes away what is there."""
  *names, last = place
  for name in names:
    content = content[name]
  if value is ABSENT:
    del content[last]
  else:
    content[last] = value


F1 = ("scores", "test", "F1")


@pytest.mark.parametrize(
  ("place", "value", "message"),
  [
    (F1, ABSENT, "lacks 'scores.test.F1'"),
    (F1, None, "lacks 'scores.test.F1'"),
    (F1, 3, "'scores.test.F1' is 3, expected an object"),
    ((*F1, "mean"), None, "lacks 'scores.test.F1.mean'"),
    ((*F1, "mean"), "62", "'scores.test.F1.mean' is '62', expected a number"),
    ((*F1, "mean"), float("nan"), "mean' is nan, expected a number"),
    ((*F1, "std"), ABSENT, "lacks 'scores.test.F1.std'"),
    (("scores",), {}, "lacks 'scores': it is empty"),
    (("scores",), {"train": {}}, "lacks 'scores.test'"),
    (("scores", "test"), None, "lacks 'scores.test'"),
    (("lang",), None, "lacks 'lang'"),
    (("lang",), 7, "'lang' is 7, expected text"),
    (("label",), "", "lacks 'label': it is empty"),
    (("task",), "pos", "is of task 'pos', expected one of ud, ner, qa"),
    (("fingerprint",), None, "lacks 'fingerprint'"),
    (("parameters",), {}, "lacks 'parameters.all'"),
    (("parameters", "all"), True, "'parameters.all' is True, expected a whole"),
    (("seeds",), [], "lacks 'seeds': it is empty"),
    (("seeds",), 3, "'seeds' is 3, expected a list"),
    (("seeds", 0), "0", "'seeds[0]' is '0', expected a whole number"),
    (("hardware",), None, "lacks 'hardware'"),
    (("hardware", "kind"), ABSENT, "lacks 'hardware.kind'"),
  ],
)
def test_scores_that_lack_something(capsys, tmp_path, place, value, message):
  folder = finetuned(tmp_path / "a", "ner", "big", {"F1": [60.0, 64.0]})
  path = folder / "scores.json"
  content = json.loads(path.read_text())
  spoil(content, place, value)
  path.write_text(json.dumps(content))
  out = f"--out={tmp_path}/out"
  (line,) = run(capsys, folder, out, code=2).err.splitlines()
  assert line.startswith(f"time_jax: error: {path}") and message in line


@pytest.mark.parametrize(
  ("place", "value", "message"),
  [
    (("rows",), ABSENT, "lacks 'rows'"),
    (("rows", 0), 3, "lacks 'rows[0].model'"),
    (("rows", 0, "model"), "other", "lacks 'other' among its models"),
    (("rows", 1, "latency_s"), None, "lacks 'rows[1].latency_s'"),
    (("rows", 1, "latency_s", "p50"), "1", "p50' is '1', expected a number"),
    (("rows", 0, "batch_size"), None, "lacks 'rows[0].batch_size'"),
    (("rows", 0, "energy"), 0.25, "'rows[0].energy' is 0.25, expected an"),
    (("models",), None, "lacks 'models'"),
    (("models", 0), "big", "lacks 'models[0].name'"),
    (("models", 0, "fingerprint"), None, "lacks 'models[0].fingerprint'"),
    (("hardware", "n_devices"), None, "lacks 'hardware.n_devices'"),
  ],
)
def test_speeds_that_lack_something(capsys, tmp_path, place, value, message):
  folder = measured(tmp_path / "a", big=20.0)
  path = folder / "inference.json"
  content = json.loads(path.read_text())
  spoil(content, place, value)
  path.write_text(json.dumps(content))
  scores = ud(tmp_path / "b", "big", (90, 80, 70))
  out = f"--out={tmp_path}/out"
  (line,) = run(capsys, scores, folder, out, code=2).err.splitlines()
  assert line.startswith(f"time_jax: error: {path}") and message in line


@pytest.mark.parametrize(
  ("by", "message"),
  [
    ({}, "lacks 'by'"),
    ({"by": {"dev": {}}}, "lacks 'by.test'"),
    ({"by": {"test": {}}}, "lacks 'by.test.feats'"),
    ({"by": {"test": {"feats": {"A=B": {}}}}}, "'by.test.feats.A=B.gold'"),
    ({"by": {"test": {"feats": {"A=B": None}}}}, "lacks 'by.test.feats.A=B'"),
  ],
)
def test_counts_of_a_seed_that_lack_something(capsys, tmp_path, by, message):
  folder = ud(tmp_path / "a", "big", (90, 80, 70))
  path = folder / "seed-0" / "scores.json"
  path.write_text(json.dumps(by))
  out = f"--out={tmp_path}/out"
  error = run(capsys, folder, "--by=feats", out, code=2).err
  assert str(path) in error and message in error
  assert not (tmp_path / "out").exists()


def test_a_language_has_one_row_however_recipes_had_it(capsys, tmp_path):
  a = ud(tmp_path / "a", "big", (90, 80, 70), lang="gle")
  b = finetuned(tmp_path / "b", "ner", "big", {"F1": [60.0]}, lang="ga")
  c = finetuned(tmp_path / "c", "qa", "big", {"F1": [50.0]}, lang="gle_Latn")
  text = run(capsys, a, b, c, f"--out={tmp_path}/out").out
  row = "ga  big  90.00  80.00  80.00  80.00  70.00  60.00  50.00  70.00"
  assert cells(text, "big").startswith(row)


def test_students_of_a_sweep_are_told_apart_by_their_folders(capsys, tmp_path):
  def student(name, model, **changes):
    label = "student@12"
    given = dict(model=model, fingerprint=name) | changes
    return ud(tmp_path / name, label, (90, 80, 70), **given)

  out = f"--out={tmp_path}/out"
  four = [
    student(f"{heads}{seed}", f"runs/heads={heads}_seed={seed}/student")
    for heads in (2, 4)
    for seed in (0, 1)
  ]
  text = run(capsys, *four, "--teacher=heads=2_seed=0/student@12", out).out
  for heads in (2, 4):
    assert f"| heads={heads}_seed=1/student@12 |" in text
  # In another language there is nothing to tell apart.
  danish = student("da", "runs/da/student", lang="da")
  assert "| da | student@12 |" in run(capsys, *four, danish, out).out
  # What a user called so, and what lies in one place, is refused.
  named = [student(name, f"runs/{name}/other") for name in "xy"]
  again = [student("v", "runs/v/student"), student("w", "runs/v/student")]
  for two in (named, again):
    error = run(capsys, *two, out, code=2).err
    assert "are both labelled 'student@12'" in error


def test_labels(capsys, tmp_path):
  """A label is of one model in a language; a model may have several."""
  out = f"--out={tmp_path}/out"
  a = ud(tmp_path / "a", "B", (90, 80, 70), fingerprint="same")
  b = finetuned(tmp_path / "b", "ner", "A", {"F1": [60.0]}, fingerprint="same")
  small = ud(tmp_path / "c", "small", (81, 72, 63))
  for teacher in "AB":
    text = run(capsys, a, b, small, f"--teacher={teacher}", out).out
    assert cells(text, "B / A").startswith(
      "ga  B / A  90.00  80.00  80.00  80.00  70.00  60"
    )
    assert "  90.0 (of 5)  " in cells(text, "small")
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
  row = "70.00  60.00  -  -  76.67 (of 6)  -  2.00 M  2.00"
  assert row in cells(found.out, "m")
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
