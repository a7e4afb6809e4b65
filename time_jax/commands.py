"""The commands: what each one takes, and the function that it calls."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

Define = Callable[[flags.FlagValues, Sequence[str]], None]


def _config(values: flags.FlagValues, argv: Sequence[str]) -> None:
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Recipe, FILE[:ARGUMENTS]. Any field: --config.FIELD=VALUE.",
    lock_config=True,
    flag_values=values,
    sys_argv=["time_jax", *argv],
  )


def _workdir(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)


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
  flags.DEFINE_boolean(
    "allow_pickle",
    False,
    "Read pytorch_model.bin where there is no safetensors.",
    flag_values=values,
  )


def _bench_relations(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  for name, default, text in (
    ("batch_size", 4, "Rows."),
    ("seq_len", 512, "Tokens of a row."),
    ("num_heads", 64, "Relation heads R; divides both widths."),
    ("teacher_width", 1024, "Width of the teacher's projection."),
    ("student_width", 384, "Width of the student's projection."),
    ("repeats", 5, "Rounds that count."),
  ):
    flags.DEFINE_integer(name, default, text, lower_bound=1, flag_values=values)


@dataclasses.dataclass(frozen=True)
class Command:
  """One command.

  Attributes:
    summary: one line for the list of commands.
    example: what a user would type behind `python -m time_jax`.
    define: functions that define its flags.
    required: names of the flags that must be given.
    run: (flag values) -> exit code; imports what it needs itself, so that
      help and usage errors appear at once.
    argument: the flag that a word without dashes sets; empty: no such word.
  """

  summary: str
  example: str
  define: Sequence[Define]
  required: Sequence[str]
  run: Callable[[Any], int]
  argument: str = ""


def _run_prepare(args: Any) -> int:
  module = importlib.import_module("time_jax.corpus")
  return module.prepare_command(args.config, _path(args.workdir))


def _run_distill(args: Any) -> int:
  module = importlib.import_module("time_jax.train")
  return module.distill(args.config, _path(args.workdir))


def _run_choose(args: Any) -> int:
  module = importlib.import_module("time_jax.choose")
  return module.choose(_path(args.workdir))


def _run_export(args: Any) -> int:
  module = importlib.import_module("time_jax.export")
  out = _path(args.out) if args.out else None
  return module.export(_path(args.workdir), args.step, out)


def _run_doctor(args: Any) -> int:
  module = importlib.import_module("time_jax.doctor")
  return module.doctor(_path(args.workdir) if args.workdir else None)


def _run_languages(args: Any) -> int:
  module = importlib.import_module("time_jax.catalogue")
  return module.languages_command(args.code)


def _run_teachers(args: Any) -> int:
  del args
  module = importlib.import_module("time_jax.catalogue")
  return module.teachers_command()


def _run_inspect(args: Any) -> int:
  module = importlib.import_module("time_jax.inspection")
  return module.inspect_model(
    args.model,
    layer=args.layer,
    size=args.size,
    allow_pickle=args.allow_pickle,
  )


def _run_bench_relations(args: Any) -> int:
  module = importlib.import_module("time_jax.bench.relations")
  return module.bench_relations(
    batch_size=args.batch_size,
    seq_len=args.seq_len,
    num_heads=args.num_heads,
    teacher_width=args.teacher_width,
    student_width=args.student_width,
    repeats=args.repeats,
  )


def _path(text: str) -> pathlib.Path:
  return pathlib.Path(text).expanduser()


_RECIPE = "--config=configs/quickstart.py --workdir=runs/quickstart"
COMMANDS = {
  "prepare": Command(
    "Tokenise text into rows on disk (distill does it too, when needed).",
    f"prepare {_RECIPE}",
    (_config, _workdir),
    ("config", "workdir"),
    _run_prepare,
  ),
  "distill": Command(
    "Train a student; continues by itself where an earlier run ended.",
    f"distill {_RECIPE} --config.train.num_steps=100",
    (_config, _workdir),
    ("config", "workdir"),
    _run_distill,
  ),
  "choose": Command(
    "Rank the kept checkpoints by their loss on held-out text.",
    "choose --workdir=runs/quickstart",
    (_workdir,),
    ("workdir",),
    _run_choose,
  ),
  "export": Command(
    "Write a checkpoint as a Hugging Face folder and prove it equal.",
    "export --workdir=runs/quickstart",
    (_workdir, _export),
    ("workdir",),
    _run_export,
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
    (_inspect,),
    ("model",),
    _run_inspect,
    argument="model",
  ),
  "doctor": Command(
    "Devices, versions, flags, memory, folders; what is wrong, what to do.",
    "doctor",
    (_workdir,),
    (),
    _run_doctor,
  ),
  "bench relations": Command(
    "Time and memory of the relation loss's implementations.",
    "bench relations --seq_len=256",
    (_bench_relations,),
    (),
    _run_bench_relations,
  ),
}
