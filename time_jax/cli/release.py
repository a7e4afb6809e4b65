"""Commands on models: what a student is made from, and what is published.

The fields of a command are its flags, and their comments its help text; see
`config.command`.
"""

from time_jax.config.command import Command, Count, CountOrZero
from time_jax.core.storage.paths import Path


class Export(Command):
  """Write a checkpoint as a Hugging Face folder and prove it equal."""

  name = "export"
  example = "export --workdir=runs/quickstart"
  once = True
  # Folder of the run, or of one of its students; or a fine-tuned model.
  workdir: Path
  # Checkpoint to export; by default the chosen one, else the newest.
  step: CountOrZero | None = None
  # Folder to write; by default WORKDIR/export, beside a fine-tuned model.
  out: Path | None = None
  class_: str = ""  # BertModel or XLMRobertaModel; the first, or as imported.
  dtype: str = ""  # float32 or bfloat16; the first, or as imported.
  # For the card, such as cc-by-4.0; none is stated otherwise.
  license: str = ""
  push: str = ""  # Upload to OWNER/NAME on the Hugging Face hub.
  revision: str | None = None  # Branch to upload to, such as step-30; main.
  private: bool = True  # Whether a repository that --push makes is private.
  dry_run: bool = False  # With --push: list the files, upload nothing.
  onnx: bool = False  # Write ONNX files, too: float32 and int8.
  # Leave out the last layer, whose output the loss does not see.
  drop_last: bool = False

  def run(self) -> int:
    """Exports a checkpoint and uploads it if asked to."""
    from time_jax.evals.publish import command
    from time_jax.release.options import Options

    return command.export_command(
      self.workdir,
      step=self.step,
      out=self.out,
      options=Options(
        model_class=self.class_,
        dtype=self.dtype,
        licence=self.license,
        revision=self.revision,
        onnx=self.onnx,
        drop_last=self.drop_last,
      ),
      push_to=self.push,
      private=self.private,
      dry_run=self.dry_run,
    )


class Verify(Command):
  """Check a model folder: files, ids, tensors, JAX against PyTorch, card."""

  name = "verify"
  example = "verify runs/quickstart/export --against=runs/quickstart"
  argument = "folder"
  folder: str  # Folder, or hub id OWNER/NAME.
  against: Path | None = None  # Workdir of the run that made it.
  # Read pytorch_model.bin where there is no safetensors.
  allow_pickle: bool = False

  def run(self) -> int:
    """Prints a line for each check."""
    from time_jax.release import verify

    return verify.verify_command(self.folder, self.against, self.allow_pickle)


class Import(Command):
  """Make a workdir of a published student: to distil on, or export again."""

  name = "import"
  example = "import OWNER/NAME --workdir=runs/imported"
  argument = "model"
  once = True
  # Folder, hub id OWNER/NAME[@REVISION], or package:NAME/FOLDER.
  model: str
  workdir: Path  # Folder of the run.
  # Read pytorch_model.bin where there is no safetensors.
  allow_pickle: bool = False

  def run(self) -> int:
    """Writes the model as the only checkpoint of a run."""
    from time_jax.release import import_model

    return import_model.import_command(
      self.model, self.workdir, self.allow_pickle
    )


class Inspect(Command):
  """A checkpoint: what it is, what distilling it takes, what is wrong."""

  name = "inspect"
  example = "inspect FacebookAI/xlm-roberta-large --layer=19"
  argument = "model"
  # Folder, hub id OWNER/NAME[@REVISION], or package:NAME/FOLDER.
  model: str
  # Layer to distil; by default the recommended one, else the last.
  layer: Count | None = None
  size: str = "s"  # Of the student: m, s or xs.
  # Read pytorch_model.bin where there is no safetensors.
  allow_pickle: bool = False

  def run(self) -> int:
    """Prints what is found in the model's folder."""
    from time_jax.release import inspect_model

    return inspect_model.inspect_model(
      self.model,
      layer=self.layer,
      size=self.size,
      allow_pickle=self.allow_pickle,
    )


class Trim(Command):
  """A teacher with the tokens of one language only, for a smaller student."""

  name = "trim"
  example = (
    "trim --teacher=FacebookAI/xlm-roberta-large --text='da/*.jsonl.zst' "
    "--out=teachers/xlmr-da"
  )
  once = True
  # Folder, hub id OWNER/NAME[@REVISION], or package:NAME/FOLDER.
  teacher: str
  text: list[str]  # A source of text, as in data.train; may be repeated.
  out: Path  # Folder to write.
  keep: int | None = None  # Tokens to keep at most.
  min_count: int | None = None  # Keep the tokens that occur so often.
  # Keep tokens that make up this share of the text. By default 0.9999, and what
  # other text needs.
  coverage: float | None = None
  max_documents: CountOrZero = 0  # Documents to read at most; 0: all.
  # Read pytorch_model.bin where there is no safetensors.
  allow_pickle: bool = False

  def run(self) -> int:
    """Writes the trimmed teacher."""
    from time_jax.trim import token_selection, trim

    limits = self.keep, self.min_count, self.coverage
    is_limited = any(limit is not None for limit in limits)
    return trim.trim(
      self.teacher,
      self.text,
      self.out,
      token_selection.Rule(*limits) if is_limited else None,
      max_documents=self.max_documents,
      allow_pickle=self.allow_pickle,
    )


class Spacy(Command):
  """A pipeline of spaCy made of exports, which runs without JAX."""

  name = "spacy"
  example = (
    "spacy runs/fr-split/export runs/fr-ud/export --lang=fr --out=fr_time"
  )
  argument = "models"
  once = True
  # Exports with ONNX files: of models of split, ud and ner, or of a student.
  models: tuple[str, ...]
  lang: str  # Code of the language, such as fr.
  out: Path  # Folder to write.
  int8: bool = False  # Compute with matrices in 8 bits.

  def run(self) -> int:
    """Writes the pipeline."""
    from time_jax.evals.common.packages import SPACY, load_package

    load_package(SPACY)
    from time_jax.spacy_pipeline import pipeline

    return pipeline.write(self.models, self.lang, self.out, int8=self.int8)
