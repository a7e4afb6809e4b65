"""Bad input: one clear line, exit code 2, nothing lost. A run that breaks:
exit code 3, and what it saved before is sound.

In process, mostly on eight devices; only the joining of processes is left out.
"""

import gzip
import json
import pathlib
import shutil

import numpy as np
import pytest
import running
import safetensors.numpy

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.cli import main
from time_jax.config import command_line

QUERY = "encoder.layer.0.attention.self.query.weight"
WORDS = "embeddings.word_embeddings.weight"


pytestmark = pytest.mark.usefixtures("one_process")


def error_of(capsys, *argv, code=2):
  """The one line that a command ends with; all that it writes, for code 2."""
  assert main.main([str(word) for word in argv]) == code
  output = capsys.readouterr()
  lines = output.err.strip().splitlines()
  assert "Traceback" not in output.err
  assert len(lines) == 1 or code == 3, output.err
  assert lines[-1].startswith("time_jax: error: ")
  assert sum(line.startswith("time_jax: error") for line in lines) == 1
  return lines[-1].removeprefix("time_jax: error: ")


def error_of_distill(capsys, tiny, workdir, *flags, code=2):
  return error_of(capsys, *running.command(tiny, workdir, *flags), code=code)


def text_file(tmp_path, name, content):
  path = tmp_path / name
  path.write_bytes(content)
  return path, f"--config.data.train=('{path}',)"


def copied(tiny, tmp_path):
  """The teacher's folder with its text, to be damaged."""
  folder = tmp_path / "damaged"
  shutil.copytree(tiny, folder)
  return folder


@pytest.mark.parametrize("split", ["train", "validation"])
def test_text_that_is_not_there(capsys, tiny, tmp_path, split):
  flag = f"--config.data.{split}=('{tmp_path}/nothing*.txt',)"
  line = error_of_distill(capsys, tiny, tmp_path / "run", flag)
  assert f"no file at '{tmp_path}/nothing*.txt'" in line


def test_no_text_at_all(capsys, tiny, tmp_path):
  flag = "--config.data.train=()"
  line = error_of_distill(capsys, tiny, tmp_path / "run", flag)
  assert line.startswith("data.train is empty; expected text")


@pytest.mark.parametrize(
  "content", [b"", b"\n", b" \t\n\n  \n", b"\xe3\x80\x80"]
)
def test_text_without_a_word(capsys, tiny, tmp_path, content):
  path, flag = text_file(tmp_path, "empty.txt", content)
  line = error_of_distill(capsys, tiny, tmp_path / "run", flag)
  assert line.startswith(f"no text in {path}: ")
  assert path.read_bytes() == content


def test_a_damaged_gz_file(capsys, tiny, tmp_path):
  lines = [json.dumps({"text": f"abcd {i**9}"}) for i in range(5000)]
  whole = gzip.compress("\n".join(lines).encode())
  for content, words in (
    (b"plain text" * 9, "Not a gzipped file"),
    (whole[: len(whole) // 2], "damaged file, its rest is left out"),
  ):
    path, flag = text_file(tmp_path, "broken.jsonl.gz", content)
    limit = "--config.data.max_bad_records=0"
    line = error_of_distill(capsys, tiny, tmp_path / "run", flag, limit)
    assert line.startswith(f"{path}:") and words in line
    assert "expected at most max_bad_records=0" in line


def test_broken_json_lines_beyond_the_limit(capsys, tiny, tmp_path):
  content = b'{"text": "abcd"}\n{"te\n{"text": "abcd"}\n[1]\n{"body": "x"}\n'
  path, flag = text_file(tmp_path, "broken.jsonl", content)
  for limit, where, why in (
    (0, 2, "not a JSON object"),
    (1, 4, "found list, expected an object"),
    (2, 5, "no field 'text' (fields: body)"),
  ):
    limit_flag = f"--config.data.max_bad_records={limit}"
    line = error_of_distill(capsys, tiny, tmp_path / "run", flag, limit_flag)
    assert line.startswith(f"{path}:{where}: {why}")
    assert f"this is bad record {limit + 1}, expected at most" in line
  # Up to the limit they are skipped, and counted.
  recipe = running.command(tiny, tmp_path / "run", flag)[1:]
  limit_flag = "--config.data.max_bad_records=3"
  assert main.main(["prepare", *recipe, limit_flag]) == 0
  assert "train: 2 documents, " in (text := capsys.readouterr().out)
  assert "3 bad records" in text


def change_json(name, **changes):
  def change(teacher):
    content = json.loads((teacher / name).read_text())
    content |= changes
    content = {k: v for k, v in content.items() if v is not None}
    (teacher / name).write_text(json.dumps(content))

  return change


def change_weights(change_one):
  def change(teacher):
    weights = safetensors.numpy.load_file(teacher / "model.safetensors")
    change_one(weights)
    safetensors.numpy.save_file(weights, teacher / "model.safetensors")

  return change


def cut(size):
  def change(teacher):
    path = teacher / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])

  return change


def without(*names):
  def change(teacher):
    for name in names:
      (teacher / name).unlink()

  return change


def pickle_only(teacher):
  (teacher / "model.safetensors").rename(teacher / "pytorch_model.bin")


def smaller_table(teacher):
  change_json("config.json", vocab_size=100)(teacher)

  def cut_rows(weights):
    weights[WORDS] = weights[WORDS][:100].copy()

  change_weights(cut_rows)(teacher)


def several_wrong(weights):
  del weights[QUERY]
  weights[WORDS] = weights[WORDS][:, :8].copy()


TEACHERS = {
  "no safetensors": (without("model.safetensors"), "has no model.safetensors"),
  "a pickle only": (pickle_only, "as a pickle only, which can run code"),
  "half a file": (cut(40_000), "model.safetensors is damaged or incomplete"),
  "half a header": (cut(900), "model.safetensors is damaged or incomplete"),
  "an empty file": (cut(0), "model.safetensors is damaged or incomplete"),
  "no config": (without("config.json"), "config.json is missing"),
  "another architecture": (
    change_json("config.json", model_type="gpt2"),
    "unknown architecture model_type='gpt2'",
  ),
  "a config without a width": (
    change_json("config.json", hidden_size=None),
    "config.json lacks the key 'hidden_size'",
  ),
  "a tokenizer with more ids than the table": (
    smaller_table,
    "have ids past the 100 rows of the token table",
  ),
  "a missing tensor": (
    change_weights(lambda weights: weights.pop(QUERY)),
    f"the weights do not fit config.json: {QUERY} is missing.",
  ),
  "several problems": (
    change_weights(several_wrong),
    f"{WORDS} has shape (153, 8), expected (153, 32); {QUERY} is missing.",
  ),
  "no tokenizer": (without("tokenizer.json"), " has no tokenizer; expected "),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_that_is_not_as_expected(capsys, tiny, tmp_path, name):
  change, words = TEACHERS[name]
  folder = copied(tiny, tmp_path)
  change(folder / "teacher")
  before = sorted(path.name for path in (folder / "teacher").iterdir())
  line = error_of_distill(capsys, folder, tmp_path / "run")
  assert words in line
  assert str(folder / "teacher") in line or "model_type" in line
  assert sorted(path.name for path in (folder / "teacher").iterdir()) == before
  assert not (tmp_path / "run" / "config.json").exists()


SETTINGS = {
  "teacher.path=/not/there": ("no model folder at '/not/there'",),
  "teacher.path=": ("teacher.path is empty",),
  "teacher.layer=0": ("teacher.layer=0 does not exist", "layers 1 to 3"),
  "teacher.layer=4": ("teacher.layer=4 does not exist", "layers 1 to 3"),
  "relations.num_heads=5": (
    "must divide every width",
    "teacher's value=32, student.hidden_size=16",
    "[1, 2, 4, 8, 16]",
  ),
  "relations.num_heads=32": ("every width: student.hidden_size=16.",),
  "student.num_heads=3": ("num_heads=3 must divide hidden_size=16",),
  "data.seq_len=65": ("student's position table", "max_positions=64"),
  "data.seq_len=65 student.max_positions=99": (
    "data.seq_len=65 is longer than the teacher's position table, 64",
  ),
  "data.seq_len=2": ("seq_len=2 leaves no room for text", "at least 3"),
  "train.global_batch_size=12": (
    "train.global_batch_size=12 must be divisible by the 8 devices",
    "the next one up is 16.",
  ),
  "train.global_batch_size=24 train.accumulation=2": (
    "the 8 devices of the mesh axes data and fsdp times",
    "train.accumulation=2; the next one up is 32.",
  ),
  "eval.global_batch_size=4": ("eval.global_batch_size=4", "up is 8."),
  "mesh.data=3": ("mesh data=3 fsdp=1 tensor=1 does not fit 8 device(s)",),
  "train.parallel=pmap mesh.fsdp=2": ("'pmap' works in one process with",),
  "student.init_from=/not/there": ("no model folder at '/not/there'",),
  "teacher.path=random": ("unknown architecture model_type=None",),
}


@pytest.mark.parametrize("fields", SETTINGS)
def test_settings_that_do_not_fit_together(capsys, tiny, tmp_path, fields):
  flags = [f"--config.{field}" for field in fields.split(" ")]
  run = tmp_path / "run"
  line = error_of_distill(capsys, tiny, run, *flags)
  assert all(word in line for word in SETTINGS[fields]), line
  # Before hours of work: no text was read.
  assert not list(run.rglob("*.record")) + list(run.rglob("manifest.json"))


@pytest.mark.parametrize("command", ["distill", "prepare"])
def test_a_workdir_that_cannot_be_written_to(capsys, tiny, tmp_path, command):
  file = tmp_path / "file"
  file.write_text("mine")
  for workdir in (file, file / "run", pathlib.Path("/proc/run")):
    _, *flags = running.command(tiny, workdir)
    line = error_of(capsys, command, *flags)
    assert str(workdir) in line
    assert "expected a folder with write permission and free space" in line
  assert file.read_text() == "mine"


def test_a_data_folder_that_cannot_be_written_to(capsys, tiny, tmp_path):
  (tmp_path / "file").write_text("mine")
  flag = f"--config.data.folder={tmp_path}/file/rows"
  line = error_of_distill(capsys, tiny, tmp_path / "run", flag)
  assert line.startswith(f"cannot write to {tmp_path}/file/rows: Not a direct")


@pytest.mark.parametrize("command", ["choose", "export"])
def test_a_folder_that_is_no_run(capsys, tiny, tmp_path, command):
  for folder, words in (
    (tmp_path / "nothing", "config.json is missing; expected the --workdir"),
    (tmp_path, "config.json is missing; expected the --workdir of a run"),
    (tiny / "train.jsonl", "config.json is missing"),
    (tiny / "teacher", "config.json is not of a run of `time_jax distill`"),
  ):
    line = error_of(capsys, command, f"--workdir={folder}")
    assert str(folder) in line and words in line
  assert not (tmp_path / "nothing").exists()


def test_choose_without_held_out_text(capsys, tiny, tmp_path):
  _, *flags = running.command(tiny, tmp_path, "--config.data.validation=()")
  values = command_line.parse(main.COMMANDS["prepare"], flags)
  (tmp_path / "config.json").write_text(values.config.to_json())
  line = error_of(capsys, "choose", f"--workdir={tmp_path}")
  assert "has no held-out text to choose by; expected data.validation" in line


# The program of run_record_test, too.
FAST = (
  "--config.data.validation=()",
  "--config.checkpoint.every=2",
  "--config.train.num_steps=6",
  "--config.train.warmup_steps=1",
)


@pytest.mark.usefixtures("one_device")
def test_a_teacher_that_gives_no_numbers(capsys, tiny, tmp_path):
  def spoil(weights):
    weights[WORDS][:] = np.nan

  folder = copied(tiny, tmp_path)
  change_weights(spoil)(folder / "teacher")
  run = tmp_path / "run"
  flag = "--config.train.max_skipped=4"
  line = error_of_distill(capsys, folder, run, *FAST, flag, code=3)
  assert line.startswith(
    "loss, gradient or update was not finite in 4 steps in a row, up to step 4."
  )
  assert "The checkpoint of step 2 is sound." in line
  assert running.last_step(run) == 3
  with CheckpointReader(run) as checkpoints:
    (step,) = checkpoints.steps()
  state = running.saved(run, step)
  assert step == 2 and state[("rest", "skipped")] == 2
  params = [leaf for path, leaf in state.items() if path[0] == "params"]
  assert all(np.isfinite(leaf).all() for leaf in params)
  # Saved as they were drawn: a skipped step changes nothing.
  assert sum(leaf.std() > 0 for leaf in params) > 5
  way_on = "--config.train.changes='2:peak_lr=0.0025'"
  assert f"half the learning rate, add {way_on} to the same command" in line
