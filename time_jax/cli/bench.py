"""The commands that measure."""

import importlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from time_jax.config.command import (
  Command,
  config_flag,
  json_flag,
  path,
  workdir_flag,
)
from time_jax.core.errors import UserError


def _bench_relations(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  for name, default, text in (
    ("batch_size", 4, "Rows."),
    ("teacher_width", 1024, "Width of the teacher's projection."),
    ("student_width", 384, "Width of the student's projection."),
    ("repeats", 5, "Rounds that count."),
  ):
    flags.DEFINE_integer(name, default, text, lower_bound=1, flag_values=values)
  for name, default, text in (
    ("seq_lens", "512", "Tokens of a row, such as 512,1024,2048."),
    ("num_heads", "64", "Relation heads R, such as 48,64; divide both widths."),
  ):
    flags.DEFINE_list(name, default, text, flag_values=values)
  flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "bfloat16"],
    "Of the projections.",
    flag_values=values,
  )
  flags.DEFINE_boolean(
    "torch", False, "Measure PyTorch's published form, too.", flag_values=values
  )


def _bench_step(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  for name, default, least, text in (
    ("steps", 20, 1, "Steps that count."),
    ("warmup", None, 0, "Steps before them; by default 20, on a CPU 3."),
  ):
    flags.DEFINE_integer(
      name, default, text, lower_bound=least, flag_values=values
    )
  flags.DEFINE_boolean(
    "real_rows",
    False,
    "Measure the loader as well where rows are synthetic.",
    flag_values=values,
  )
  flags.DEFINE_float(
    "peak_tflops",
    None,
    "Dense peak of one device, for MFU where it is not known.",
    lower_bound=0,
    flag_values=values,
  )


def _bench_compare(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_list(
    "size", ["s"], "Students to measure, of m, s, xs.", flag_values=values
  )
  for name, default, text in (
    ("batch_size", 4, "Rows of a step."),
    ("seq_len", 512, "Tokens of a row."),
    ("repeats", 5, "Rounds that count; each runs every implementation."),
    ("steps", 1, "Steps of each in a round; more where steps are short."),
  ):
    flags.DEFINE_integer(name, default, text, lower_bound=1, flag_values=values)
  for name, text in (
    ("compile", "Measure PyTorch with torch.compile, too."),
    ("cut", "Measure PyTorch with a teacher cut off like ours, too."),
  ):
    flags.DEFINE_boolean(name, False, text, flag_values=values)
  flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "bfloat16"],
    "Of computation, on both sides.",
    flag_values=values,
  )


def _bench_aot(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_string(
    "topology",
    None,
    "TPU slice to compile for, such as v5e:4x4 or v5p:4x4x4; GPUs of a host, "
    "such as h100:8, which is an estimate; or cpu:N.",
    flag_values=values,
  )
  flags.DEFINE_boolean(
    "sweep",
    False,
    "Compile for several batches and meshes, with the accumulation that each "
    "needs, and recommend one.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "batches",
    None,
    "Global batch sizes of the sweep; by default the recipe's, and 4 times.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "meshes",
    None,
    "Meshes of the sweep, DATAxFSDPxTENSOR such as 4x4x1.",
    flag_values=values,
  )


def _bench_scaling(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  flags.DEFINE_list(
    "devices",
    None,
    "Numbers of devices, such as 1,2,4,8; on a CPU as many are simulated.",
    flag_values=values,
  )
  flags.DEFINE_enum(
    "mode",
    "both",
    ["weak", "strong", "both"],
    "What stays the same: the rows of a device, or of all together.",
    flag_values=values,
  )
  flags.DEFINE_boolean(
    "processes",
    False,
    "One process a device, on this machine.",
    flag_values=values,
  )
  for name, default, text in (
    ("steps", 5, "Steps that count in each measurement."),
    ("repeats", 2, "Rounds over all numbers of devices."),
  ):
    flags.DEFINE_integer(name, default, text, lower_bound=1, flag_values=values)
  for name, text in (
    ("markdown", "File to write the table to."),
    ("plot", "File to draw it to, PNG."),
  ):
    flags.DEFINE_string(name, None, text, flag_values=values)


def _bench_data(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  for name, default, text in (
    ("megabytes", 64, "Text to measure with; a shorter one is repeated."),
    ("repeats", 5, "Rounds."),
  ):
    flags.DEFINE_integer(name, default, text, lower_bound=1, flag_values=values)


def _bench_inference(values: flags.FlagValues, argv: Sequence[str]) -> None:
  del argv
  for name, default, text in (
    (
      "models",
      None,
      "NAME=MODEL, each a workdir, a folder, a hub id or random:SHAPE (m, s, "
      "xs, xlmr-large, or LAYERSxWIDTH); the first is compared with.",
    ),
    ("engines", "jax,torch,onnxruntime,onnxruntime-int8", "Libraries."),
    ("batch_sizes", "1,32", "Sentences of a batch."),
    ("scores", [], "Workdirs of `finetune` of these models, to draw."),
  ):
    flags.DEFINE_list(name, default, text, flag_values=values)
  for name, text in (
    ("text", "Source of sentences, a document each."),
    ("tokenizer", "Folder, hub id or package with it; or a workdir."),
    ("spacy", "Pipeline of spaCy to measure on the same sentences."),
    ("out", "Folder for inference.json, inference.md and plots."),
  ):
    flags.DEFINE_string(name, None, text, flag_values=values)
  for name, default, text in (
    ("batches", 20, "Batches of each size, the same for all."),
    ("repeats", 5, "Rounds that count."),
  ):
    flags.DEFINE_integer(name, default, text, lower_bound=1, flag_values=values)


def _run_bench_inference(args: Any) -> int:
  module = importlib.import_module("time_jax.bench.inference.inference")
  pairs = [word.partition("=")[::2] for word in args.models]
  names = [name for name, _ in pairs]
  if not all(model for _, model in pairs):
    raise UserError("--models: expected a model behind each NAME=.")
  if not all(map(str.isidentifier, names)) or len({*names}) < len(names):
    raise UserError(
      f"--models={','.join(args.models)}: expected NAME=MODEL with commas "
      "between them, each name once, of letters, digits and _."
    )
  return module.bench_inference(
    dict(pairs),
    module.Inference(
      engines=args.engines,
      text=args.text,
      tokenizer=args.tokenizer,
      batch_sizes=_integers(args, "batch_sizes"),
      batches=args.batches,
      repeats=args.repeats,
      spacy=args.spacy,
    ),
    scores=[path(word) for word in args.scores],
    **{
      name: path(args[name].value) if args[name].value else None
      for name in ("json", "out")
    },
  )


def _run_bench_relations(args: Any) -> int:
  module = importlib.import_module("time_jax.bench.peers.relations")
  widths = args.teacher_width, args.student_width
  cases = [
    module.Case(args.batch_size, seq_len, num_heads, *widths, args.dtype)
    for num_heads in _integers(args, "num_heads")
    for seq_len in _integers(args, "seq_lens")
  ]
  return module.bench_relations(
    cases,
    repeats=args.repeats,
    with_torch=args.torch,
    json=path(args.json) if args.json else None,
  )


def _run_bench_data(args: Any) -> int:
  module = importlib.import_module("time_jax.bench.common.data")
  return module.bench_data(
    args.config,
    megabytes=args.megabytes,
    repeats=args.repeats,
    json=path(args.json) if args.json else None,
  )


def _run_bench_step(args: Any) -> int:
  module = importlib.import_module("time_jax.bench.common.step")
  return module.bench_step(
    args.config,
    steps=args.steps,
    warmup=args.warmup,
    real_rows=args.real_rows,
    workdir=path(args.workdir) if args.workdir else None,
    peak_tflops=args.peak_tflops,
    json=path(args.json) if args.json else None,
  )


def _run_bench_compare(args: Any) -> int:
  module = importlib.import_module("time_jax.bench.peers.compare")
  comparison = module.Comparison(
    sizes=args.size,
    batch_size=args.batch_size,
    seq_len=args.seq_len,
    repeats=args.repeats,
    steps=args.steps,
    compiled=args.compile,
    cut=args.cut,
    dtype=args.dtype,
  )
  return module.bench_compare(
    comparison,
    json=path(args.json) if args.json else None,
  )


def _run_bench_aot(args: Any) -> int:
  module = importlib.import_module("time_jax.bench.aot.aot")
  return module.bench_aot(
    args.config,
    args.topology,
    sweep=args.sweep,
    batches=_integers(args, "batches"),
    meshes=args.meshes or (),
    json=path(args.json) if args.json else None,
  )


def _run_bench_scaling(args: Any) -> int:
  module = importlib.import_module("time_jax.bench.scaling.scaling")
  files = {name: args[name].value for name in ("json", "markdown", "plot")}
  return module.bench_scaling(
    args.config,
    module.Scaling(
      counts=_integers(args, "devices"),
      mode=args.mode,
      processes=args.processes,
      steps=args.steps,
      repeats=args.repeats,
    ),
    **{name: path(file) if file else None for name, file in files.items()},
  )


def _integers(args: Any, name: str) -> list[int]:
  """Value of a flag that lists whole numbers above 0."""
  words = args[name].value or []
  if not all(word.isdigit() and int(word) for word in words):
    raise UserError(
      f"--{name}={','.join(words)}: expected whole numbers above 0 with commas "
      "between them."
    )
  return [int(word) for word in words]


BENCH = {
  "bench data": Command(
    "Speed of preparing text and of loading rows.",
    "bench data --config=configs/quickstart.py",
    (config_flag, _bench_data, json_flag),
    ("config",),
    _run_bench_data,
  ),
  "bench relations": Command(
    "Time and memory of the relation loss's implementations.",
    "bench relations --seq_lens=512,1024 --torch",
    (_bench_relations, json_flag),
    (),
    _run_bench_relations,
  ),
  "bench step": Command(
    "Speed and memory of a recipe's training step.",
    "bench step --config=configs/xlmr_random.py:size=s "
    "--config.train.global_batch_size=4 --config.data.seq_len=128 --steps=5",
    (config_flag, workdir_flag, _bench_step, json_flag),
    ("config",),
    _run_bench_step,
  ),
  "bench compare": Command(
    "Our training step and PyTorch's, in turns.",
    "bench compare --size=s,xs --batch_size=4 --compile",
    (_bench_compare, json_flag),
    (),
    _run_bench_compare,
  ),
  "bench aot": Command(
    "Whether a run fits on TPUs that are not here, and what limits it.",
    "bench aot --config=configs/xlmr_random.py:size=m --topology=v5e:4x4",
    (config_flag, _bench_aot, json_flag),
    ("config", "topology"),
    _run_bench_aot,
  ),
  "bench scaling": Command(
    "Weak and strong scaling of the step over numbers of devices.",
    "bench scaling --config=configs/xlmr_random.py:size=s "
    "--config.train.global_batch_size=4 --config.data.seq_len=128 "
    "--devices=1,2,4",
    (config_flag, _bench_scaling, json_flag),
    ("config", "devices"),
    _run_bench_scaling,
  ),
  "bench inference": Command(
    "Latency of encoders on real sentences: JAX, PyTorch and onnxruntime.",
    "bench inference --models=s=runs/quickstart,xs=random:xs "
    "--text=held_out.txt --tokenizer=runs/quickstart/tokenizer",
    (_bench_inference, json_flag),
    ("models", "text", "tokenizer"),
    _run_bench_inference,
  ),
}
