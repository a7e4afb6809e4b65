"""Where a student starts: a folder, an import, layers of its teacher."""

import json
import pathlib
import shutil

import exporting
import numpy as np
import pytest
import running
import safetensors.numpy
import spoiling
from exporting import command
from tiny_tokenizers import write_tokenizer

from time_jax.config.distill import default_config
from time_jax.core.errors import UserError
from time_jax.hf import tokenizer
from time_jax.parallel import sharding
from time_jax.run import first_state, first_weights, loop, saved_student

ALL_DEVICES = sharding.make_mesh


pytestmark = pytest.mark.usefixtures(
  "one_process", "one_device", "without_torch"
)


# Two steps, whose first has learning rate 0: what is saved behind the first is
# what the run began with.
def distil(tiny, workdir, *flags):
  return (
    *running.command(tiny, workdir),
    "--config.train.num_steps=2",
    "--config.checkpoint.every=1",
    "--config.data.validation=()",
    "--config.train.warmup_steps=1",
    *flags,
  )


TEACHER_SHAPE = (
  "--config.student.hidden_size=32",
  "--config.student.num_heads=4",
  "--config.student.intermediate_size=64",
)


@pytest.fixture(scope="module")
def student(tiny, tmp_path_factory):
  """A model of the tests' student; not to be changed."""
  folder = tmp_path_factory.mktemp("student") / "source"
  sizes = dict(num_layers=2, hidden_size=16, intermediate_size=32)
  return exporting.random_model(folder, tiny / "teacher", **sizes)


@pytest.fixture
def source(student, tmp_path):
  """A copy of it."""
  return pathlib.Path(shutil.copytree(student, tmp_path / "source"))


def swap_words(folder):
  """Ordinary words change their ids."""
  content = json.loads((folder / "tokenizer.json").read_text())
  words = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
  write_tokenizer(folder, [*words[:5], *reversed(words[5:])])


def exported(capsys, workdir, *flags):
  command(capsys, "export", f"--workdir={workdir}", "--step=1", *flags)
  return exporting.tensors(workdir / "export")


# Another choice of layers, without `start`, is in start_test.
@pytest.mark.slow
@pytest.mark.parametrize(
  ("init_from", "layers"), [("teacher", [1, 2]), ("teacher:3,1", [3, 1])]
)
def test_layers_of_the_teacher(capsys, tiny, tmp_path, init_from, layers):
  flag = f"--config.student.init_from={init_from}"
  run = tmp_path / "run"
  command(capsys, *distil(tiny, run, flag, *TEACHER_SHAPE))
  found = exported(capsys, run)
  exporting.assert_layers(found, exporting.tensors(tiny / "teacher"), layers)
  text = (run / "export" / "README.md").read_text()
  assert f"| first weights from | {init_from} |" in text


@pytest.mark.slow
def test_a_student_of_a_folder_goes_on(capsys, tiny, tmp_path, source):
  run = tmp_path / "run"
  flag = f"--config.student.init_from={source}"
  command(capsys, *distil(tiny, run, flag))
  given, found = exporting.tensors(source), exported(capsys, run)
  assert given.keys() == found.keys()
  for name, tensor in given.items():
    np.testing.assert_array_equal(tensor, found[name], err_msg=name)


@pytest.mark.parametrize(
  "make_mesh", [None, pytest.param(ALL_DEVICES, marks=pytest.mark.slow)]
)
def test_an_imported_student_goes_on(
  capsys, monkeypatch, tiny, tmp_path, source, make_mesh
):
  """On one device, and on all of them."""
  if make_mesh:
    monkeypatch.setattr(sharding, "make_mesh", make_mesh)
  run = tmp_path / "run"
  command(capsys, "import", source, f"--workdir={run}")
  command(capsys, *distil(tiny, run))
  given, found = exporting.tensors(source), exported(capsys, run)
  for name, tensor in given.items():
    np.testing.assert_array_equal(tensor, found[name], err_msg=name)
  record = json.loads((run / "export" / "time_jax.json").read_text())
  assert record["step"] == 1 and record["imported"]["from"] == "source"
  # Now it is a run as any other: it resumes, and what it began with stays.
  command(capsys, *distil(tiny, run))


class _KilledError(Exception):
  pass


@pytest.fixture
def imported(capsys, tiny, tmp_path, source):
  """A workdir, and the tensors that it was imported from."""
  command(capsys, "import", source, f"--workdir={tmp_path / 'run'}")
  return tmp_path / "run", exporting.tensors(source)


def killed(monkeypatch, *argv):
  """A run that ends before its first checkpoint."""

  def train(*arguments, **more):
    raise _KilledError

  with monkeypatch.context() as patch:
    patch.setattr(loop, "train", train)
    with pytest.raises(_KilledError):
      exporting.quietly(*argv)


def test_fewer_positions_than_the_imported_student_had(
  capsys, monkeypatch, tiny, imported
):
  run, given = imported
  shorter = distil(tiny, run, "--config.student.max_positions=40")
  killed(monkeypatch, *shorter)
  command(capsys, *shorter)
  found = exported(capsys, run)
  for name, tensor in given.items():
    tensor = tensor[:40] if "position" in name else tensor
    np.testing.assert_array_equal(tensor, found[name], err_msg=name)
  # What was imported is still there, as it was.
  again = exported(capsys, run, "--step=0")
  for name, tensor in given.items():
    np.testing.assert_array_equal(tensor, again[name], err_msg=name)


@pytest.mark.parametrize("earlier", [False, True])
def test_no_run_begins_anew_where_an_imported_student_is_gone(
  capsys, monkeypatch, tiny, imported, earlier
):
  run, _ = imported
  mark = run / "imported.json"
  if earlier:
    mark.unlink()  # As it was made by earlier versions.
  else:
    killed(monkeypatch, *distil(tiny, run))
  (run / "checkpoints" / "0").rename(run / "away")
  for _ in range(2):
    output = command(capsys, *distil(tiny, run), code=2)
    assert "import` of " + ("a model" if earlier else "source") in output
    assert "a run here would begin with random ones" in output
  if earlier:
    (run / "away").rename(run / "checkpoints" / "0")
    killed(monkeypatch, *distil(tiny, run))
    assert json.loads(mark.read_text())["from"] == "source"


def test_a_damaged_import_is_to_be_imported_again(capsys, imported):
  run, _ = imported
  spoiling.flip(run / "checkpoints" / "0")
  output = command(capsys, "export", f"--workdir={run}", code=2)
  assert "import the model again, into a new --workdir" in output
  assert "Move that folder away" not in output


def test_the_tokenizer_of_another_teacher_does_not_stay(
  monkeypatch, tiny, tmp_path
):
  """Of a run that ended before there was a checkpoint to compare with."""
  run, other = tmp_path / "run", tmp_path / "other"
  shutil.copytree(tiny / "teacher", other)
  swap_words(other)
  data = f"--config.data.folder={tmp_path / 'data'}"
  killed(monkeypatch, *distil(tiny, run, f"--config.teacher.path={other}"))
  killed(monkeypatch, *distil(tiny, run, data))
  folders = tiny / "teacher", run / "tokenizer"
  assert len({tokenizer.vocabulary_sha256(f, 153) for f in folders}) == 1


def test_all_processes_begin_with_the_same_weights(golden, monkeypatch):
  path = "time_jax.parallel.host_collectives.all_gather"
  monkeypatch.setattr(path, lambda text: [text, text])
  first_weights._check_same_files(golden / "bert", False)
  monkeypatch.setattr(path, lambda text: [text, "b", text])
  with pytest.raises(UserError, match=r"processes \[1\] than for process 0"):
    first_weights._check_same_files(golden / "bert", False)


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["teacher", "student.hidden_size=64"], "there it is 32"),
    (
      ["teacher", *TEACHER_SHAPE, "student.num_layers=3"],
      "such as student.init_from=teacher:1,2,2",
    ),
    (
      ["teacher", *TEACHER_SHAPE, "student.layer_norm_eps=1e-3"],
      "student.layer_norm_eps=0.001, there it is 1e-12",
    ),
    (
      ["teacher:lower", *TEACHER_SHAPE, "student.num_layers=3"],
      "student.num_layers=3 is more than the 2 layers of the teacher up to",
    ),
    (["teacher:1", *TEACHER_SHAPE], "student.num_layers=2, there it is 1"),
    (
      ["teacher:0,1", *TEACHER_SHAPE],
      "student.init_from=teacher:0,1: the teacher has no layer 0; expected "
      "numbers from 1 to 3.",
    ),
    (["teacher:4,1", *TEACHER_SHAPE], "no layer 4; expected numbers from 1"),
    (
      ["teacher:a", *TEACHER_SHAPE],
      "expected teacher:lower, teacher:spaced or layer numbers",
    ),
    (["nowhere/at/all"], "no model folder at"),
  ],
)
def test_what_does_not_fit(capsys, tiny, tmp_path, flags, words):
  first, *more = flags
  more = [f if f.startswith("--") else f"--config.{f}" for f in more]
  argv = distil(
    tiny, tmp_path / "run", f"--config.student.init_from={first}", *more
  )
  assert words in command(capsys, *argv, code=2)
  assert not (tmp_path / "run" / "data").exists()  # Before text is prepared.


@pytest.mark.parametrize("how", ["import", "init_from"])
def test_weights_that_are_not_finite_are_refused(
  capsys, tiny, tmp_path, how, source
):
  """Even where the loss never reaches them."""
  path = source / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  (name,) = [n for n in tensors if n.endswith("pooler.dense.bias")]
  tensors[name][0] = np.inf
  safetensors.numpy.save_file(tensors, path, {"format": "pt"})
  run = tmp_path / "run"
  argv = ("import", source, f"--workdir={run}")
  if how == "init_from":
    argv = distil(tiny, run, f"--config.student.init_from={source}")
  output = command(capsys, *argv, code=2)
  assert f"the weights of {source} hold NaN or infinity" in output
  assert not (run / "checkpoints").exists() or not any(
    folder.name.isdecimal() for folder in (run / "checkpoints").iterdir()
  )


def test_another_vocabulary_is_refused(capsys, tiny, tmp_path, source):
  """Of the same size, so that no shape tells."""
  swap_words(source)
  flag = f"--config.student.init_from={source}"
  output = command(capsys, *distil(tiny, tmp_path / "run", flag), code=2)
  assert "have another vocabulary than the teacher" in output
  assert not (tmp_path / "run" / "data").exists()


@pytest.mark.parametrize("way", ["init_from", "import"])
def test_without_a_tokenizer_the_record_says_which_words(
  capsys, monkeypatch, tiny, tmp_path, way, source
):
  """An export whose tokenizer is gone still says what it was trained with."""
  own = tokenizer.vocabulary_sha256(source, 153)
  for path in source.glob("tokenizer*"):
    path.unlink()

  def started(words):
    record = {"step": 1, "files": {}, "fingerprint": {"words": words}}
    (source / "time_jax.json").write_text(json.dumps(record))
    flags, run = [f"--config.student.init_from={source}"], tmp_path / words
    if way == "import":
      flags = []
      command(capsys, "import", source, f"--workdir={run}")
    return distil(tiny, run, *flags), run

  shown = command(capsys, *started("other")[0], code=2)
  assert "have another vocabulary than the teacher" in shown
  words, run = started(own)
  killed(monkeypatch, *words)
  assert "no tokenizer, so it cannot be told" not in capsys.readouterr().err
  if way == "import":
    assert saved_student.read_student(run, 0).words == own


def test_words_that_nobody_knows_are_told(capsys, golden, tmp_path, tiny):
  """A published model without a tokenizer and without a record."""
  run = tmp_path / "run"
  shown = command(capsys, "import", golden / "bert", f"--workdir={run}")
  assert "has no tokenizer and no record of its vocabulary" in shown
  config = default_config()
  config.teacher.path = str(tiny / "teacher")
  first_weights._check_vocabulary(run / "tokenizer", "", config, 153)
  assert "it cannot be told whether" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run", "tuned"])
def test_folders_of_ours_that_are_no_models(capsys, tiny, tmp_path, name):
  folder = tmp_path / name
  folder.mkdir()
  if name == "run":
    (folder / "checkpoints").mkdir()
    (folder / "config.json").write_text('{"lang": "ga"}')
    wanted = f"--workdir={folder}` makes one of its student, {folder}/export"
  else:
    (folder / "task.json").write_text("{}")
    (folder / "encoder").mkdir()  # where earlier versions wrote it
    wanted = f"a fine-tuned model, whose encoder is {folder}/encoder."
  flag = f"--config.student.init_from={folder}"
  assert wanted in command(capsys, *distil(tiny, tmp_path / "w", flag), code=2)
  into = f"--workdir={tmp_path / 'again'}"
  assert wanted in command(capsys, "import", folder, into, code=2)
  assert wanted in command(capsys, "inspect", folder, code=2)


@pytest.mark.parametrize("eps", [1e-5, 9.999999960041972e-13])
def test_epsilon_is_that_of_the_source(
  capsys, monkeypatch, tiny, tmp_path, source, eps
):
  """As XLM-R has it; and 1e-12 as it is read from float32."""
  run = tmp_path / "run"
  path = source / "config.json"
  content = json.loads(path.read_text()) | {"layer_norm_eps": eps}
  path.write_text(json.dumps(content))
  flag = f"--config.student.init_from={source}"
  if eps == 1e-5:
    shown = command(capsys, *distil(tiny, run, flag))
  else:
    killed(monkeypatch, *distil(tiny, run, flag))
    shown = capsys.readouterr().err
  assert (f"layer_norm_eps=1e-05, as in {source}" in shown) == (eps == 1e-5)
  found = json.loads((run / "student.json").read_text())["layer_norm_eps"]
  assert found == (eps if eps == 1e-5 else 1e-12)
  if eps == 1e-5:
    shutil.rmtree(source)  # It is not needed to go on.
    command(capsys, *distil(tiny, run, flag))
    flag = "--config.student.layer_norm_eps=1e-6"
    shown = command(capsys, *distil(tiny, run, flag), code=2)
    assert "student.layer_norm_eps: 1e-05 then, 1e-06 now" in shown


def test_an_imported_epsilon_is_taken(capsys, tiny, tmp_path):
  source, run = tmp_path / "source", tmp_path / "run"
  sizes = dict(num_layers=2, hidden_size=16, intermediate_size=32)
  exporting.random_model(source, tiny / "teacher", layer_norm_eps=1e-5, **sizes)
  command(capsys, "import", source, f"--workdir={run}")
  config = default_config()
  first_state.take_epsilon(config, run)
  assert config.student.layer_norm_eps == 1e-5
  flag = "--config.student.layer_norm_eps=1e-12"  # Typed: it stays.
  shown = command(capsys, *distil(tiny, run, flag), code=2)
  assert "student.layer_norm_eps=1e-12, there it is 1e-05" in shown
  shutil.rmtree(run / "checkpoints")  # What an ended run left counts for none.
  config = default_config()
  first_state.take_epsilon(config, run)
  assert config.student.layer_norm_eps == 1e-12


def test_a_random_teacher_has_no_layers_to_begin_with():
  with pytest.raises(UserError, match="needs a teacher in files"):
    config = default_config()
    config.student.init_from, config.teacher.path = "teacher:1", "random"
    first_weights.source_name(config)
