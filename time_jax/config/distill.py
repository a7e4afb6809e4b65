"""Every field of `distill`, with its default, its meaning and its range.

A file in `configs/` starts from `default_config` and changes what its recipe
needs. The ConfigDict stops in the command functions; code below them takes
keyword arguments.
"""

from typing import Any

from ml_collections import ConfigDict

from time_jax.config.changes import invalid_changes
from time_jax.config.fields import flatten
from time_jax.config.hidden import problems as problems_of_hidden
from time_jax.config.ranges import out_of_range, real, refuse, whole
from time_jax.config.students import effective
from time_jax.config.students import problems as problems_of_students

# The paper's three sizes (TiME, arXiv 2512.14645), each with 12 heads.
STUDENT_SIZES = {
  "m": dict(num_layers=6, hidden_size=768, intermediate_size=3072),
  "s": dict(num_layers=6, hidden_size=384, intermediate_size=1536),
  "xs": dict(num_layers=4, hidden_size=384, intermediate_size=1536),
}


def default_config() -> ConfigDict:
  """Returns the paper's recipe (arXiv 2512.14645) without teacher and text."""
  config = ConfigDict()
  config.lang = ""  # ISO code; goes into the exported model's card
  # Of the order of the data and of what is random there; of the student's
  # weights and dropout, too, unless student.seed is another.
  config.seed = 21

  config.teacher = t = ConfigDict()
  # Folder, hub id OWNER/NAME[@REVISION], package:NAME/FOLDER, or random.
  t.path = ""
  t.layer = 0  # the distilled layer, 1-based
  t.loader = "own"  # own encoders, or "flax": transformers' 4.x Flax models
  t.dtype = "bfloat16"  # of the teacher's weights and computation
  # Whether pytorch_model.bin is read where there is no safetensors; of
  # student.init_from, too.
  t.allow_pickle = False
  # What is distilled: "projections", or "post_rope" after rotary positions.
  t.capture = "projections"
  # Of LTG-BERT: "flat" or "per_head"; empty: what its architecture suggests.
  t.relative_layout = ""
  # Folder in which its projections of training rows are kept, for later passes
  # over them and for other runs with the same teacher, layer and text; empty:
  # it is asked again. In float32 the result is the same.
  t.cache = ""
  t.cache_gb = 0.0  # of them on disk, the rest is computed; 0: no limit
  # "float32", or "bfloat16" for half of it; empty: as teacher.dtype. A student
  # learns of numbers that are rounded to it.
  t.cache_dtype = ""
  t.architecture = ConfigDict()  # config.json of a random teacher

  config.student = _student_fields()

  config.relations = r = ConfigDict()
  r.num_heads = 64  # R, divides the widths of teacher and student
  # Of each relation in the loss; those of weight 0 are not computed.
  r.weights = ConfigDict({x + y: float(x == y) for x in "qkv" for y in "qkv"})
  # "auto": the fastest there is for the backend; or one of them by name:
  # "one_pass" anywhere, "pallas_tpu", "pallas_gpu", "dense" (the definition).
  # "auto" takes "one_pass" where no kernel fits: on a TPU rows beyond 8192 or
  # relation heads (width / R) wider than 128; on a GPU wider than 64, or 32 in
  # float32.
  r.implementation = "auto"

  config.hidden = h = ConfigDict()  # a second term, of hidden states
  h.weight = 0.0  # of the term in the loss; 0: there is none
  # Layers that are compared, STUDENT:TEACHER,...; empty: the student's last one
  # with teacher.layer.
  h.pairs = ""
  # How the teacher's states become as wide as the student's: "start", by the
  # basis that the student's own start was made narrower with, if it was; or by
  # a matrix in a safetensors file. Empty: they are as wide.
  h.projection = ""

  # What student NAME has of its own, of several that learn from one teacher:
  # any FIELD of student, relations and hidden, teacher.layer, and those of
  # train that time_jax/config/students.py lists. Where nobody is named, there
  # is one.
  config.students = ConfigDict()

  _run_fields(config)
  config.lock()
  config.students.unlock()  # A recipe and the command line name them.
  return config


def _student_fields() -> ConfigDict:
  """Returns sizes, dropout and first weights of a student."""
  s = ConfigDict()
  s.num_layers = 6
  s.hidden_size = 384
  s.intermediate_size = 1536
  s.num_heads = 12
  s.max_positions = 512
  s.dropout = 0.1
  s.attention_dropout = 0.1
  s.layer_norm_eps = 1e-12
  s.initializer_range = 0.02
  # Where its first weights come from; empty: random. A student's folder or hub
  # id; or "teacher:lower", the teacher's lowest layers; "teacher:spaced" or
  # "teacher", layers evenly up to teacher.layer; of "teacher:1,4,9" these.
  # The teacher's layers may be wider, and have more heads and units.
  s.init_from = ""
  # How a wider teacher's states become the student's: by their principal
  # "components", or by a "selection" of hidden units.
  s.narrowing = "components"
  s.seed = -1  # of weights and dropout; -1: that of the run
  return s


def _run_fields(config: ConfigDict) -> None:
  """Adds the fields of the run: what it reads, how it trains, when it saves."""
  config.data = d = ConfigDict()
  # Text. Each entry: GLOB, tfds:NAME[:SPLIT], hf:OWNER/NAME/GLOB or
  # hf:NAME[:CONFIG[:SPLIT]], then [#FIELD]; see time_jax/data/sources.py.
  d.train = ()
  d.validation = ()  # held-out text, for choosing a checkpoint
  d.folder = ""  # of prepared rows; empty: WORKDIR/data
  d.seq_len = 512
  d.packing = "pack"  # or "none": one document a row, truncated and padded
  d.shard_text_mb = 16  # MiB of text that become one file of rows
  d.max_bad_records = 100  # broken lines and files to skip before giving up
  d.max_tokens = d.max_documents = 0  # end a split after so many; 0: no limit
  d.synthetic_rows = 0  # > 0: random tokens instead of text, for measuring
  d.prefetch = 2  # batches made ahead

  config.train = n = ConfigDict()
  n.num_steps = 200_000
  n.global_batch_size = 256  # rows of all devices, per optimizer step
  n.accumulation = 1  # micro-batches per step
  n.peak_lr = 6e-4
  n.warmup_steps = 4000  # fewer than num_steps; see time_jax/config/warmup.py
  n.b1 = 0.9
  n.b2 = 0.999
  n.eps = 1e-6
  n.weight_decay = 0.01  # not on biases and LayerNorm
  n.clip_norm = 1.0  # largest norm of a gradient; 0: any
  n.dtype = "bfloat16"  # of the student's computation; its weights are float32
  # Standard deviations above the usual loss or gradient (its logarithm) from
  # which a step is skipped, as one that is not finite always is; 0: none is.
  # After eight skipped steps in a row the new level counts as the usual one,
  # where max_skipped lets a run come so far.
  n.spike = 0.0
  n.max_skipped = 10  # skipped steps in a row before the run ends
  # What is different from a step on, of peak_lr, spike, max_skipped, clip_norm:
  # "1200:peak_lr=0.0003" for the steps after step 1200; see changes.py.
  n.changes = ""
  # Decay of the average of the student's weights, which is then what is
  # evaluated, chosen and exported; 0: there is none.
  n.ema = 0.0
  n.watchdog = 1800  # seconds without a step before the run ends; 0: never
  n.parallel = "jit"  # or "pmap", to compare with

  config.mesh = m = ConfigDict()
  m.data = -1  # replicas; -1: all devices that are left
  m.fsdp = 1  # ways to split parameters and optimizer state
  m.tensor = 1  # ways to split the work inside a layer

  config.checkpoint = c = ConfigDict()
  c.every = 1000  # steps
  c.keep_latest = 2
  c.keep_every = 10_000  # steps between the checkpoints that stay for ever

  config.eval = e = ConfigDict()
  e.every = 10_000  # steps; needs data.validation
  e.global_batch_size = 32

  config.log = g = ConfigDict()
  g.every = 50  # steps
  g.wandb = ""  # project of Weights & Biases, which then has the metrics too


# Numbers that many fields share. A float32 has to hold all of them: 0.9999999
# would be 1 there, and 1e-50 would be 0.
COUNT = whole(1, 1_000_000_000)
SIZE = whole(1, 1_000_000)
DECAY = real(0, 0.999999)
EPSILON = real(1e-20, 1)
RATE = real(1e-30, 100)
SEED = whole(0, 2**63 - 1)
# What several commands have.
SHARED_RANGES = {
  "train.peak_lr": RATE,
  "train.warmup_steps": whole(0, 1_000_000_000),
  "train.b1": DECAY,
  "train.b2": DECAY,
  "train.eps": EPSILON,
  "train.weight_decay": real(0, 100),
  "train.clip_norm": real(0, 1e9),
  "train.ema": DECAY,
  "train.max_skipped": COUNT,
  "train.watchdog": whole(0, 1_000_000_000),
  "mesh.data": whole(-1, 1_000_000),
  "mesh.fsdp": whole(-1, 1_000_000),
  "mesh.tensor": whole(-1, 1_000_000),
  "checkpoint.every": COUNT,
  "log.every": COUNT,
}
# Of every field that is a number; `--help` shows them.
RANGES = SHARED_RANGES | {
  "seed": SEED,
  "teacher.layer": whole(0, 1_000_000),
  "teacher.cache_gb": real(0, 1e9),
  "student.num_layers": SIZE,
  "student.hidden_size": SIZE,
  "student.intermediate_size": SIZE,
  "student.num_heads": SIZE,
  "student.max_positions": SIZE,
  "student.dropout": DECAY,
  "student.attention_dropout": DECAY,
  "student.layer_norm_eps": EPSILON,
  "student.initializer_range": real(0, 100),
  "student.seed": whole(-1, 2**63 - 1),
  "relations.num_heads": SIZE,
  "hidden.weight": real(0, 1e9),
  **{f"relations.weights.{x}{y}": real(0, 1e9) for x in "qkv" for y in "qkv"},
  "data.seq_len": SIZE,
  "data.shard_text_mb": SIZE,
  "data.max_bad_records": whole(0, 10**15),
  "data.max_tokens": whole(0, 10**15),
  "data.max_documents": whole(0, 10**15),
  "data.synthetic_rows": whole(0, 1_000_000_000),
  "data.prefetch": SIZE,
  "train.num_steps": COUNT,
  "train.global_batch_size": SIZE,
  "train.accumulation": SIZE,
  "train.spike": real(0, 1e9),
  "checkpoint.keep_latest": COUNT,
  "checkpoint.keep_every": COUNT,
  "eval.every": COUNT,
  "eval.global_batch_size": SIZE,
}
CHOICES = {
  "teacher.loader": ("own", "flax"),
  "teacher.dtype": ("bfloat16", "float32"),
  "teacher.capture": ("projections", "post_rope"),
  "teacher.cache_dtype": ("", "float32", "bfloat16"),
  "teacher.relative_layout": ("", "flat", "per_head"),
  "student.narrowing": ("components", "selection"),
  "train.dtype": ("bfloat16", "float32"),
  "train.parallel": ("jit", "pmap"),
  "data.packing": ("pack", "none"),
}


def check_config(config: ConfigDict) -> None:
  """Raises UserError for values that no run could use, all at once.

  Args:
    config: config of a run; what only one of several students has wrong is
      said with "students.NAME: " before it.
  """
  refuse(problems_of_students(config))  # Else there is nothing to be effective.
  common = _problems(config)
  own = {name: _problems(c) for name, c in effective(config).items()}
  refuse(
    [p for p in common if any(p in theirs for theirs in own.values())]
    + [
      f"students.{name}: {problem}"
      for name, theirs in own.items()
      for problem in theirs
      if problem not in common
    ]
  )


def _problems(config: ConfigDict) -> list[str]:
  """Returns a phrase for each value that one student's run could not use."""
  fields = dict(flatten(config.to_dict()))
  problems = out_of_range(fields, RANGES, CHOICES)
  problems += [
    f"{name}={fields[name]!r}, expected texts such as ('texts/*.jsonl.gz',)"
    for name in ("data.train", "data.validation")
    if isinstance(fields[name], str)
    or not all(isinstance(source, str) for source in fields[name] or ())
  ]
  problems += [
    f"{name}={value} is negative"  # Another's config.json has no ranges here.
    for name, value in fields.items()
    if name.startswith("teacher.architecture.")
    and isinstance(value, int | float)
    and value < 0
  ]
  if not problems:  # Comparing values makes sense only where each is valid.
    train, d = config.train, config.data
    problems += invalid_changes(train.changes, train.num_steps, RANGES)
    if not problems and d.seq_len > config.student.max_positions:
      problems.append(
        f"data.seq_len={d.seq_len} is longer than the student's position "
        f"table, student.max_positions={config.student.max_positions}"
      )
    problems += problems_of_hidden(config)
    problems += _problems_of_cache(config)
  return problems


def _problems_of_cache(config: ConfigDict) -> list[str]:
  """Returns a phrase for each mistake in how a teacher's cache is used."""
  t, problems = config.teacher, []
  problems += [
    f"teacher.{name}={t[name]!r} has no effect without teacher.cache; name a "
    "folder there, or leave it out"
    for name in ("cache_gb", "cache_dtype")
    if t[name] and not t.cache
  ]
  if t.cache_dtype == "float32" and t.dtype == "bfloat16":
    problems.append(
      "teacher.cache_dtype='float32' keeps no more than teacher.dtype="
      "'bfloat16' computes; leave it empty"
    )
  if t.cache and config.train.parallel == "pmap":
    problems.append("teacher.cache needs train.parallel='jit', not 'pmap'")
  return problems


def missing_fields(
  tree: dict[str, Any], expected: ConfigDict | None = None
) -> list[str]:
  """Returns the names of fields that a config lacks.

  Args:
    tree: the config, as a dict.
    expected: has all fields; by default `default_config`.
  """
  present = dict(flatten(tree))
  known = flatten((expected or default_config()).to_dict())
  return [name for name, _ in known if name not in present]
