"""Exports a fine-tuned model: its folder with a card, hashes and a proof."""

import dataclasses
import shutil

from time_jax.core.errors import RunError, UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.atomic_folder import atomic_folder
from time_jax.core.storage.paths import Path
from time_jax.evals.publish import onnx_parser, onnx_splitter, onnx_task
from time_jax.hf import files, fine_tuned, load, save, task_classes
from time_jax.hf.fine_tuned import DESCRIPTION, HEADS
from time_jax.hf.task_classes import TaskClass
from time_jax.models.bert import BertConfig
from time_jax.release import record, task_card, task_folder, verify
from time_jax.release.model_folder import ModelFolder
from time_jax.release.options import Options
from time_jax.release.verify import Result

_OWN_HEADS = {"split": onnx_splitter, "ud": onnx_parser}
# Of a tokenizer's folder, as `tokenizer.save_tokenizer` writes it.
_TOKENIZER = (
  *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)
_FILES = ("config.json", save.WEIGHTS, HEADS, DESCRIPTION, *_TOKENIZER)


def check_one_model(folder: Path) -> None:
  """Checks that a folder is not that of a whole run of `finetune`.

  Raises:
    UserError: it is the workdir of `finetune`, with models in it.
  """
  if found := sorted(folder.glob(f"seed-*/model/{DESCRIPTION}")):
    models = ", ".join(str(path.parent) for path in found)
    raise UserError(
      f"--workdir={folder} is a workdir of finetune; expected one of its "
      f"models: {models}."
    )


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
  out = out or folder.resolve().with_name("export")
  _check(folder, step, options)
  record.check_replaceable(out)
  kind = task_classes.of_folder(folder)
  with atomic_folder(out, "--out") as fresh:
    for name in _FILES:
      if (folder / name).exists():
        shutil.copyfile(folder / name, fresh / name)
    measured = _write_onnx(fresh, kind) if options.onnx else []
    content = {
      "format": record.FORMAT,
      record.TASK: fine_tuned.read_description(folder)["task"],
      "class": kind.name if kind else "",
      "dtype": "float32",
      "exported_with": record.package_versions(),
      "files": record.hashes(fresh),
    }
    atomic_file.write_json(fresh / record.RECORD, content)
    named = dataclasses.replace(options, name=options.name or str(out))
    task_folder.write_card(fresh, named)
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


def _write_onnx(folder: Path, kind: TaskClass | None) -> list[tuple[str, str]]:
  """Adds ONNX files; returns what was found of each, see `onnx_task`."""
  if kind:
    return onnx_task.write_onnx(ModelFolder(folder))
  task = fine_tuned.read_description(folder)["task"]
  return _OWN_HEADS[task].write_onnx(folder)


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
  description = fine_tuned.read_description(folder)
  if description.get("format", 1) < fine_tuned.FORMAT:
    raise UserError(
      f"{folder} was written by an earlier version, with its encoder in a "
      "folder of its own, which no other program opens; `predict` still reads "
      "it. Expected one of this version: fine-tune again."
    )
  task = description["task"]
  if task not in task_card.TASKS:
    raise UserError(
      f"{folder} is of task {task!r}; expected one of "
      f"{', '.join(task_card.TASKS)}."
    )
  hf_config = files.model_config(folder)
  if not (folder / HEADS).exists():
    task_classes.require(hf_config, folder)
  if options.onnx and not _fits_onnx(folder):
    raise UserError(
      f"--onnx: {folder} cannot be written as ONNX files; expected a model "
      "with an encoder of BERT's kinds. Export it without --onnx."
    )


def _fits_onnx(folder: Path) -> bool:
  _, config = load.read_config(folder)
  task = fine_tuned.read_description(folder)["task"]
  written = task in _OWN_HEADS or task_classes.of_folder(folder) is not None
  return isinstance(config, BertConfig) and written
