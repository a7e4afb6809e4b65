"""The files that describe a run: config, shape of the student, tokenizer."""

import dataclasses
import json

from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.config.recorded import completed, lacking
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file, json_file
from time_jax.core.storage.atomic_folder import atomic_folder, explain_missing
from time_jax.core.storage.paths import Path
from time_jax.hf import files, model_identity, tokenizer
from time_jax.models.bert import BertConfig
from time_jax.run.assembly import RANDOM, student_config, teacher_config

SHAPE = "student.json"


def read_config(workdir: Path) -> ConfigDict:
  """Returns the config that a run was started with.

  Args:
    workdir: folder of a run of `distill`, or of one student of several.

  Returns:
    All fields; those that did not exist then have their defaults.

  Raises:
    UserError: there is no such run, its config is damaged, or it is a run of
      several students.
  """
  layout.check_one_student(workdir)
  path = workdir / "config.json"
  if not path.exists():
    raise UserError(
      explain_missing(workdir)
      or f"{path} is missing; expected the --workdir of a run of "
      "`time_jax distill`."
    )
  content = json_file.read_json(path)
  if missing := lacking(content):
    raise UserError(
      f"{path} is not of a run of `time_jax distill`: it lacks fields such as "
      f"{', '.join(missing[:3])}."
    )
  return ConfigDict(completed(content))


def write_shape(workdir: Path, shape: BertConfig) -> None:
  """Writes a student's sizes, so that they are known without the teacher."""
  atomic_file.write_json(workdir / SHAPE, dataclasses.asdict(shape))


def read_shape(workdir: Path, config: ConfigDict) -> BertConfig:
  """Returns the sizes of a run's student.

  Args:
    workdir: folder of the run.
    config: config of the run, whose teacher is asked where no file says it.
  """
  path = workdir / SHAPE
  if not path.exists():
    return student_config(config, teacher_config(config).vocab_size)
  try:
    return BertConfig(**json_file.read_json(path))
  except (ArithmeticError, TypeError) as error:
    raise UserError(
      f"{path} is damaged: {error}; delete it: the teacher says it as well."
    ) from error


def write_files(config: ConfigDict, workdir: Path, vocab_size: int) -> None:
  """Writes what later commands need: config, shape of the student, tokenizer.

  Args:
    config: config of the run.
    workdir: folder of the run.
    vocab_size: rows of the teacher's token table.
  """
  atomic_file.write_json(workdir / "config.json", json.loads(config.to_json()))
  write_shape(workdir, student_config(config, vocab_size))
  if config.teacher.path == RANDOM:
    return
  source, target = files.resolve(config.teacher.path), workdir / "tokenizer"
  if tokenizer.has_tokenizer(target):
    # Checkpoints were trained with it; that of step 0 was imported.
    if any(int(p.name) for p in layout.step_folders(workdir)):
      return
    # A run that ended before its first checkpoint may have had another teacher.
    source_hash, target_hash = (
      model_identity.tokenizer_sha256(f, vocab_size) for f in (source, target)
    )
    if source_hash == target_hash:
      return
  max_length = config.student.max_positions
  with atomic_folder(target, "--workdir") as fresh:
    tokenizer.save_tokenizer(source, fresh, max_length, vocab_size)
