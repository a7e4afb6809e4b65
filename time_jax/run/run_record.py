"""What a run keeps of its settings, and whether it is still the same run."""

import importlib.metadata
import json
import pathlib
import sys
from typing import Any

import jax
from ml_collections import ConfigDict

from time_jax.checkpoint import layout
from time_jax.config import changes
from time_jax.config.distill import (
  completed,
  differences,
  flatten,
  harmless_differences,
)
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.atomic_folder import atomic_folder
from time_jax.hf import files, model_hash, tokenizer
from time_jax.parallel import host_collectives
from time_jax.run import assembly, corpus

TEACHER = "teacher weights (SHA-256)"
# Of the settings that rows were made with, and of the rows themselves.
TEXT = "prepared text (SHA-256)"
ROWS = "prepared rows (SHA-256)"
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers")
# Where things lie may differ between hosts: what lies there is compared.
_OF_A_HOST = ("data.folder", "teacher.path")


def make_record(
  config: ConfigDict, teacher: str, rows: corpus.Corpus
) -> dict[str, Any]:
  """What every checkpoint of a run says of it, as JSON.

  Args:
    config: of the run.
    teacher: hash of its weights.
    rows: of its text.

  Returns:
    run, all that shapes the result; teacher, where it came from; versions;
    hardware.
  """
  return {
    "run": json.loads(config.to_json())
    | {
      TEACHER: teacher,
      "tokenizer (SHA-256)": rows.tokenizer,
      TEXT: rows.fingerprint,
      ROWS: rows.content,
    },
    "teacher": assembly.teacher_origin(config),
    "versions": versions(),
    "hardware": hardware(),
  }


def versions() -> dict[str, str]:
  """Of the packages that shape a result."""
  return {name: importlib.metadata.version(name) for name in _PACKAGES}


def hardware() -> dict[str, Any]:
  """Where this session runs."""
  return {
    "kind": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "processes": jax.process_count(),
  }


def check_processes(record: dict[str, Any]) -> None:
  """Proves that all processes make the same run.

  Args:
    record: "run", what shapes the result, and "versions" of packages.

  Raises:
    UserError: in all of them, naming what differs between which.
  """
  mine = {"run": record["run"], "versions": record["versions"]}
  texts = host_collectives.all_gather(json.dumps(dict(flatten(mine))))
  first, *others = map(json.loads, texts)
  problems = [
    f"{name.removeprefix('run.')} is {first.get(name, '(absent)')!r} in "
    f"process 0, {other.get(name, '(absent)')!r} in process {index}"
    for index, other in enumerate(others, 1)
    for name in sorted(first | other)
    if name.removeprefix("run.") not in _OF_A_HOST
    and first.get(name) != other.get(name)
  ]
  if problems:
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise UserError(
      f"the processes would not make one run: {'; '.join(problems[:5])}{more}; "
      "expected the same command, packages, weights and text on all hosts."
    )


def check_same(before: dict[str, Any], now: dict[str, Any], step: int) -> None:
  """Proves that a run goes on as it began; says what else has changed.

  Args:
    before: "run" of the record of its last checkpoint.
    now: of this session.
    step: of that checkpoint.

  Raises:
    UserError: something that shapes the result has changed.
  """
  # Older runs did not record their rows.
  before = {ROWS: now[ROWS]} | completed(before)
  compared, then, today = before, before["train"], now["train"]
  if changes.agree(then["changes"], today["changes"], step):
    same = {"changes": today["changes"]}
    compared = before | {"train": then | same}
  if changed := differences(compared, now):
    raise UserError(
      "this workdir belongs to another run: " + "; ".join(changed) + ". Use "
      "another --workdir, or the same settings to continue."
      + _other_weights(before, now)
      + _instead(compared, now, step)
    )
  if jax.process_index() == 0:
    lines = differences(before, now) + harmless_differences(before, now)
    for line in lines:
      print(f"changed since step {step}: {line}", file=sys.stderr, flush=True)


def _other_weights(before: dict[str, Any], now: dict[str, Any]) -> str:
  """Says why a teacher that nobody changed may have other weights now."""
  path, allow_pickle = now["teacher"]["path"], now["teacher"]["allow_pickle"]
  if before.get(TEACHER) == now[TEACHER] or path == assembly.RANDOM:
    return ""
  folder = files.resolve(path, allow_pickle)
  layout = files.find_weights(folder, allow_pickle)
  if not layout.ignored:
    return ""
  single = layout.paths[0].name
  return (
    f" {folder} holds {single} and {layout.ignored}: earlier versions read the "
    "files that the index names, this one reads the whole file. If the run "
    f"began with those, move {single} to another folder and start it again."
  )


def _instead(before: dict[str, Any], now: dict[str, Any], step: int) -> str:
  """The advice of `changes.instead`, where following it lets the run go on."""
  then, today = before["train"], now["train"]
  later = {name: today[name] for name in changes.FIELDS}
  if differences(before | {"train": then | later}, now):
    return ""
  return changes.instead(then, today, step)


def write_files(
  config: ConfigDict, workdir: pathlib.Path, vocab_size: int
) -> None:
  """Writes what the commands after `distill` need besides the checkpoints."""
  atomic_file.write_json(workdir / "config.json", json.loads(config.to_json()))
  assembly.write_shape(workdir, assembly.student_config(config, vocab_size))
  if config.teacher.path == assembly.RANDOM:
    return
  source = files.resolve(config.teacher.path)
  target = workdir / "tokenizer"
  if tokenizer.has_tokenizer(target):
    # Step 0 is what `import` put there.
    if any(int(p.name) for p in layout.step_folders(workdir)):
      return
    # That of another teacher, where a run ended before its first checkpoint.
    found = (
      model_hash.tokenizer_sha256(f, vocab_size) for f in (source, target)
    )
    if len(set(found)) == 1:
      return
  longest = config.student.max_positions
  with atomic_folder(target, "--workdir") as fresh:
    tokenizer.save_tokenizer(source, fresh, longest, vocab_size)
