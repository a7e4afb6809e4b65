"""Runs with the hidden-state term: resumed, with a cache, and refused."""

import json
import re
import shutil

import numpy as np
import pytest
import running
import safetensors.numpy
from tiny_recipe import get_config

from time_jax.cli import main
from time_jax.config.distill import check_config
from time_jax.config.hidden import pairs
from time_jax.config.students import effective, name_students
from time_jax.core.errors import UserError
from time_jax.run import assembly, hidden_states, run_record


@pytest.fixture
def basis(tmp_path):
  """A file with a matrix from the tiny teacher's width to its student's."""
  return write_basis(tmp_path / "basis.safetensors", (32, 16))


def write_basis(path, shape, seed=0, count=1):
  random = np.random.default_rng(seed)
  matrices = {
    str(i): random.normal(size=shape).astype(np.float32) for i in range(count)
  }
  safetensors.numpy.save_file(matrices, path)
  return path


def distill(tiny, workdir, *flags, steps=20):
  command = running.command(
    tiny,
    workdir,
    f"--config.data.folder={workdir.parent / 'data'}",
    f"--config.train.num_steps={steps}",
    "--config.data.max_documents=60",
    "--config.hidden.weight=0.5",
    *flags,
  )
  return main.main(command)


def told(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [
    {k: v for k, v in row.items() if k.startswith(("train/", "eval/", "step"))}
    for row in map(json.loads, lines)
  ]


def test_a_run_goes_on_and_a_cache_changes_nothing(
  tiny, tmp_path, basis, one_process, one_device, capsys
):
  """Bit by bit; the basis may move, but not change."""
  flags = f"--config.hidden.projection={basis}", "--config.hidden.pairs=2:2,1:1"
  assert distill(tiny, tmp_path / "run", *flags) == 0
  expected = told(tmp_path / "run")
  assert "hidden 0." in capsys.readouterr().err
  losses = [row["train/hidden"] for row in expected if "train/hidden" in row]
  scores = [row["eval/hidden"] for row in expected if "eval/hidden" in row]
  assert len(losses) == 20 and len(scores) == 3
  assert scores[-1] < scores[0] and losses[-1] < losses[0]
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "20")
  moved = shutil.copy(basis, tmp_path / "moved.safetensors")
  flags = f"--config.hidden.projection={moved}", flags[1]
  cache = f"--config.teacher.cache={tmp_path / 'cache'}"
  for name in ("run", "later"):  # Of rows that are not there yet, and that are.
    assert distill(tiny, tmp_path / name, *flags, cache) == 0
    assert told(tmp_path / name) == expected
  assert len([*(tmp_path / "cache").glob("*/rows.bin")]) == 3
  write_basis(moved, (32, 16), seed=1)
  assert distill(tiny, tmp_path / "run", *flags, steps=30) != 0
  assert run_record.PROJECTION in capsys.readouterr().err


def test_a_narrower_student_has_the_basis_of_its_start(
  tiny, tmp_path, one_process, one_device, capsys
):
  begun = "--config.student.init_from=teacher:1"
  one = "--config.student.num_layers=1"
  runs = own, named = tmp_path / "own", tmp_path / "named"
  basis = own / "start" / "basis.safetensors"
  for workdir, source in zip(runs, ("start", basis), strict=True):
    flags = begun, one, f"--config.hidden.projection={source}"
    assert distill(tiny, workdir, *flags) == 0
  assert told(own) == told(named)
  assert main.main(["choose", f"--workdir={own}"]) == 0
  chosen = json.loads((own / "choice.json").read_text())["candidates"]
  losses = {r["step"]: r["eval/loss"] for r in told(own) if "eval/loss" in r}
  del losses[0]  # Step 0 has no checkpoint.
  found = {int(step): scores["loss"] for step, scores in chosen.items()}
  assert found == pytest.approx(losses)

  capsys.readouterr()
  flags = begun, one, "--config.hidden.projection=start"
  write_basis(basis, (32, 16))
  assert distill(tiny, own, *flags, steps=30) != 0
  assert run_record.PROJECTION in capsys.readouterr().err
  assert main.main(["choose", f"--workdir={own}"]) != 0
  told_of = capsys.readouterr().err
  assert f"{run_record.PROJECTION} was " in told_of
  assert "put back the files that it was trained with" in told_of
  basis.unlink()
  assert distill(tiny, own, *flags, steps=30) != 0
  assert f"{basis} is not there, which" in capsys.readouterr().err


# Steps and scores of such a student are in step/hidden_steps_test.
@pytest.mark.slow
def test_a_student_whose_relations_are_off_is_chosen_by_the_rest(
  tiny, tmp_path, basis, one_process, one_device, capsys
):
  off = [f"--config.relations.weights.{x}{x}=0" for x in "qkv"]
  flags = f"--config.hidden.projection={basis}", *off
  assert distill(tiny, tmp_path / "run", *flags) == 0
  rows = told(tmp_path / "run")
  assert all("train/kl_qq" not in row for row in rows)
  scores = {row["step"]: row["eval/loss"] for row in rows if "eval/loss" in row}
  assert len(set(scores.values())) == 3
  assert all(
    row["eval/loss"] == pytest.approx(0.5 * row["eval/hidden"])
    for row in rows
    if "eval/loss" in row
  )
  assert main.main(["choose", f"--workdir={tmp_path / 'run'}"]) == 0
  del scores[0]  # Step 0 has no checkpoint.
  best = min(scores, key=scores.get)
  assert f"Chosen: step {best} by the lowest loss" in capsys.readouterr().out


def config_of(tiny, fields):
  config = get_config(tiny)
  config.hidden.weight = 1.0
  config.update_from_flattened_dict(fields)
  return config


OFF = {f"relations.weights.{x}{x}": 0.0 for x in "qkv"}


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"hidden.weight": -1.0}, "hidden.weight=-1.0, expected a number from 0"),
    ({"hidden.weight": float("nan")}, "hidden.weight=nan, expected"),
    ({"hidden.pairs": "2"}, "hidden.pairs='2' cannot be read; expected"),
    ({"hidden.pairs": "2:2,"}, "cannot be read; expected STUDENT:TEACHER"),
    ({"hidden.pairs": "a:b"}, "such as '6:12,3:6'"),
    ({"hidden.pairs": "1:2,1:2"}, "each pair once"),
    (
      {"hidden.pairs": "3:2"},
      "layer 3 of the student, which has layers",
    ),
    ({"hidden.pairs": "0:2"}, "layer 0 of the student"),
    ({"hidden.pairs": "1:2", **OFF}, "would leave layer 2 of the student as"),
  ],
  ids=str,
)
def test_what_no_run_could_use_is_refused(tiny, fields, words):
  with pytest.raises(UserError, match=re.escape(words)):
    check_config(config_of(tiny, fields))


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({}, "of the teacher are 32 wide, those of the student 16; expected equal"),
    (
      {"student.hidden_size": 32, "hidden.pairs": "2:9"},
      "layer 9 of the teacher, which has layers 1 to 3",
    ),
    (
      {"student.hidden_size": 32, "hidden.pairs": "2:0"},
      "layer 0 of the teacher",
    ),
    (
      {"student.hidden_size": 32, "teacher.loader": "flax"},
      "expected teacher.loader='own'",
    ),
    ({"hidden.projection": "start"}, "not with student.init_from=''; expected"),
    ({"hidden.projection": "{}/none"}, "none cannot be read: "),
    ({"hidden.projection": "{}/text"}, "text is no safetensors file"),
    (
      {"hidden.projection": "{}/turned"},
      "has the shape (16, 32); expected (",
    ),
    ({"hidden.projection": "{}/two"}, "holds [(32, 16), (32, 16)]; expected"),
    ({"hidden.projection": "{}/nan"}, "expected one matrix of finite numbers"),
    ({"hidden.projection": "gs://x/y"}, "is an address"),
  ],
  ids=str,
)
def test_what_does_not_fit_is_refused(tiny, tmp_path, fields, words):
  (tmp_path / "text").write_text("{}")
  write_basis(tmp_path / "turned", (16, 32))
  write_basis(tmp_path / "two", (32, 16), count=2)
  nan = {"x": np.full((32, 16), np.nan, np.float32)}
  safetensors.numpy.save_file(nan, tmp_path / "nan")
  fields = {
    name: value.format(tmp_path) if isinstance(value, str) else value
    for name, value in fields.items()
  }
  config = config_of(tiny, fields)
  check_config(config)
  with pytest.raises(UserError, match=re.escape(words)):
    assembly.teacher_config(config)


def test_a_stand_in_for_what_is_only_compiled(tiny):
  fields = {"hidden.projection": "start", "student.init_from": "teacher:lower"}
  config = config_of(tiny, fields)
  assembly.teacher_config(config)
  term = hidden_states.make_term(config, 32)
  np.testing.assert_array_equal(term.projection, np.eye(32, 16))
  assert hidden_states.make_term(config, 16).projection is None


def test_students_have_pairs_of_their_own(tiny):
  config = config_of(tiny, {"hidden.weight": 0.0})
  name_students(
    config,
    {
      "plain": {"teacher.layer": 1},
      "wide": {
        "hidden.weight": 2.0,
        "hidden.pairs": "1:1",
        "student.hidden_size": 32,
      },
    },
  )
  check_config(config)
  found = {name: pairs(own) for name, own in effective(config).items()}
  assert found == {"plain": (), "wide": ((1, 1),)}
