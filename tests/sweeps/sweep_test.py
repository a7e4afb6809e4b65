"""`sweep`: what runs, in which order, how often; and what is said of it."""

import csv
import fcntl
import json
import shutil
import sys

import pytest
import running
import tiny_ud

from time_jax.cli import main
from time_jax.core.storage.paths import list_files
from time_jax.report import plot

# Stands for Python: notes what it is told, writes what the command would, and
# ends as FOLDER/ends says: lines of a part of the command and shell words.
PYTHON = """#!/bin/bash
here={folder}
shift 2
echo "$*" >> $here/calls
echo "output of $1"
for word; do
  case $word in
    --json=*) cp $here/speed.json "${{word#--json=}}" ;;
    --workdir=*) place=${{word#--workdir=}} ;;
  esac
done
while read -r part rest; do
  [[ "$*" != *$part* ]] || eval "$rest"
done < $here/ends
mkdir -p $place
[ "$1" != finetune ] || cp $here/scores.json $place
"""
SWEEP = """
from time_jax.sweeps.grid import Sweep

def get_sweep(steps="30", limit_ms="", stage="choose", x="latency", y=""):
  def stages(folder, heads, seed):
    run = folder / "student"
    return [
      ["bench", "inference", f"--models=a=random:{{heads}}x384", "--text=t",
       "--tokenizer=t", f"--json={{folder}}/speed.json"],
      ["distill", "--config={recipe}", f"--workdir={{run}}",
       f"--config.relations.num_heads={{heads}}", f"--config.seed={{seed}}",
       f"--config.train.num_steps={{steps}}"],
      [*stage.split(), f"--workdir={{run}}"],
      ["finetune", "ud", f"--workdir={{folder}}/ud",
       f"--config={root}/configs/ud.py:lang=ga,model={{run}},"
       "train={ud}/ga-train.conllu.gz,dev={ud}/ga-dev.conllu.gz"],
    ]
  limit = float(limit_ms) if limit_ms else None
  return Sweep({{"heads": (2, 4), "seed": (0, 1)}}, stages, limit, x, 1, y)
"""
NAMES = [f"heads={heads}_seed={seed}" for heads in (2, 4) for seed in (0, 1)]
SCORES = ("UPOS", "UFeats", "Lemmas", "UAS", "LAS")
COMMANDS = ["bench inference", "distill", "choose", "finetune ud"]


@pytest.fixture
def stub(monkeypatch, tiny, tmp_path):
  """A folder with a sweep, and what stands for Python in the stages."""
  recipe = f"{running.ROOT}/tests/support/tiny_recipe.py:{tiny}"
  text = SWEEP.format(recipe=recipe, root=running.ROOT, ud=tiny_ud.UD)
  (tmp_path / "sweep.py").write_text(text)
  (tmp_path / "ends").write_text("")
  python = tmp_path / "python"
  python.write_text(PYTHON.format(folder=tmp_path))
  python.chmod(0o755)
  monkeypatch.setattr(sys, "executable", str(python))
  hardware = {"kind": "abacus", "n_devices": 1}
  scores = {name: {"mean": 50.0, "std": 0.0} for name in SCORES}
  content = {
    "schema": "time_jax.finetune/1",
    "task": "ud",
    "lang": "ga",
    "label": "student@30",
    "fingerprint": "same",
    "parameters": {"all": 2_000_000},
    "hardware": hardware,
    "seeds": [0],
    "scores": {"test": scores},
  }
  (tmp_path / "scores.json").write_text(json.dumps(content))
  speed = {
    "schema": "time_jax.bench.inference/1",
    "hardware": hardware,
    "models": [{"name": "a", "fingerprint": "of the shape"}],
    "rows": [
      {
        "model": "a",
        "engine": "jax",
        "batch_size": 1,
        "latency_s": {"p50": 0.007},
      }
    ],
  }
  (tmp_path / "speed.json").write_text(json.dumps(speed))
  return tmp_path


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
  """One test looks at the picture; drawing it takes longer than all else."""
  if request.function is not test_all_points_once_and_a_table_of_them:
    monkeypatch.setattr(plot, "figure", lambda *_, **__: None)


def sweep(capsys, stub, arguments="", *fields, code=0):
  """Runs it; (output, error, the commands that were started)."""
  calls = stub / "calls"
  calls.write_text("")
  spec = f"{stub}/sweep.py:{arguments}"
  words = ["sweep", *fields, spec, f"--workdir={stub}/run"]
  assert main.main(words) == code
  output = capsys.readouterr()
  return output.out, output.err, calls.read_text().splitlines()


def names_of(calls):
  """Point and command of every call."""
  return [
    (name, command)
    for call in calls
    for name in NAMES
    for command in COMMANDS
    if f"/{name}/" in call and call.startswith(command)
  ]


def rows(stub):
  with (stub / "run" / "sweep.csv").open() as file:
    return {row["label"]: row for row in csv.DictReader(file)}


def test_all_points_once_and_a_table_of_them(capsys, stub):
  out, _, calls = sweep(capsys, stub)
  expected = [(name, command) for name in NAMES for command in COMMANDS]
  assert names_of(calls) == expected
  lines = out.splitlines()
  assert lines[0].startswith("4 points, 0 of 16 stages done before.")
  heads = [
    f"{NAMES.index(name) + 1}/4 {name}: {command} ... 0 s"
    for name, command in expected
  ]
  assert lines[1:17] == heads
  assert (stub / "run" / NAMES[2] / "2-distill.log").read_text() == (
    "output of distill\n"
  )
  table = [line for line in lines if line.startswith("|")]
  for name, line in zip(NAMES, table[2:], strict=True):
    assert line == (
      f"| ga | {name} |{' 50.00 |' * len(SCORES)} - | - | - | 50.00 (of 5) "
      "| 2.00 M | 7.00 | - | - | done |"
    )
  assert "\n".join(table) in (stub / "run" / "sweep.md").read_text()
  row = rows(stub)["heads=4_seed=1"]
  assert (row["heads"], row["seed"], row["state"]) == ("4", "1", "done")
  assert (row["LAS"], row["NER F1"], row["ms"]) == ("50.0", "", "7.0")
  png = (stub / "run" / "sweep.png").read_bytes()
  assert png.startswith(b"\x89PNG")
  again, _, calls = sweep(capsys, stub)
  assert not calls and "16 of 16 stages done before" in again
  assert again.splitlines()[1:] == lines[17:]


def test_the_plot_joins_points_that_differ_in_one_axis(
  capsys, monkeypatch, stub
):
  drawn = []
  monkeypatch.setattr(
    plot, "figure", lambda *x, **more: drawn.append((x, more))
  )
  points = [dict(part.split("=") for part in n.split("_")) for n in NAMES]
  for x, y, others in (("heads", "LAS", "seed"), ("latency", "", "heads")):
    sweep(capsys, stub, f"x={x},y={y}")
    (rows, xs, _), more = drawn[-1]
    assert {*rows[0].cells} == ({y} if y else {*SCORES})
    # What the axis says, no name says again.
    names = [f"seed={p['seed']}" if x == "latency" else "" for p in points]
    assert [row.label for row in rows] == names
    assert xs == ([2, 2, 4, 4] if x == "heads" else [7.0] * 4)
    assert more["groups"] == [f"{others}={p[others]}" for p in points]
    assert more["costs"] == more["logarithmic"] == (x == "latency")


def test_a_failure_leaves_the_others_alone_and_is_tried_again(capsys, stub):
  failing = f"{NAMES[1]}/student echo time_jax: error: it broke.; exit 3\n"
  (stub / "ends").write_text(failing)
  out, err, calls = sweep(capsys, stub, code=3)
  assert len(calls) == 3 * 4 + 2
  log = f"{stub}/run/{NAMES[1]}/2-distill.log"
  assert f"2/4 {NAMES[1]}: distill ... failed after 0 s with exit" in out
  assert f"with exit code 3: it broke. See {log}\n" in out
  assert f"1 of 4 points failed: {NAMES[1]} (distill, exit code 3)." in err
  row = rows(stub)[NAMES[1]]
  assert row["state"] == "failed: distill, exit code 3"
  assert (row["lang"], row["LAS"], row["ms"]) == ("", "", "7.0")
  assert f"| - | {NAMES[1]} |{' - |' * 10} 7.00 |" in out
  (stub / "ends").write_text("")
  out, err, calls = sweep(capsys, stub)
  assert names_of(calls) == [(NAMES[1], command) for command in COMMANDS[1:]]
  assert not err and rows(stub)[NAMES[1]]["state"] == "done"


def test_a_stage_that_is_to_go_on_ends_the_sweep(capsys, stub):
  (stub / "ends").write_text(f"{NAMES[1]}/student exit 42\n")
  out, _, calls = sweep(capsys, stub, code=42)
  assert names_of(calls)[-1] == (NAMES[1], "distill") and len(calls) == 6
  assert out.splitlines()[-1] == (
    f"2/4 {NAMES[1]}: distill ... stopped after 0 s; run the sweep again"
  )
  assert rows(stub)[NAMES[1]]["state"] == "stopped: distill"
  assert rows(stub)[NAMES[2]]["state"] == "0 of 4 stages"
  (stub / "ends").write_text("")
  _, _, calls = sweep(capsys, stub)
  assert names_of(calls)[0] == (NAMES[1], "distill") and len(calls) == 11


@pytest.mark.parametrize("code", [42, 0])
def test_sigterm_reaches_the_stage_and_is_waited_for(capsys, stub, code):
  # The stage tells its parent, and lives to see it come back.
  trap = f"trap 'echo saved; exit {code}' TERM; kill -TERM $PPID; "
  wait = "for i in {1..99}; do sleep 0.1; done"
  (stub / "ends").write_text(f"{NAMES[0]}/student {trap}{wait}\n")
  out, _, calls = sweep(capsys, stub, code=42)
  assert len(calls) == 2 and "stopped after" in out
  log = (stub / "run" / NAMES[0] / "2-distill.log").read_text()
  assert log == "output of distill\nsaved\n"
  (stub / "ends").write_text("")
  _, _, calls = sweep(capsys, stub)
  # What was finished when the signal came is finished.
  assert names_of(calls)[0][1] == ("distill" if code else "choose")


def test_what_is_too_slow_is_not_trained(capsys, stub):
  (stub / "ends").write_text(
    f"{NAMES[0]}/speed sed -i s/0.007/0.002/ {stub}/run/{NAMES[0]}/speed.json\n"
  )
  out, _, calls = sweep(capsys, stub, "limit_ms=5")
  assert len(calls) == 4 + 3
  assert f"4/4 {NAMES[3]}: skipped: 7.00 ms, limit 5 ms\n" in out
  found = rows(stub)
  assert found[NAMES[3]]["state"] == "skipped: 7.00 ms, limit 5 ms"
  assert found[NAMES[0]]["state"] == "done" and found[NAMES[3]]["LAS"] == ""
  _, _, calls = sweep(capsys, stub, "limit_ms=9")
  assert names_of(calls)[0] == (NAMES[1], "distill") and len(calls) == 9


def test_what_was_finished_otherwise_is_refused(capsys, stub):
  (stub / "ends").write_text(f"{NAMES[0]}/ud exit 2\n")
  sweep(capsys, stub, code=3)
  _, err, calls = sweep(capsys, stub, "steps=40", code=2)
  assert not calls
  assert (
    f"{stub}/run/{NAMES[0]}/point.json: stage 2 was finished with "
    "'--config.train.num_steps=30', and has '--config.train.num_steps=40' now."
  ) in err
  # The folder may lie elsewhere.
  elsewhere = (stub / "run").rename(stub / "moved")
  calls = stub / "calls"
  calls.write_text("")
  (stub / "ends").write_text("")
  assert main.main(["sweep", f"{stub}/sweep.py", f"--workdir={elsewhere}"]) == 0
  assert len(calls.read_text().splitlines()) == 1


def test_fields_hold_for_training_in_all_points(capsys, stub):
  fields = "--config.train.peak_lr=1e-3", "--noconfig.teacher.allow_pickle"
  _, _, calls = sweep(capsys, stub, "", *fields)
  ends = [
    call.partition(" --config.train.num_steps=30 ")[2]
    for call in calls
    if call.startswith("distill")
  ]
  fields = "--config.teacher.allow_pickle=False --config.train.peak_lr=1e-3"
  assert ends == [fields] * len(NAMES)
  assert sum("peak_lr" in call for call in calls) == len(NAMES)
  _, err, calls = sweep(capsys, stub, "", "--config.train.peak_lr=2e-3", code=2)
  assert "stage 2 was finished with '--config.teacher.allow_pickle=" in err
  assert not calls


def test_two_at_once(capsys, stub):
  (stub / "run").mkdir()
  with (stub / "run" / "sweep.lock").open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    _, err, calls = sweep(capsys, stub, code=42)
  assert not calls and "is at work in" in err


def test_one_process_only(capsys, monkeypatch, stub):
  for name, value in (
    ("COORDINATOR", "host:1"),
    ("NUM_PROCESSES", "2"),
    ("PROCESS_ID", "0"),
  ):
    monkeypatch.setenv(f"TIME_JAX_{name}", value)
  _, err, calls = sweep(capsys, stub, code=2)
  assert not calls and "started 2 processes; a sweep runs in one" in err


@pytest.mark.parametrize(
  ("before", "after", "message"),
  [
    (
      "(2, 4)",
      "(2, 5, 4, 3)",
      "4 of 8 points cannot be run, so none was. "
      "heads=5_seed=0 and 1 more: relations.num_heads=5 must divide",
    ),
    (
      "(0, 1)",
      "(0, -1)",
      "heads=2_seed=-1 and 1 more: bad configuration: seed=-1, expected a ",
    ),
    ("(0, 1)", "(0, 0)", "axis seed is (0, 0), expected different values"),
    ("(0, 1)", "()", "axis seed is (), expected different values"),
    ('"seed": (0, 1)', '"steps": (0, 1)', "stages fails: TypeError: "),
    ("config.seed", "config.sed", "unknown config field 'sed'"),
    ("model={{run}}", "model=", "model is empty, expected a workdir"),
    (
      "ga-dev",
      "ga-dav",
      "ga-dav.conllu.gz: no such file; expected one, or hf:",
    ),
    ('"choose"', '"chose"', "unknown command 'chose'"),
    ('"choose"', '"distill"', "distill needs --config; for example"),
    ('"choose"', '"choose --help"', "unknown flag 'help'"),
    ("a=random", "a=x,b=random", "one model in --models"),
    ('f"--json', 'f"--engines=torch", f"--json', "needs jax among"),
    ("return Sweep(", "return dict(", "fails: TypeError"),
    ("return Sweep(", "return str(1) or (", "gives str, expected a Sweep"),
    ("def get_sweep(", "def sweep(", "no attribute 'get_sweep'"),
    ('y=""', 'y="luck"', "y is 'luck', expected one of UPOS, UFeats, "),
    ('x="latency"', 'x="colour"', "x is 'colour', expected latency, tokens"),
  ],
)
def test_what_cannot_be_run_is_not_begun(capsys, stub, before, after, message):
  path = stub / "sweep.py"
  changed = path.read_text().replace(
    before.replace("{{", "{").replace("}}", "}"), after
  )
  assert changed != path.read_text()
  path.write_text(changed)
  _, err, calls = sweep(capsys, stub, code=2)
  assert message in err and not calls
  assert not (stub / "run").exists()


def test_what_is_kept_needs_no_workdir(capsys, stub):
  """Two points are finished before the workdir is lost; two are run after."""
  kept, flag = stub / "kept", f"--results={stub}/kept"
  first, second, third, _ = NAMES
  (stub / "ends").write_text(f"{third}/student exit 42\n")
  out, _, _ = sweep(capsys, stub, "", flag, code=42)
  assert "From" not in out
  assert sorted(path.name for path in kept.iterdir()) == [
    *(first, second, "sweep.csv", "sweep.md"),
  ]
  found = sorted(
    str(p.relative_to(kept / first)) for p in list_files(kept / first)
  )
  assert found == ["point.json", "speed.json", "ud/scores.json"]
  (kept / first / "tokens.json").write_text(json.dumps({"tokens": 1234}))

  shutil.rmtree(stub / "run")
  (stub / "ends").write_text("")
  out, _, calls = sweep(capsys, stub, "", flag)
  assert "4 points, 8 of 16 stages done before." in out
  assert f"From {kept}: {first}, {second}" in out
  assert {name for name, _ in names_of(calls)} == set(NAMES[2:])
  assert rows(stub)[first]["tokens"] == "1234"
  assert {row["state"] for row in rows(stub).values()} == {"done"}
  assert {*NAMES} <= {path.name for path in kept.iterdir()}
  table = (stub / "run" / "sweep.csv").read_text()
  assert (kept / "sweep.csv").read_text() == table

  # The same commands are needed, and a point is either begun or kept.
  shutil.rmtree(stub / "run")
  _, error, _ = sweep(capsys, stub, "steps=31", flag, code=2)
  assert "stage 2 was finished with '--config.train.num_steps=30'" in error
  assert f"or delete {kept / first}." in error
  assert not (stub / "run" / first).exists()
  (stub / "run" / first / "student").mkdir(parents=True)
  _, error, _ = sweep(capsys, stub, "", flag, code=2)
  assert f"{first} was begun, and {kept / first} holds the results" in error
  shutil.rmtree(stub / "run")
  (kept / first / "tokens.json").write_text("{}")
  _, error, _ = sweep(capsys, stub, "", flag, code=2)
  assert "tokens.json is damaged; expected a number of tokens." in error


def test_results_that_cannot_be_written(capsys, stub):
  (stub / "file").touch()
  _, error, _ = sweep(capsys, stub, "", f"--results={stub}/file/x", code=2)
  assert f"cannot write to {stub}/file/x (see --results)" in error
  assert f"stays in {stub}/run." in error
