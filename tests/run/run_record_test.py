"""Whether a run is still the same: older ones, changed ones, other hosts."""

import json
import resource
import shutil

import alone
import jax
import numpy as np
import pytest
import running
import tree_names

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.checkpoint.writer import CheckpointWriter
from time_jax.cli import main
from time_jax.config.distill import default_config
from time_jax.config.students import ONE
from time_jax.core.errors import UserError
from time_jax.data import manifest
from time_jax.parallel import host_collectives
from time_jax.run import (
  assembly,
  run_files,
  run_record,
  saved_student,
  students,
)

# One program for all runs, compiled once.
FLAGS = (
  "--config.data.validation=()",
  "--config.checkpoint.every=2",
  "--config.train.num_steps=6",
  "--config.train.warmup_steps=1",
)
pytestmark = pytest.mark.usefixtures("one_process", "one_device")


def distill(tiny, run, *flags):
  return main.main(running.command(tiny, run, *FLAGS, *flags))


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
  """A finished run."""
  workdir = tmp_path_factory.mktemp("whole")
  alone.run(*running.command(tiny, workdir, *FLAGS))
  return workdir


@pytest.fixture
def begun(whole, tmp_path):
  """The same after four steps."""
  run = tmp_path / "run"
  shutil.copytree(whole, run)
  shutil.rmtree(run / "checkpoints" / "6")
  return run


def assert_same_end(run, whole):
  running.assert_same_state(running.saved(run, 6), running.saved(whole, 6))


def test_a_run_of_an_older_version_goes_on(tiny, whole, begun):
  """Fields and hashes that came later are as if they had been there."""
  folder = begun / "checkpoints" / "4"
  (folder / "sha256.json").unlink()
  path = folder / "metadata" / "metadata"
  content = json.loads(path.read_text())
  config = json.loads((begun / "config.json").read_text())
  for tree in (content["run"], config):
    del tree["train"]["ema"], tree["train"]["spike"]
  del content["run"]["prepared rows (SHA-256)"]
  path.write_text(json.dumps(content))
  (begun / "config.json").write_text(json.dumps(config))
  assert saved_student.read_student(begun).step == 4
  assert distill(tiny, begun) == 0
  assert_same_end(begun, whole)


def test_harmless_changes_are_shown(tiny, whole, begun, capsys):
  flags = "--config.train.max_skipped=3", "--config.log.every=3"
  assert distill(tiny, begun, *flags) == 0
  told = capsys.readouterr().err
  assert "changed since step 4: log.every: 1 then, 3 now\n" in told
  assert "changed since step 4: train.max_skipped: 10 then, 3 now\n" in told
  assert_same_end(begun, whole)
  saved = json.loads((begun / "config.json").read_text())
  assert saved["train"]["max_skipped"] == 3
  assert distill(tiny, begun, *flags) == 0
  assert "changed since" not in capsys.readouterr().err


def test_other_text_in_another_folder_is_refused(tiny, begun, tmp_path, capsys):
  """Of the same name, and prepared with the same settings."""
  text = tiny / "train.jsonl"
  sound = text.read_text()
  first, *others = sound.splitlines(keepends=True)
  folder = f"--config.data.folder={tmp_path / 'rows'}"
  try:
    text.write_text("".join([*others, first]))
    assert distill(tiny, begun, folder) == 2
    told = capsys.readouterr().err
    assert "belongs to another run: prepared rows (SHA-256): '" in told
    assert "(SHA-256)" not in told.replace("prepared rows (SHA-256)", "")
  finally:
    text.write_text(sound)
  shutil.rmtree(tmp_path / "rows")
  assert distill(tiny, begun, folder) == 0  # The same text in another place.


# Orbax's threads outlive the loop of the save that failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_is_full_while_saving(
  capsys, monkeypatch, tiny, whole, tmp_path
):
  """The operating system refuses files above a size from step 4 on."""
  save, limits = (
    CheckpointWriter.save,
    resource.getrlimit(resource.RLIMIT_FSIZE),
  )

  def save_on_a_full_disk(self, step, *args, wait=False):
    if step == 4:
      # Enough for the metrics, too little for the parameters.
      resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    save(self, step, *args, wait=wait or step < 4)

  run = tmp_path / "run"
  try:
    with monkeypatch.context() as patch:
      patch.setattr(CheckpointWriter, "save", save_on_a_full_disk)
      assert distill(tiny, run) == 3
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  told = capsys.readouterr().err
  assert "Traceback" not in told
  *before, line = told.splitlines()
  assert not any(one.startswith("time_jax: error") for one in before)
  error = "time_jax: error: cannot write a checkpoint to"
  assert line.startswith(f"{error} {run}/checkpoints: ")
  assert "File too large" in line
  assert "Earlier checkpoints are untouched; make room and run" in line
  with CheckpointReader(run) as checkpoints:
    assert checkpoints.steps() == [2]

  assert distill(tiny, run) == 0
  output = capsys.readouterr()
  assert "continuing after step 2" in output.err
  assert "Done: 6 steps." in output.out
  with CheckpointReader(run) as checkpoints:
    assert checkpoints.steps() == [4, 6]
  assert_same_end(run, whole)


def test_the_average_is_what_is_used(tiny, tmp_path):
  run = tmp_path / "run"
  flags = "--config.train.ema=0.5", "--config.train.spike=6"
  assert distill(tiny, run, *flags) == 0
  assert tree_names.saved_names(run / "checkpoints" / "6") == {
    "params": tree_names.STUDENT,
    "ema": tree_names.STUDENT,
    "rest": tree_names.OPTIMIZER
    | {"step", "skipped", "skipped_in_a_row"}
    | {f"usual/{name}" for name in ("count", "mean", "spikes", "variance")},
  }
  state = running.saved(run, 6, ("ema",))
  kernel = ("last", "ffn_in", "kernel")  # Not trained.
  np.testing.assert_array_equal(
    state[("ema", *kernel)], state[("params", *kernel)]
  )
  kernel = ("last", "query", "kernel")
  found = saved_student.read_student(run).params["last"]["query"]["kernel"]
  np.testing.assert_array_equal(found, state[("ema", *kernel)])
  assert not np.array_equal(found, state[("params", *kernel)])
  with CheckpointReader(run) as checkpoints:
    assert checkpoints.metadata(6)["run"]["train"]["ema"] == 0.5
  shutil.rmtree(run / "checkpoints" / "6" / "ema")
  with pytest.raises(UserError, match="cannot be read: ema/"):
    saved_student.read_student(run)  # And not the other one instead.


def test_the_hash_of_rows_is_of_settings_and_files(whole):
  found = manifest.load_manifest(whole / "data")
  again = manifest.load_manifest(whole / "data")
  assert len(found.content) == 64 and found.content == again.content
  object.__setattr__(again, "fingerprint", "other")
  assert found.content != again.content


def test_a_whole_file_beside_an_index_is_named_as_the_cause(tmp_path):
  """Earlier versions read such a teacher from the parts of the index."""
  now = json.loads(default_config().to_json())
  now["teacher"]["path"] = str(tmp_path)
  now |= {run_record.TEACHER: "whole", run_record.ROWS: "b"}
  before = now | {run_record.TEACHER: "parts"}
  whole, part = "model.safetensors", "model-1.safetensors"
  (tmp_path / whole).touch()

  def told():
    with pytest.raises(UserError, match="teacher weights") as caught:
      run_record.check_same({"run": before}, {ONE: {"run": now}}, 4)
    return str(caught.value)

  assert whole not in told()
  index = tmp_path / f"{whole}.index.json"
  index.write_text(json.dumps({"weight_map": {"a": part}}))
  assert f"holds {whole} and {index.name}: earlier versions read" in told()
  assert f"move {whole} to another folder" in told()


def made(**changes):
  run = {"seed": 1, "data": {"folder": "/a", "train": ["x"]}} | changes
  return {"run": run, "versions": {"jax": "1"}, "hardware": {}}


@pytest.mark.parametrize(
  ("others", "words"),
  [
    ([made(), made(data={"folder": "/b", "train": ["x"]})], None),
    ([made(), made(seed=2)], "seed is 1 in process 0, 2 in process 2;"),
    ([made(more=3)], "more is '(absent)' in process 0, 3 in process 1;"),
    (
      [made() | {"versions": {"jax": "2"}}],
      "versions.jax is '1' in process 0, '2' in process 1;",
    ),
  ],
)
@pytest.mark.parametrize("student", [ONE, "dryrun"])  # Like a part of it.
def test_processes_that_would_not_make_one_run(
  monkeypatch, others, words, student
):
  given = [made(), *others]
  monkeypatch.setattr(
    host_collectives,
    "all_gather",
    lambda text: [
      json.dumps(students.join({student: dict(run_record._compared(r))}))
      for r in given
    ],
  )
  if words is None:
    run_record.check_processes({student: made()})
  else:
    with pytest.raises(UserError) as caught:
      run_record.check_processes({student: made()})
    assert words in str(caught.value)


@pytest.mark.parametrize("texts", [["a"], ["abc", "é" * 300, ""]])
def test_what_all_processes_say(monkeypatch, texts):
  """JAX's part, which gathers, is replaced."""
  bytes_of = [np.frombuffer(t.encode(), np.uint8) for t in texts]

  def gather(mine):
    if mine.dtype != np.uint8:
      assert mine.tolist() == [bytes_of[0].size]
      return np.asarray([[b.size] for b in bytes_of])
    assert len(mine) == max(b.size for b in bytes_of)
    return np.stack([np.pad(b, (0, len(mine) - b.size)) for b in bytes_of])

  monkeypatch.setattr(jax, "process_count", lambda: len(texts))
  monkeypatch.setattr(
    host_collectives.multihost_utils, "process_allgather", gather
  )
  assert host_collectives.all_gather(texts[0]) == texts


def test_a_tokenizer_goes_only_when_its_successor_is_there(
  tiny, whole, tmp_path, monkeypatch
):
  run, source = tmp_path / "run", tmp_path / "source"
  shutil.copytree(whole, run)
  shutil.copytree(tiny / "teacher", source)
  place = run / "tokenizer" / "tokenizer.json"
  content = json.loads(place.read_text())
  (source / "tokenizer.json").write_text(
    json.dumps(content | {"pre_tokenizer": {"type": "WhitespaceSplit"}})
  )
  config = run_files.read_config(run)
  config.teacher.path = str(source)
  size = assembly.teacher_config(config).vocab_size
  before = place.read_text()
  run_files.write_files(config, run, size)
  assert place.read_text() == before  # The checkpoints were made with it.
  shutil.rmtree(run / "checkpoints")
  (run / "checkpoints" / "0").mkdir(parents=True)  # As `import` leaves it.

  def full(*arguments):
    raise OSError("no space left")

  with monkeypatch.context() as patch:
    patch.setattr(run_files.tokenizer, "save_tokenizer", full)
    with pytest.raises(UserError, match="cannot write to .*tokenizer"):
      run_files.write_files(config, run, size)
  assert place.read_text() == before
  run_files.write_files(config, run, size)
  assert "WhitespaceSplit" in place.read_text()
  assert not [*run.glob(".tokenizer*")]
