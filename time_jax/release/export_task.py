"""Exports a fine-tuned model: its folder with a card, hashes and a proof."""

import shutil

from time_jax.core.errors import RunError, UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.atomic_folder import atomic_folder
from time_jax.core.storage.paths import Path
from time_jax.hf import files, load, save, task_classes
from time_jax.hf.files import DESCRIPTION, HEADS
from time_jax.hf.task_classes import TaskClass
from time_jax.models.bert import BertConfig
from time_jax.release import onnx_task, record, task_folder, verify
from time_jax.release.model_folder import ModelFolder
from time_jax.release.options import Options
from time_jax.release.verify import Result

# Of a tokenizer's folder, as `tokenizer.save_tokenizer` writes it.
_TOKENIZER = (
  *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)
_FILES = ("config.json", save.WEIGHTS, HEADS, DESCRIPTION, *_TOKENIZER)


def is_fine_tuned(folder: Path) -> bool:
  """Returns whether a folder is a fine-tuned model's.

  Raises:
    UserError: it is the workdir of `finetune`, with models in it.
  """
  models = sorted(
    path.parent for path in folder.glob(f"seed-*/*/{DESCRIPTION}")
  )
  if models:
    listed = ", ".join(str(model) for model in models if model.name == "model")
    raise UserError(
      f"--workdir={folder} is a workdir of finetune; expected one of its "
      f"models: {listed}."
    )
  return (folder / DESCRIPTION).exists()


def export_task(
  folder: Path, step: int | None, out: Path | None, options: Options
) -> Path:
  """Writes a fine-tuned model as a folder to publish, and verifies it.

  Args:
    folder: the model's folder, such as WORKDIR/seed-0/model of `finetune`.
    step: None: such a model has no steps.
    out: the folder to write, replaced if it is an earlier export; by default
      `export` beside the model.
    options: what the export is to be: name, licence, with ONNX files or not.

  Returns:
    The folder that was written.

  Raises:
    UserError: `out` holds something else, or an option has no meaning here.
    RunError: the folder is not what it should be; nothing was replaced.
  """
  out = out or folder.with_name("export")
  _check(folder, step, options)
  record.check_replaceable(out)
  kind = of_class(folder)
  with atomic_folder(out, "--out") as fresh:
    for name in _FILES:
      if (folder / name).exists():
        shutil.copyfile(folder / name, fresh / name)
    model = ModelFolder(fresh)
    measured = onnx_task.write_onnx(model) if options.onnx else []
    content = {
      "format": record.FORMAT,
      record.TASK: files.read_json(folder / DESCRIPTION)["task"],
      "class": kind.name if kind else "",
      "dtype": "float32",
      "exported_with": record.package_versions(),
      "files": record.hashes(fresh),
    }
    atomic_file.write_json(fresh / record.RECORD, content)
    name = options.name or str(out.resolve())
    task_folder.write_card(fresh, name, options.licence)
    results = verify.verify(fresh)
    results += [Result(name, text, True) for name, text in measured]
    wrong = [f"{r.name}: {r.text}" for r in results if r.ok is False]
    if wrong:
      raise RunError(
        f"{folder} is not what it should be: {'; '.join(wrong)}; nothing was "
        f"exported to {out}."
      )
  print(f"Exported {folder} to {out} ({kind.name if kind else 'own heads'})")
  print(verify.table(results))
  return out


def _check(folder: Path, step: int | None, options: Options) -> None:
  """Raises UserError for what cannot be exported, or not in this way."""
  of_students = {
    "--step": step is not None,
    "--class": options.model_class,
    "--dtype": options.dtype,
    "--drop_last": options.drop_last,
  }
  if given := [flag for flag, value in of_students.items() if value]:
    raise UserError(
      f"{', '.join(given)}: {folder} is a fine-tuned model, and these are for "
      "students; expected --out, --onnx, --license or --push alone."
    )
  if not (folder / "config.json").exists():
    raise UserError(
      f"{folder} was written by an earlier version, and its encoder lies in a "
      "folder of its own; expected the files of transformers beside task.json: "
      "fine-tune again."
    )
  if not (folder / HEADS).exists():
    task_classes.require(files.model_config(folder), folder)
  fits = isinstance(load.read_config(folder)[1], BertConfig)
  if options.onnx and not (fits and of_class(folder)):
    raise UserError(
      f"--onnx: {folder} cannot be written as one graph; expected a model of "
      "ner or qa with an encoder of BERT's kinds. Export it without --onnx."
    )


def of_class(folder: Path) -> TaskClass | None:
  """Returns the class of transformers that a model is of, if there is one."""
  return task_classes.of_config(files.model_config(folder))
