"""The Python interface: what `import time_jax` gives.

Functions with the name of a command do what the command does, with a config
instead of a command line, and raise errors instead of ending the program.
"""

import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from time_jax.config.finetune import EngineName
from time_jax.core.arrays import Batch, Qkv
from time_jax.core.arrays import make_batch as make_batch
from time_jax.core.errors import RestartableError, UserError
from time_jax.core.storage.paths import Path
from time_jax.evals.common import embedding
from time_jax.evals.common.encoders import OpenedEncoder, open_encoder
from time_jax.hf import load
from time_jax.models.bert import FAMILY, BertConfig, Encoder
from time_jax.models.family import Teacher
from time_jax.parallel import sharding
from time_jax.relations import loss as relations
from time_jax.step import optimizer, partitioning
from time_jax.step.objective import Objective
from time_jax.step.state import StepSettings, TrainState, init_state
from time_jax.step.train_step import Metrics, Student, train_step
from time_jax.telemetry import history

Place = str | os.PathLike[str]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
# The three relations of TiME (arXiv 2512.14645), equally weighted.
_RELATIONS = {"qq": 1.0, "kk": 1.0, "vv": 1.0}


def load_teacher(
  model: Place,
  layer: int,
  *,
  dtype: str = "float32",
  mesh: Mesh | None = None,
  allow_pickle: bool = False,
) -> Teacher:
  """Loads a teacher up to the projections of its distilled layer.

  `teacher.project(teacher.params, batch)` returns the projections.

  Args:
    model: folder, hub id, or `package:NAME/FOLDER`.
    layer: the distilled layer, counted from 1.
    dtype: dtype of the weights and of the computation.
    mesh: devices to place the weights on; None: the first device.
    allow_pickle: whether `pytorch_model.bin` may be read, with `weights_only`.

  Raises:
    UserError: the model cannot be read, or has no such layer.
  """
  return load.load_teacher(
    str(model),
    (layer,),
    dtype=jnp.dtype(dtype),
    mesh=mesh or _first_device(),
    allow_pickle=allow_pickle,
  )


def load_student(
  model: Place, *, step: int | None = None, mesh: Mesh | None = None
) -> OpenedEncoder:
  """Loads a student, or any other encoder that can be fine-tuned.

  Args:
    model: workdir of a run, folder of an exported model, or hub id.
    step: checkpoint of a workdir; None: the chosen one, else the newest.
    mesh: devices to place the weights on; None: the first device.

  Returns:
    The Flax module `encoder`, its float32 `params`, its tokenizer; see `embed`.

  Raises:
    UserError: there is no model in that place, or it is damaged.
  """
  return open_encoder(
    str(model), mesh=mesh or _first_device(), dtype="float32", step=step
  )


def make_student(
  teacher: Teacher,
  *,
  num_layers: int,
  hidden_size: int,
  num_heads: int = 12,
  intermediate_size: int | None = None,
  **shape: Any,
) -> Encoder:
  """Returns a BERT-style student for the vocabulary of a teacher.

  Args:
    teacher: whose tokens the student reads.
    num_layers: number of its layers; the last one learns the relations.
    hidden_size: width D of its hidden states.
    num_heads: number of its attention heads.
    intermediate_size: width of its feed-forward layers; None: 4 D.
    **shape: other fields of `models.bert.BertConfig`.
  """
  config = BertConfig(
    vocab_size=teacher.vocab_size,
    hidden_size=hidden_size,
    num_layers=num_layers,
    num_heads=num_heads,
    intermediate_size=intermediate_size or 4 * hidden_size,
    **shape,
  )
  return Encoder(config, num_layers)


def relation_loss(
  teacher: Qkv | Sequence[Array],
  student: Qkv | Sequence[Array],
  segment_ids: Any,
  *,
  num_relation_heads: int,
  weights: Mapping[str, float] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Computes the relation loss (MiniLMv2, arXiv 2012.15828, equations 5 to 7).

  It is differentiable with respect to the student's projections.

  Args:
    teacher: query, key and value projections, each [B, T, D of the teacher].
    student: the same, each [B, T, D of the student].
    segment_ids: int [B, T]; 0 is padding, n the n-th document of the row.
    num_relation_heads: R, which must divide all the widths.
    weights: relation name, such as "qq" or "qk", to its weight; None: 1 for
      "qq", "kk" and "vv".
    implementation: see `relations.loss.IMPLEMENTATIONS`.

  Returns:
    The weighted sum of the relations, and every relation's own mean over the
    documents.
  """
  weights = dict(weights or _RELATIONS)
  segment_ids = jnp.asarray(segment_ids)
  teacher, student = (
    qkv if isinstance(qkv, Qkv) else Qkv(*map(jnp.asarray, qkv))
    for qkv in (teacher, student)
  )
  names = ("query", "key", "value")
  theirs, ours = (
    {name: getattr(qkv, name).shape[-1] for name in names}
    for qkv in (teacher, student)
  )
  _check_loss(weights, num_relation_heads, theirs, ours, implementation)
  sums = relations.relation_sums(
    teacher,
    student,
    segment_ids,
    num_heads=num_relation_heads,
    relations=weights,
    implementation=implementation,
  )
  documents = jnp.maximum(relations.count_documents(segment_ids), 1)
  parts = {name: total / documents for name, total in sums.items()}
  loss = sum(weights[name] * parts[name] for name in parts)
  return jnp.asarray(loss), parts


def _check_loss(
  weights: Mapping[str, float],
  num_relation_heads: int,
  teacher: Mapping[str, int],
  student: Mapping[str, int],
  implementation: str = "auto",
) -> None:
  """Raises UserError unless projections of these widths can be compared."""
  relations.check_relations(weights, teacher, implementation)
  relations.check_heads(
    num_relation_heads,
    {f"teacher's {name}": width for name, width in teacher.items()}
    | {f"student's {name}": width for name, width in student.items()},
  )


def make_train_step(
  teacher: Teacher,
  student: Encoder,
  *,
  num_relation_heads: int,
  global_batch_size: int,
  learning_rate: float | Callable[[Array], Array],
  weights: Mapping[str, float] | None = None,
  mesh: Mesh | None = None,
  **settings: Any,
) -> tuple[
  TrainState, Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
]:
  """Returns a student's first state, and the compiled step that trains it.

  Args:
    teacher: see `load_teacher`.
    student: see `make_student`.
    num_relation_heads: R.
    global_batch_size: rows of a batch.
    learning_rate: a number, or a function of the number of steps done.
    weights: see `relation_loss`.
    mesh: devices; None: the first one, as for `load_teacher`.
    **settings: other fields of `step.state.StepSettings`, such as `seed`,
      `accumulation`, `ema`, or another optimizer as `tx`.

  Returns:
    The state of step 0, and `step(state, batch) -> (state, metrics)`. The step
    donates the state that it is given.
  """
  weights = dict(weights or _RELATIONS)
  _check_loss(
    weights, num_relation_heads, teacher.widths, student.config.widths
  )
  mesh = mesh or _first_device()
  objective = Objective(
    teacher=teacher,
    student=student,
    num_heads=num_relation_heads,
    weights=weights,
    implementation="auto",
    layer=teacher.layers[-1],
  )
  rate = learning_rate if callable(learning_rate) else _constant(learning_rate)
  tx = settings.pop("tx", None) or optimizer.make_optimizer(
    FAMILY.feeds_projections,
    b1=0.9,
    b2=0.999,
    eps=1e-6,
    weight_decay=0.01,
    clip_norm=1.0,
  )
  constants = StepSettings(tx=tx, learning_rate=rate, **settings)
  state = init_state(objective.init, constants, mesh)
  students = {"student": Student(objective, constants)}
  spread = partitioning.with_jit(
    functools.partial(train_step, students=students),
    {"student": state},
    mesh,
    global_batch_size,
  )

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    rows: Any = {"tokens": batch.tokens, "segment_ids": batch.segment_ids}
    states, metrics = spread.step(
      {"student": state}, teacher.params, spread.put_batch(rows)
    )
    return states["student"], metrics["student"]

  return state, step


def _first_device() -> Mesh:
  return sharding.make_mesh(devices=jax.devices()[:1])


def _constant(rate: float) -> Callable[[Array], Array]:
  return lambda step: jnp.full((), rate, jnp.float32)


def embed(
  student: OpenedEncoder | Place, texts: Sequence[str], *, batch_size: int = 32
) -> Float[np.ndarray, "N D"]:
  """Returns a vector for every text: the mean of its tokens' hidden states.

  Args:
    student: see `load_student`, whose arguments it takes, too.
    texts: what lies beyond the most tokens that the student takes is left out.
    batch_size: texts that are computed together.
  """
  if not isinstance(student, OpenedEncoder):
    student = load_student(student)
  return embedding.embed(student, texts, batch_size=batch_size)


def read_metrics(workdir: Place) -> list[dict[str, float]]:
  """Returns the rows of metrics that a run has recorded, one a logged step."""
  return history.read_metrics(Path(workdir))


def distill(config: ConfigDict, workdir: Place) -> None:
  """Distils a student, or continues; see the command `distill`.

  Args:
    config: see `time_jax.config.default_config`; it is not changed.
    workdir: folder of the run.

  Raises:
    UserError: bad input, or a workdir that belongs to another run.
    RunError: the run failed; RestartableError: call it again to continue.
      Where JAX is in use before the first call, SIGTERM ends the program as
      usual, and the next call continues after the newest checkpoint.
  """
  from time_jax.run.distill import distill as run

  _finish(run(_own(config), Path(workdir)), workdir)


def finetune(task: str, config: ConfigDict, workdir: Place) -> None:
  """Fine-tunes a model on a task, or continues; see the command `finetune`.

  Args:
    task: "ud", "ner", "qa" or "split".
    config: see `time_jax.config.ud_config` and its like; it is not changed.
    workdir: folder of the run.

  Raises:
    UserError: bad input, or a workdir that belongs to another run.
    RunError: the run failed; RestartableError: call it again to continue.
  """
  from time_jax.evals.common.finetuning import finetune as run
  from time_jax.evals.predict.tasks import TASKS

  if task not in TASKS:
    raise UserError(f"task={task!r} is not known; expected one of {[*TASKS]}.")
  _finish(run(_own(config), Path(workdir), TASKS[task]), workdir)


def predict(
  folder: Place,
  text: str,
  engine: EngineName = "auto",
  int8: bool = False,
  split: Place | None = None,
) -> str:
  """Annotates text with a fine-tuned model; see the command `predict`.

  Args:
    folder: the model, such as WORKDIR/seed-0/model, or its hub id OWNER/NAME.
    text: input as the command reads it.
    engine: what computes; "auto": on a CPU onnxruntime, if it is installed and
      knows the encoder, else JAX.
    int8: whether onnxruntime computes with matrices in 8 bits.
    split: a model of `finetune split`; then the text is as people write it.

  Returns:
    What the command prints.

  Raises:
    UserError: there is no such model, the engine cannot compute it, or the
      text is not what it reads.
  """
  from time_jax.evals.common import model_folder
  from time_jax.evals.predict.predict import predict as run

  out = io.StringIO()
  # Half a surrogate pair is refused where it is read, as in a file.
  source = io.BytesIO(text.encode(errors="surrogatepass"))
  splitter = model_folder.find(str(split)) if split else None
  run(model_folder.find(str(folder)), source, out, engine, int8, splitter)
  return out.getvalue()


def export(
  workdir: Place, out: Place | None = None, *, step: int | None = None
) -> Path:
  """Writes a Hugging Face folder and proves it equal; see `export`.

  Args:
    workdir: folder of the run.
    out: folder to write; None: WORKDIR/export.
    step: its checkpoint; None: the chosen one, else the newest.

  Returns:
    The folder that was written.

  Raises:
    UserError: there is no such checkpoint, or the folder is no export.
    RunError: what was written is not equal to the checkpoint.
  """
  from time_jax.evals.publish.command import export as run

  return run(Path(workdir), step, Path(out) if out else None)


def _own(config: ConfigDict) -> ConfigDict:
  """Copies a config: a run fits its own to what it finds."""
  return config.copy_and_resolve_references()


def _finish(code: int, workdir: Place) -> None:
  if code:
    raise RestartableError(
      f"the run in {workdir} was told to stop, and has saved everything; call "
      "the function again to continue."
    )
