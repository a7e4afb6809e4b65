"""Exports a checkpoint as a Hugging Face folder and proves both equal."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from time_jax.core.errors import RunError, UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.atomic_folder import atomic_folder
from time_jax.core.storage.paths import Path
from time_jax.hf import save, tokenizer, tokenizer_class
from time_jax.release import (
  card,
  onnx_files,
  probe,
  provenance,
  record,
  verify,
)
from time_jax.release.options import Options
from time_jax.release.verify import Result
from time_jax.run import saved_student
from time_jax.run.saved_student import Student


def export(
  workdir: Path,
  step: int | None = None,
  out: Path | None = None,
  options: Options | None = None,
) -> Path:
  """Writes a student as a model folder, loads it back and compares.

  Args:
    workdir: workdir of a run of `distill`, or one that `import` made.
    step: step of the checkpoint; by default the chosen one, else the newest.
    out: the folder to write, replaced if it is an earlier export; by default
      WORKDIR/export.
    options: what the export is to be; by default a float32 BertModel.

  Returns:
    The folder.

  Raises:
    UserError: nothing to export, or `out` holds something else.
    RunError: the folder is not equal to the checkpoint; nothing was replaced.
  """
  out = out or workdir / "export"
  record.check_replaceable(out)
  student = saved_student.read_student(workdir, step)
  if options and options.drop_last:
    student = student.without_last()
  options = _complete(options or Options(), student, out)
  with atomic_folder(out, "--out") as fresh:
    results = _write_and_verify(fresh, workdir, student, options)
  print(
    f"Exported step {student.step} to {out} ({options.model_class}, "
    f"{options.dtype}{', without its last layer' * options.drop_last})"
  )
  print(verify.table(results))
  return out


def _complete(options: Options, student: Student, out: Path) -> Options:
  """Fills in what was not given, and checks what was."""
  imported = student.record.get("imported") or {}
  options = dataclasses.replace(
    options,
    model_class=options.model_class or imported.get("class") or "BertModel",
    dtype=options.dtype or imported.get("dtype") or "float32",
    licence=options.licence or imported.get("facts", {}).get("licence", ""),
    name=options.name or str(out.resolve()),
  )
  for flag, value, known in (
    ("class", options.model_class, tuple(save.CLASSES)),
    ("dtype", options.dtype, save.DTYPES),
  ):
    if value not in known:
      raise UserError(f"--{flag}={value}: expected one of {', '.join(known)}.")
  return options


def _write_and_verify(
  folder: Path, workdir: Path, student: Student, options: Options
) -> list[Result]:
  """Fills the folder; raises RunError if it differs from the checkpoint."""
  facts = provenance.collect(workdir, student)
  if options.licence:
    facts["licence"] = options.licence
  measured = write_folder(folder, workdir, student, options, facts)
  results = verify.verify(folder, student, with_card=False) + measured
  text = card.render(
    options,
    student.config,
    facts,
    [(result.name, result.text) for result in results],
    has_tokenizer=tokenizer.has_tokenizer(folder),
    has_pooler=any(map(jnp.any, jax.tree.leaves(student.params["pooler"]))),
  )
  atomic_file.write_text(folder / "README.md", text)
  wrong = [f"{r.name}: {r.text}" for r in results if r.ok is False]
  if wrong := wrong + card.problems(text):
    raise RunError(
      f"what was written is not equal to the checkpoint: {'; '.join(wrong)}; "
      f"it is left in {folder}, and an earlier export is untouched."
    )
  return results


def write_folder(
  folder: Path,
  workdir: Path,
  student: Student,
  options: Options,
  facts: provenance.Facts,
) -> list[Result]:
  """Writes all files of an export but the card, README.md.

  Args:
    folder: an empty folder.
    workdir: workdir of the run, with its tokenizer.
    student: the student to write.
    options: complete options.
    facts: facts for time_jax.json.

  Returns:
    How far the ONNX files are from JAX; empty without them.
  """
  config, source = student.config, workdir / "tokenizer"
  ids: dict[str, int] = {}
  tokenize: Callable[[str], list[int]] | None = None
  if source.is_dir():
    ids = tokenizer.special_ids(source, config.vocab_size)
    tokenizer.save_tokenizer(
      source, folder, config.max_positions, config.vocab_size
    )
    spec = tokenizer.load_tokenizer(source, config.vocab_size)
    tokenize = tokenizer.encoder(spec)
  save.save_bert(
    folder, config, student.params, ids, options.model_class, options.dtype
  )
  rows = probe.make_probe(
    vocab_size=config.vocab_size,
    longest=config.max_positions,
    pad_id=ids.get("pad_token_id", 0),
    tokenize=tokenize,
  )
  coming_back = []
  if source.is_dir():
    tokenizer_class.name_class(folder, rows.texts)
    opened = tokenizer.open_tokenizer(source)
    coming_back = tokenizer.round_trips(opened, rows.texts)
  # What follows is made from the checkpoint, as the file's dtype rounds it, and
  # not from the files, which are to be checked by it.
  student = _rounded(student, options.dtype)
  measured = (
    onnx_files.write_onnx(folder, student, rows) if options.onnx else []
  )
  states = probe.hidden_states(student.encoder, student.params, rows.batch())
  content = {
    **student.record,
    "format": record.FORMAT,
    "step": student.step,
    "class": options.model_class,
    "dtype": options.dtype,
    "student": dataclasses.asdict(config),
    "identity": student.identity.value,
    "facts": facts,
    "exported_with": record.package_versions(),
    "files": record.hashes(folder),
    "fingerprint": {
      "words": student.words,
      "coming_back": coming_back,
      **probe.to_json(rows, rows.fingerprint(states)),
    },
  }
  atomic_file.write_json(folder / record.RECORD, content, ensure_ascii=False)
  return [Result(name, text, True) for name, text in measured]


def _rounded(student: Student, dtype: str) -> Student:
  """Returns a student whose parameters are rounded to a dtype."""
  params = jax.tree.map(
    lambda x: x.astype(jnp.dtype(dtype)).astype(jnp.float32), student.params
  )
  return dataclasses.replace(student, params=params)
