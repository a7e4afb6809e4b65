"""Commands that measure."""

import pathlib
from typing import Annotated, Literal

from time_jax.config.command import (
  AtLeast,
  Command,
  Count,
  CountOrZero,
  RecipeCommand,
)
from time_jax.core.errors import UserError


class Data(RecipeCommand):
  """Speed of preparing text and of loading rows."""

  name = "bench data"
  example = "bench data --config=configs/quickstart.py"
  megabytes: Count = 64  # Text to measure with; a shorter one is repeated.
  repeats: Count = 5  # Rounds.
  json: pathlib.Path | None = None  # File to write the numbers to.

  def run(self) -> int:
    """Measures `prepare` and the loader."""
    from time_jax.bench.common import data

    return data.bench_data(
      self.config,
      megabytes=self.megabytes,
      repeats=self.repeats,
      json=self.json,
    )


class Relations(Command):
  """Time and memory of the relation loss's implementations."""

  name = "bench relations"
  example = "bench relations --seq_lens=512,1024 --torch"
  batch_size: Count = 4  # Rows.
  teacher_width: Count = 1024  # Width of the teacher's projection.
  student_width: Count = 384  # Width of the student's projection.
  repeats: Count = 5  # Rounds that count.
  # Tokens of a row, such as 512,1024,2048.
  seq_lens: tuple[Count, ...] = (512,)
  # Relation heads R, such as 48,64; divide both widths.
  num_heads: tuple[Count, ...] = (64,)
  dtype: Literal["float32", "bfloat16"] = "float32"  # Of the projections.
  torch: bool = False  # Measure PyTorch's published form, too.
  json: pathlib.Path | None = None  # File to write the numbers to.

  def run(self) -> int:
    """Measures each number of heads with each length."""
    from time_jax.bench.peers import relations

    widths = self.teacher_width, self.student_width
    cases = [
      relations.Case(self.batch_size, seq_len, heads, *widths, self.dtype)
      for heads in self.num_heads
      for seq_len in self.seq_lens
    ]
    return relations.bench_relations(
      cases, repeats=self.repeats, with_torch=self.torch, json=self.json
    )


class Step(RecipeCommand):
  """Speed and memory of a recipe's training step."""

  name = "bench step"
  example = (
    "bench step --config=configs/xlmr_random.py:size=s "
    "--config.train.global_batch_size=4 --config.data.seq_len=128 --steps=5"
  )
  workdir: pathlib.Path | None = None  # Folder of the run.
  steps: Count = 20  # Steps that count.
  # Steps before them; by default 20, on a CPU 3.
  warmup: CountOrZero | None = None
  # Measure the loader as well where rows are synthetic.
  real_rows: bool = False
  # Dense peak of one device, for MFU where it is not known.
  peak_tflops: Annotated[float, AtLeast(0)] | None = None
  json: pathlib.Path | None = None  # File to write the numbers to.

  def run(self) -> int:
    """Measures the training step."""
    from time_jax.bench.common import step

    return step.bench_step(
      self.config,
      steps=self.steps,
      warmup=self.warmup,
      real_rows=self.real_rows,
      workdir=self.workdir,
      peak_tflops=self.peak_tflops,
      json=self.json,
    )


class Compare(Command):
  """Our training step and PyTorch's, in turns."""

  name = "bench compare"
  example = "bench compare --size=s,xs --batch_size=4 --compile"
  size: tuple[str, ...] = ("s",)  # Students to measure, of m, s, xs.
  batch_size: Count = 4  # Rows of a step.
  seq_len: Count = 512  # Tokens of a row.
  repeats: Count = 5  # Rounds that count; each runs every implementation.
  steps: Count = 1  # Steps of each in a round; more where steps are short.
  compile: bool = False  # Measure PyTorch with torch.compile, too.
  cut: bool = False  # Measure PyTorch with a teacher cut off like ours, too.
  # Of computation, on both sides.
  dtype: Literal["float32", "bfloat16"] = "float32"
  json: pathlib.Path | None = None  # File to write the numbers to.

  def run(self) -> int:
    """Measures both in processes of their own."""
    from time_jax.bench.peers import compare

    comparison = compare.Comparison(
      sizes=self.size,
      batch_size=self.batch_size,
      seq_len=self.seq_len,
      repeats=self.repeats,
      steps=self.steps,
      compiled=self.compile,
      cut=self.cut,
      dtype=self.dtype,
    )
    return compare.bench_compare(comparison, json=self.json)


class Aot(RecipeCommand):
  """Whether a run fits on TPUs that are not here, and what limits it."""

  name = "bench aot"
  example = (
    "bench aot --config=configs/xlmr_random.py:size=m --topology=v5e:4x4"
  )
  # TPU slice to compile for, such as v5e:4x4 or v5p:4x4x4; GPUs of a host, such
  # as h100:8, which is an estimate; or cpu:N.
  topology: str
  # Compile for several batches and meshes, with the accumulation that each
  # needs, and recommend one.
  sweep: bool = False
  # Global batch sizes of the sweep; by default the recipe's, and 4 times.
  batches: tuple[Count, ...] = ()
  meshes: tuple[str, ...] = ()  # DATAxFSDPxTENSOR of the sweep, such as 4x4x1.
  json: pathlib.Path | None = None  # File to write the numbers to.

  def run(self) -> int:
    """Compiles the training step for the topology."""
    from time_jax.bench.aot import aot

    return aot.bench_aot(
      self.config,
      self.topology,
      sweep=self.sweep,
      batches=self.batches,
      meshes=self.meshes,
      json=self.json,
    )


class Scaling(RecipeCommand):
  """Weak and strong scaling of the step over numbers of devices."""

  name = "bench scaling"
  example = (
    "bench scaling --config=configs/xlmr_random.py:size=s "
    "--config.train.global_batch_size=4 --config.data.seq_len=128 "
    "--devices=1,2,4"
  )
  # Numbers of devices, such as 1,2,4,8; on a CPU as many are simulated.
  devices: tuple[Count, ...]
  # What stays the same: the rows of a device, or of all together.
  mode: Literal["weak", "strong", "both"] = "both"
  processes: bool = False  # One process a device, on this machine.
  steps: Count = 5  # Steps that count in each measurement.
  repeats: Count = 2  # Rounds over all numbers of devices.
  markdown: pathlib.Path | None = None  # File to write the table to.
  plot: pathlib.Path | None = None  # File to draw it to, PNG.
  json: pathlib.Path | None = None  # File to write the numbers to.

  def run(self) -> int:
    """Measures each number of devices in a process of its own."""
    from time_jax.bench.scaling import scaling

    return scaling.bench_scaling(
      self.config,
      scaling.Scaling(
        counts=self.devices,
        mode=self.mode,
        processes=self.processes,
        steps=self.steps,
        repeats=self.repeats,
      ),
      json=self.json,
      markdown=self.markdown,
      plot=self.plot,
    )


class Inference(Command):
  """Latency of encoders on real sentences: JAX, PyTorch and onnxruntime."""

  name = "bench inference"
  example = (
    "bench inference --models=s=runs/quickstart,xs=random:xs "
    "--text=held_out.txt --tokenizer=runs/quickstart/tokenizer"
  )
  # NAME=MODEL, each a workdir, a folder, a hub id or random:SHAPE (m, s, xs,
  # xlmr-large, or LAYERSxWIDTH); the first is compared with.
  models: tuple[str, ...]
  text: str  # Source of sentences, a document each.
  tokenizer: str  # Folder, hub id or package with it; or a workdir.
  # Libraries.
  engines: tuple[str, ...] = ("jax", "torch", "onnxruntime", "onnxruntime-int8")
  batch_sizes: tuple[Count, ...] = (1, 32)  # Sentences of a batch.
  scores: tuple[pathlib.Path, ...] = ()  # Workdirs of `finetune`, to draw.
  # Pipeline of spaCy to measure on the same sentences.
  spacy: str | None = None
  batches: Count = 20  # Batches of each size, the same for all.
  repeats: Count = 5  # Rounds that count.
  # Folder for inference.json, inference.md and plots.
  out: pathlib.Path | None = None
  json: pathlib.Path | None = None  # File to write the numbers to.

  def __post_init__(self) -> None:
    """Checks the form of --models."""
    names = [model.partition("=")[0] for model in self.models]
    if not all(model.partition("=")[2] for model in self.models):
      raise UserError("--models: expected a model after each NAME=.")
    if not all(map(str.isidentifier, names)) or len({*names}) < len(names):
      raise UserError(
        f"--models={','.join(self.models)}: expected NAME=MODEL with commas "
        "between them, each name once, of letters, digits and _."
      )

  def run(self) -> int:
    """Measures each model in each library."""
    from time_jax.bench.inference import inference

    return inference.bench_inference(
      dict(model.split("=", 1) for model in self.models),
      inference.Inference(
        engines=self.engines,
        text=self.text,
        tokenizer=self.tokenizer,
        batch_sizes=self.batch_sizes,
        batches=self.batches,
        repeats=self.repeats,
        spacy=self.spacy,
      ),
      scores=self.scores,
      out=self.out,
      json=self.json,
    )
