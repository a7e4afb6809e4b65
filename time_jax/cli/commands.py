"""The commands: what each one takes, and the function that it calls."""

import importlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from time_jax.cli.bench import BENCH
from time_jax.cli.evals import EVALS
from time_jax.config.command import (
  Command,
  config_flag,
  free_fields,
  given_fields,
  path,
  typed_fields,
  workdir_flag,
)


def _profile(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_string(
    "profile",
    None,
    "START:STOP, steps to trace into WORKDIR/profile; STOP is not one of them.",
    flag_values=values,
  )


def _check_rows(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_bool(
    "verify",
    False,
    "Compare every byte on disk with the hashes of when it was written.",
    flag_values=values,
  )


def _export(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_integer(
    "step",
    None,
    "Checkpoint to export; by default the chosen one, else the newest.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_string(
    "out", None, "Folder to write; WORKDIR/export.", flag_values=values
  )
  for name, text in (
    ("class", "BertModel or XLMRobertaModel; the first, or as imported."),
    ("dtype", "float32 or bfloat16; the first, or as imported."),
    ("license", "For the card, such as cc-by-4.0; none is stated otherwise."),
    ("push", "Upload to OWNER/NAME on the Hugging Face hub."),
    ("revision", "Branch to upload to, such as step-30; main."),
  ):
    flags.DEFINE_string(name, None, text, flag_values=values)
  for name, default, text in (
    ("private", True, "Whether a repository that --push makes is private."),
    ("dry_run", False, "With --push: list the files, upload nothing."),
    ("onnx", False, "Write ONNX files, too: float32 and int8."),
  ):
    flags.DEFINE_boolean(name, default, text, flag_values=values)


def _import(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_string(
    "model",
    None,
    "Folder, hub id OWNER/NAME[@REVISION], or package:NAME/FOLDER.",
    flag_values=values,
  )


def _verify(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_string(
    "folder", None, "Folder, or hub id OWNER/NAME.", flag_values=values
  )
  flags.DEFINE_string(
    "against", None, "Workdir of the run that made it.", flag_values=values
  )


def _language(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_string(
    "code",
    None,
    "A language: da, dan, dan_Latn, or what a corpus calls it; none: all.",
    flag_values=values,
  )


def _inspect(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_string(
    "model",
    None,
    "Folder, hub id OWNER/NAME[@REVISION], or package:NAME/FOLDER.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "layer",
    None,
    "Layer to distil; by default the recommended one, else the last.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_string(
    "size", "s", "Of the student: m, s or xs.", flag_values=values
  )


def _allow_pickle(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_boolean(
    "allow_pickle",
    False,
    "Read pytorch_model.bin where there is no safetensors.",
    flag_values=values,
  )


def _trim(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_string(
    "teacher",
    None,
    "Folder, hub id OWNER/NAME[@REVISION], or package:NAME/FOLDER.",
    flag_values=values,
  )
  flags.DEFINE_multi_string(
    "text",
    None,
    "",
    flag_values=values,
  )
  # Else absl adds a line to it.
  values["text"].help = "A source of text, as in data.train; may be repeated."
  flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)
  flags.DEFINE_integer(
    "keep", None, "Tokens to keep at most.", flag_values=values
  )
  flags.DEFINE_integer(
    "min_count",
    None,
    "Keep the tokens that occur so often.",
    flag_values=values,
  )
  flags.DEFINE_float(
    "coverage",
    None,
    "Keep tokens that make up this share of the text. By default 0.9999, and "
    "what other text needs.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "max_documents",
    0,
    "Documents to read at most; 0: all.",
    lower_bound=0,
    flag_values=values,
  )


def _sweep(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_string(
    "file",
    None,
    "What is varied, FILE[:NAME=VALUE,...], such as configs/sweep_*.py. "
    "--config.FIELD=VALUE holds for `distill` and `prepare` in all points.",
    flag_values=values,
  )


def _plot(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_string(
    "plot", None, "PNG to draw the losses into.", flag_values=values
  )


def _run_prepare(args: Any) -> int:
  module = importlib.import_module("time_jax.run.corpus")
  return module.prepare_command(args.config, path(args.workdir), args.verify)


def _run_distill(args: Any) -> int:
  module = importlib.import_module("time_jax.run.distill")
  return module.distill(
    args.config, path(args.workdir), args.profile or "", typed_fields(args)
  )


def _run_status(args: Any) -> int:
  module = importlib.import_module("time_jax.run.status")
  plot = path(args.plot) if args.plot else None
  return module.status_command(path(args.workdir), plot)


def _run_choose(args: Any) -> int:
  module = importlib.import_module("time_jax.run.choose")
  return module.choose(path(args.workdir))


def _run_export(args: Any) -> int:
  module = importlib.import_module("time_jax.release.export")
  return module.export_command(
    path(args.workdir),
    step=args.step,
    out=path(args.out) if args.out else None,
    options=module.Options(
      model_class=args["class"].value or "",
      dtype=args.dtype or "",
      licence=args.license or "",
      revision=args.revision,
      onnx=args.onnx,
    ),
    push_to=args.push or "",
    private=args.private,
    dry_run=args.dry_run,
  )


def _run_import(args: Any) -> int:
  module = importlib.import_module("time_jax.release.import_model")
  workdir = path(args.workdir)
  return module.import_command(args.model, workdir, args.allow_pickle)


def _run_verify(args: Any) -> int:
  module = importlib.import_module("time_jax.release.verify")
  against = path(args.against) if args.against else None
  return module.verify_command(args.folder, against, args.allow_pickle)


def _run_doctor(args: Any) -> int:
  module = importlib.import_module("time_jax.cli.doctor")
  return module.doctor(path(args.workdir) if args.workdir else None)


def _run_languages(args: Any) -> int:
  module = importlib.import_module("time_jax.catalog.listing")
  return module.languages_command(args.code)


def _run_teachers(args: Any) -> int:
  del args
  module = importlib.import_module("time_jax.catalog.listing")
  return module.teachers_command()


def _run_inspect(args: Any) -> int:
  module = importlib.import_module("time_jax.release.inspection")
  return module.inspect_model(
    args.model,
    layer=args.layer,
    size=args.size,
    allow_pickle=args.allow_pickle,
  )


def _run_trim(args: Any) -> int:
  module = importlib.import_module("time_jax.trim.trim")
  pieces = importlib.import_module("time_jax.trim.token_selection")
  how = {k: getattr(args, k) for k in ("keep", "min_count", "coverage")}
  given = any(value is not None for value in how.values())
  return module.trim(
    args.teacher,
    args.text,
    path(args.out),
    pieces.Rule(**how) if given else None,
    max_documents=args.max_documents,
    allow_pickle=args.allow_pickle,
  )


def _run_sweep(args: Any) -> int:
  module = importlib.import_module("time_jax.sweeps.sweep")
  return module.sweep_command(
    args.file, path(args.workdir), COMMANDS, given_fields(args)
  )


_RECIPE = "--config=configs/quickstart.py --workdir=runs/quickstart"
COMMANDS: dict[str, Command] = {
  "prepare": Command(
    "Tokenise text into rows on disk (distill does it too, when needed).",
    f"prepare {_RECIPE}",
    (config_flag, workdir_flag, _check_rows),
    ("config", "workdir"),
    _run_prepare,
  ),
  "distill": Command(
    "Train a student; continues by itself where an earlier run ended.",
    f"distill {_RECIPE} --config.train.num_steps=100",
    (config_flag, workdir_flag, _profile),
    ("config", "workdir"),
    _run_distill,
  ),
  "status": Command(
    "How a run is doing: progress, health, speed, losses, lost time.",
    "status runs/quickstart --plot=losses.png",
    (workdir_flag, _plot),
    ("workdir",),
    _run_status,
    argument="workdir",
  ),
  "choose": Command(
    "Rank the kept checkpoints by their loss on held-out text.",
    "choose --workdir=runs/quickstart",
    (workdir_flag,),
    ("workdir",),
    _run_choose,
    once=True,
  ),
  "export": Command(
    "Write a checkpoint as a Hugging Face folder and prove it equal.",
    "export --workdir=runs/quickstart",
    (workdir_flag, _export),
    ("workdir",),
    _run_export,
    once=True,
  ),
  "verify": Command(
    "Check a model folder: files, ids, tensors, JAX against PyTorch, card.",
    "verify runs/quickstart/export --against=runs/quickstart",
    (_verify, _allow_pickle),
    ("folder",),
    _run_verify,
    argument="folder",
  ),
  "import": Command(
    "Make a workdir of a published student: to distil on, or export again.",
    "import OWNER/NAME --workdir=runs/imported",
    (_import, workdir_flag, _allow_pickle),
    ("model", "workdir"),
    _run_import,
    argument="model",
    once=True,
  ),
  **EVALS,
  "sweep": Command(
    "Run a grid of configurations, one after the other; scores side by side.",
    "sweep configs/sweep_heads.py:lang=da,ud=UD --workdir=runs/heads",
    (_sweep, workdir_flag, free_fields),
    ("file", "workdir"),
    _run_sweep,
    argument="file",
  ),
  "languages": Command(
    "Languages, and which corpora, treebanks and checkpoints have them.",
    "languages da",
    (_language,),
    (),
    _run_languages,
    argument="code",
  ),
  "teachers": Command(
    "Recommended teachers, with the layer and R to distil them by.",
    "teachers",
    (),
    (),
    _run_teachers,
  ),
  "inspect": Command(
    "A checkpoint: what it is, what distilling it takes, what is wrong.",
    "inspect FacebookAI/xlm-roberta-large --layer=19",
    (_inspect, _allow_pickle),
    ("model",),
    _run_inspect,
    argument="model",
  ),
  "trim": Command(
    "A teacher with the tokens of one language only, for a smaller student.",
    "trim --teacher=FacebookAI/xlm-roberta-large --text='da/*.jsonl.zst' "
    "--out=teachers/xlmr-da",
    (_trim, _allow_pickle),
    ("teacher", "text", "out"),
    _run_trim,
    once=True,
  ),
  "doctor": Command(
    "Devices, versions, flags, memory, folders; what is wrong, what to do.",
    "doctor",
    (workdir_flag,),
    (),
    _run_doctor,
  ),
  **BENCH,
}
