"""The flags of the commands that measure, which `cli.bench` makes commands of.

They are apart from the measurements, as --help must not import JAX.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Annotated, Literal

from time_jax.config.command import (
  AtLeast,
  Command,
  Count,
  CountOrZero,
  RecipeCommand,
)
from time_jax.core.errors import UserError

_NAME = re.compile(r"[\w.@:-]+")  # of a model in tables and plots
PipelineEngine = Literal["jax", "onnxruntime", "onnxruntime-int8"]
RANDOM = "random:"  # and a shape: a model that was never trained


class Data(RecipeCommand):
  """Flags of `bench data`."""

  megabytes: Count = 64  # Text to measure with; a shorter one is repeated.
  repeats: Count = 5  # Rounds.
  json: pathlib.Path | None = None  # File to write the numbers to.


class Relations(Command):
  """Flags of `bench relations`."""

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


class Step(RecipeCommand):
  """Flags of `bench step`."""

  workdir: pathlib.Path | None = None  # Folder of the run.
  steps: Count = 20  # Steps that count.
  # Steps before them; by default 20, on a CPU 3.
  warmup: CountOrZero | None = None
  # Measure the loader as well where rows are synthetic.
  real_rows: bool = False
  # Dense peak of one device, for MFU where it is not known.
  peak_tflops: Annotated[float, AtLeast(0)] | None = None
  json: pathlib.Path | None = None  # File to write the numbers to.


class Compare(Command):
  """Flags of `bench compare`."""

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


class Aot(RecipeCommand):
  """Flags of `bench aot`."""

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


class Scaling(RecipeCommand):
  """Flags of `bench scaling`."""

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


class Inference(Command):
  """Flags of `bench inference`."""

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


class Pipeline(Command):
  """Flags of `bench pipeline`."""

  # NAME=FOLDER, each of a fine-tuned model of ud or ner; or [NAME=]random:SHAPE
  # for speed alone (m, s, xs, xlmr-large, or LAYERSxWIDTH). The first is
  # compared with.
  models: tuple[str, ...]
  gold: pathlib.Path  # Annotated file: all read its words and are scored on it.
  # What computes models: a row for each, NAME, NAME/onnxruntime and NAME/int8,
  # which is in 8 bits. Random models have the first alone.
  engines: tuple[PipelineEngine, ...] = ("jax",)
  spacy: tuple[str, ...] = ()  # Pipelines of spaCy; they work on one core.
  # Folder, hub id, package or workdir with the tokenizer of random models; by
  # default that of the first model.
  tokenizer: str = ""
  cores: tuple[Count, ...] = (1, 2)  # Numbers of cores of the processor.
  # Sentences to measure with, the first of the file; by default all.
  sentences: Count | None = None
  batch_sizes: tuple[Count, ...] = (1, 32)  # Sentences that are given at once.
  batches: Count = 20  # Batches of each size, the same for all.
  repeats: Count = 5  # Rounds that count.
  # Folder for pipeline.json, pipeline.csv and the plot.
  out: pathlib.Path | None = None
  json: pathlib.Path | None = None  # File to write the numbers to.

  def __post_init__(self) -> None:
    """Checks the form of MODELS, and that names differ."""
    for model in self.models:
      name, equals, _ = model.partition("=")
      if not _NAME.fullmatch(name) or not (equals or name.startswith(RANDOM)):
        raise UserError(
          f"{model!r}: expected NAME=FOLDER or random:SHAPE, with a name of "
          "letters, digits and . _ - @ :"
        )
    names = [*(model.partition("=")[0] for model in self.models), *self.spacy]
    if twice := _repeated(names):
      raise UserError(
        f"{twice} is given twice; expected a name of its own for each model."
      )
    if twice := _repeated(self.engines):
      raise UserError(f"--engines: {twice} is given twice; expected it once.")


class Raw(Command):
  """Flags of `bench raw`."""

  # Pipelines of spaCy: installed ones, or folders such as `spacy` writes. The
  # first is compared with.
  pipelines: tuple[str, ...]
  gold: pathlib.Path  # Treebank whose text is read.
  sentences: Count = 10  # Of a document.
  cores: tuple[Count, ...] = (1, 2)  # Numbers of cores of the processor.
  repeats: Count = 5  # Rounds that count.
  json: pathlib.Path | None = None  # File to write the numbers to.

  def __post_init__(self) -> None:
    """Checks that names differ."""
    if twice := _repeated(self.pipelines):
      raise UserError(f"{twice} is given twice; expected it once.")


class Trim(Command):
  """Flags of `bench trim`."""

  # Folder, hub id OWNER/NAME[@REVISION], or package:NAME/FOLDER.
  teacher: str
  # Sources of text, as in data.train; the last 20th of it is held out.
  text: tuple[str, ...]
  held_out: tuple[str, ...] = ()  # More sources that are held out.
  documents: Count = 1000  # Of each held-out text at most, the first.
  # Numbers of tokens, as --keep of `trim` has them.
  keep: tuple[Count, ...] = (20_000, 30_000, 40_000, 60_000)
  plot: pathlib.Path | None = None  # PNG file to draw.
  json: pathlib.Path | None = None  # File to write the numbers to.


class Serving(Command):
  """Flags of `bench serving`."""

  folder: str  # An export with ONNX files.
  inputs: pathlib.Path  # An input a line: a text, or an object of JSON.
  requests: Count = 1000  # In all.
  clients: Count = 4  # Each waits for its answer before it asks again.
  together: Count = 1  # Inputs of a request.
  int8: bool = False  # The graph in 8 bits.
  json: pathlib.Path | None = None  # File to write the numbers to.


def _repeated(names: Sequence[str]) -> str:
  """Returns the names that are there more than once, as text."""
  return ", ".join(sorted({n for n in names if names.count(n) > 1}))
