"""A checkpoint -> a Hugging Face folder that is proven equal to it."""

import dataclasses
import importlib.metadata
import pathlib

import jax
import jax.numpy as jnp

from time_jax.core.errors import RunError, UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.atomic_folder import atomic_folder
from time_jax.hf import files, save, tokenizer, tokenizer_class
from time_jax.release import (
  card,
  checks,
  fingerprint,
  onnx_files,
  provenance,
  push,
  verify,
)
from time_jax.run import saved_student
from time_jax.run.saved_student import Student

_FORMAT = 2  # of time_jax.json
_PACKAGES = ("jax", "flax", "safetensors", "tokenizers", "transformers")


@dataclasses.dataclass(frozen=True)
class Options:
  """What an export is to be.

  Attributes:
    model_class: a key of `save.CLASSES`; empty: as an imported student had it,
      else BertModel.
    dtype: of the weights, one of `save.DTYPES`; empty: likewise, else float32.
    licence: identifier for the card; empty: as an imported export had it, else
      the card says that none is stated.
    name: how the card's code loads the model; empty: by the folder's path.
    revision: branch of the hub that it is for.
    onnx: whether ONNX files are written, too.
  """

  model_class: str = ""
  dtype: str = ""
  licence: str = ""
  name: str = ""
  revision: str | None = None
  onnx: bool = False


def export_command(
  workdir: pathlib.Path,
  *,
  step: int | None,
  out: pathlib.Path | None,
  options: Options,
  push_to: str = "",
  private: bool = True,
  dry_run: bool = False,
) -> int:
  """Exports, and uploads where that was asked for; returns exit code 0."""
  if push_to:
    push.check_name(push_to)
    if not dry_run:
      push.check_token()
    options = dataclasses.replace(options, name=push_to)
  elif dry_run or options.revision:
    raise UserError("--dry_run and --revision go with --push=OWNER/NAME.")
  folder = export(workdir, step, out, options)
  if push_to:
    push.push(
      folder,
      push_to,
      private=private,
      revision=options.revision,
      message="Export of time_jax",
      dry_run=dry_run,
    )
  print(f"Next: python -m time_jax verify {folder} --against={workdir}")
  return 0


def export(
  workdir: pathlib.Path,
  step: int | None = None,
  out: pathlib.Path | None = None,
  options: Options | None = None,
) -> pathlib.Path:
  """Writes a student as a model folder, loads it back and compares.

  Args:
    workdir: of a run of `distill`, or what `import` made.
    step: the checkpoint; by default the chosen one, else the newest.
    out: the folder to write, replaced if it is an earlier export; by default
      WORKDIR/export.
    options: by default a float32 BertModel.

  Returns:
    The folder.

  Raises:
    UserError: nothing to export, or `out` holds something else.
    RunError: the folder is not equal to the checkpoint; nothing was replaced.
  """
  out = out or workdir / "export"
  _check_target(out)
  student = saved_student.read_student(workdir, step)
  options = _complete(options or Options(), student, out)
  with atomic_folder(out, "--out") as fresh:
    done = _write_and_verify(fresh, workdir, student, options)
  print(
    f"Exported step {student.step} to {out} ({options.model_class}, "
    f"{options.dtype})"
  )
  print(verify.table(done))
  return out


def _check_target(out: pathlib.Path) -> None:
  earlier = (out / checks.RECORD).exists()
  empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
  if not earlier and not empty:
    raise UserError(
      f"{out} exists and is no earlier export; expected an empty or new "
      "folder (see --out)."
    )


def _complete(options: Options, student: Student, out: pathlib.Path) -> Options:
  before = student.record.get("imported") or {}
  model_class = options.model_class or before.get("class") or "BertModel"
  dtype = options.dtype or before.get("dtype") or "float32"
  for what, found, known in (
    ("class", model_class, tuple(save.CLASSES)),
    ("dtype", dtype, save.DTYPES),
  ):
    if found not in known:
      raise UserError(f"--{what}={found}: expected one of {', '.join(known)}.")
  return dataclasses.replace(
    options,
    model_class=model_class,
    dtype=dtype,
    licence=options.licence or before.get("facts", {}).get("licence", ""),
    name=options.name or str(out.resolve()),
  )


def _write_and_verify(
  folder: pathlib.Path,
  workdir: pathlib.Path,
  student: Student,
  options: Options,
) -> list[verify.Check]:
  """Fills the folder; RunError unless it is what it should be."""
  facts = provenance.collect(workdir, student)
  if options.licence:
    facts["licence"] = options.licence
  more = write_folder(folder, workdir, student, options, facts)
  done = verify.verify(folder, student, with_card=False) + more
  text = card.render(
    name=options.name,
    revision=options.revision,
    facts=facts,
    shape=student.config,
    model_class=options.model_class,
    dtype=options.dtype,
    checks=[(check.name, check.found) for check in done],
    licence=options.licence,
    with_tokenizer=tokenizer.has_tokenizer(folder),
    with_pooler=any(map(jnp.any, jax.tree.leaves(student.params["pooler"]))),
  )
  (folder / "README.md").write_text(text, encoding="utf-8")
  wrong = [
    f"{check.name}: {check.found}" for check in done if check.ok is False
  ]
  if wrong := wrong + card.problems(text):
    raise RunError(
      f"what was written is not equal to the checkpoint: {'; '.join(wrong)}; "
      f"it is left in {folder}, and an earlier export is untouched."
    )
  return done


def write_folder(
  folder: pathlib.Path,
  workdir: pathlib.Path,
  student: Student,
  options: Options,
  facts: provenance.Facts,
) -> list[verify.Check]:
  """Writes everything but the card.

  Args:
    folder: exists and is empty.
    workdir: of the run, with its tokenizer.
    student: what to write.
    options: complete ones.
    facts: for time_jax.json.

  Returns:
    What was measured while writing.
  """
  shape, source = student.config, workdir / "tokenizer"
  ids: dict[str, int] = {}
  tokenize = None
  if source.is_dir():
    ids = tokenizer.special_ids(source, shape.vocab_size)
    tokenizer.save_tokenizer(
      source, folder, shape.max_positions, shape.vocab_size
    )
    spec = tokenizer.load_tokenizer(source, shape.vocab_size)
    tokenize = tokenizer.encoder(spec)
  save.save_bert(
    folder, shape, student.params, ids, options.model_class, options.dtype
  )
  looked_at = fingerprint.make_probe(
    vocab_size=shape.vocab_size,
    longest=shape.max_positions,
    pad_id=ids.get("pad_token_id", 0),
    tokenize=tokenize,
  )
  back = []
  if source.is_dir():
    tokenizer_class.name_class(folder, looked_at.texts)
  if looked_at.texts:
    opened = tokenizer.open_tokenizer(source)
    back = tokenizer.coming_back(opened, looked_at.texts)
  # What follows is made from the checkpoint, as the file's dtype rounds it, and
  # not from the files, which are to be checked by it.
  rounded = _rounded(student, options.dtype)
  found = []
  if options.onnx:
    found = onnx_files.write_onnx(folder, rounded, looked_at)
  states = fingerprint.hidden_states(
    student.encoder, rounded.params, looked_at.batch()
  )
  record = {
    **student.record,
    "format": _FORMAT,
    "step": student.step,
    "class": options.model_class,
    "dtype": options.dtype,
    "student": dataclasses.asdict(shape),
    "identity": rounded.identity.value,
    "facts": facts,
    "exported_with": _versions(),
    "files": {
      str(path.relative_to(folder)): {
        "bytes": path.stat().st_size,
        "sha256": files.sha256(path),
      }
      for path in sorted(folder.rglob("*"))
      if path.is_file()
    },
    "fingerprint": {"words": student.words, "coming_back": back}
    | fingerprint.to_json(
      looked_at, fingerprint.fingerprint(looked_at, states)
    ),
  }
  text = atomic_file.as_json(record, indent=2, ensure_ascii=False) + "\n"
  (folder / checks.RECORD).write_text(text, encoding="utf-8")
  return [verify.Check(name, said, True) for name, said in found]


def _rounded(student: Student, dtype: str) -> Student:
  params = jax.tree.map(
    lambda x: x.astype(jnp.dtype(dtype)).astype(jnp.float32), student.params
  )
  return dataclasses.replace(student, params=params)


def _versions() -> dict[str, str]:
  names = ("time-jax", *_PACKAGES)
  found = {}
  for name in names:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue  # Run from a checkout that was not installed.
  return found
