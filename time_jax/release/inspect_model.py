"""`inspect`: describes a checkpoint, and finds what would stop a run on it."""

import collections
import contextlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers

from time_jax.catalog.teachers import Recommendation, recommended
from time_jax.config.distill import STUDENT_SIZES, default_config
from time_jax.core.display import byte_size
from time_jax.core.errors import EXIT_BAD_INPUT, UserError
from time_jax.core.storage import json_file
from time_jax.core.storage.paths import Path
from time_jax.hf import files, load, tokenizer
from time_jax.hf.weights import Weights

_ON_DEVICE = {"bfloat16": 2, "float32": 4}  # bytes of a number
_KINDS_SHOWN = 4
_BAD_SHOWN = 3  # tensors with numbers that are not finite


def inspect_model(
  name: str, *, layer: int | None, size: str, allow_pickle: bool
) -> int:
  """Prints what a model folder holds, and what is wrong with it.

  It reads the JSON files, the headers of the weights, the tokenizer and, in
  search of numbers that are not finite, the tensors that a run would read.

  Args:
    name: a folder, package or hub id, see `files.resolve`.
    layer: the layer to distil, 1-based; by default the recommended one, else
      the last.
    size: size of the student, a key of `STUDENT_SIZES`.
    allow_pickle: see `weight_files.find_weights`.

  Returns:
    0, or EXIT_BAD_INPUT if something would stop a run.

  Raises:
    UserError: there is no such model, or no such size.
  """
  if size not in STUDENT_SIZES:
    raise UserError(f"unknown {size=}; known: {', '.join(STUDENT_SIZES)}.")
  folder, advice = files.resolve(name, allow_pickle), recommended(name)
  problems: list[str] = []
  _row("model", str(folder))
  config: Any = None
  with _collecting(problems):
    config = _print_config(folder)
    layer = layer or (advice.layer if advice else config.num_layers)
  with _collecting(problems), Weights(folder, allow_pickle) as weights:
    _print_files(weights)
    if config:
      needed = load.check_teacher(folder, (layer,), allow_pickle=allow_pickle)
      _print_tensors(weights, needed, layer, config.num_layers)
      _check_finite(weights, needed, problems)
  if config:
    _print_widths(config.widths, size, advice)
    with _collecting(problems):
      _print_tokenizer(folder, config.vocab_size, problems)
  for problem in problems:
    print(f"PROBLEM: {problem}")
  if problems:
    print(f"{len(problems)} problem(s).")
    return EXIT_BAD_INPUT
  fields = {"path": name, "layer": layer, "allow_pickle": allow_pickle}
  flags = [f"--config.teacher.{k}={v}" for k, v in fields.items() if v]
  print(f"Usable as a teacher: {' '.join(flags)}")
  return 0


@contextlib.contextmanager
def _collecting(problems: list[str]) -> Iterator[None]:
  """Adds a UserError to the problems instead of ending the inspection."""
  try:
    yield
  except UserError as error:
    problems.append(str(error))


def _row(title: str, text: str) -> None:
  print(f"{title:<15} {text}")


def _print_config(folder: Path) -> Any:
  family, config = load.read_config(folder)
  content = files.model_config(folder)
  kind = content.get("model_type") or content["architectures"][0]
  reader = family.encoder.__module__.rpartition(".")[2]
  _row("family", f"{kind} (time_jax/models/{reader}.py)")
  heads = config.widths["query"] // config.head_dim
  _row(
    "layers",
    f"{config.num_layers}, hidden size {config.hidden_size}, "
    f"{heads} heads of {config.head_dim}",
  )
  _row("vocabulary", f"{config.vocab_size:,} rows")
  _row("positions", str(config.max_positions or "any number"))
  return config


def _print_files(weights: Weights) -> None:
  names = [path.name for path in weights.files.paths]
  more = f" and {len(names) - 1} more" if len(names) > 1 else ""
  pickles = " (pickle)" if names[0].endswith(".bin") else ""
  if weights.files.ignored_index:
    more = f" (not {weights.files.ignored_index}, which lies beside it)"
  size = sum(path.stat().st_size for path in weights.files.paths)
  dtypes = collections.Counter(weights.info(name).dtype for name in weights)
  counts = ", ".join(f"{n} {dtype}" for dtype, n in dtypes.most_common())
  _row("files", f"{names[0]}{more}{pickles}, {byte_size(size)}")
  _row("tensors", counts)


def _print_tensors(
  weights: Weights, needed: Sequence[str], layer: int, num_layers: int
) -> None:
  _row("distilled", f"layer {layer} of {num_layers}")
  numbers = sum(math.prod(weights.shape(name)) for name in needed)
  sizes = [f"{byte_size(numbers * n)} in {d}" for d, n in _ON_DEVICE.items()]
  _row("kept", f"{len(needed)} tensors: {', '.join(sizes)}")
  used = {weights.stored_as(name) for name in needed}
  dropped = sorted({weights.stored_as(name) for name in weights} - used)
  size = sum(weights.info(name).bytes for name in dropped)
  # encoder.layer.11.output.dense.weight -> encoder.layer.*
  kinds = collections.Counter(
    re.sub(r"\.\d+\..*", ".*", name) for name in dropped
  ).most_common()
  shown = [f"{kind} ({n})" if n > 1 else kind for kind, n in kinds]
  if len(shown) > _KINDS_SHOWN:
    shown = [*shown[: _KINDS_SHOWN - 1], "..."]
  named = f": {', '.join(shown)}" if shown else ""
  _row(
    "dropped", f"{len(dropped)} tensors, {byte_size(size)} in the files{named}"
  )


def _check_finite(
  weights: Weights, needed: Sequence[str], problems: list[str]
) -> None:
  """Reads the tensors that a run would read, in about a second a gigabyte."""
  bad = {}
  for name in needed:
    chunks = (chunk for _, chunk in weights.chunks(name))
    if count := sum(int((~np.isfinite(chunk)).sum()) for chunk in chunks):
      bad[name] = count
  _row("finite", "no" if bad else f"all {len(needed)} tensors that are kept")
  for name, count in [*bad.items()][:_BAD_SHOWN]:
    problems.append(
      f"{weights.folder}: {name} holds {count:,} of "
      f"{math.prod(weights.shape(name)):,} numbers that are NaN or infinite; "
      "expected finite weights: download it again, or ask its authors."
    )
  if len(bad) > _BAD_SHOWN:
    problems.append(
      f"{weights.folder}: {len(bad) - _BAD_SHOWN} more tensors hold NaN or "
      "infinite numbers."
    )


def _print_widths(
  widths: dict[str, int], size: str, advice: Recommendation | None
) -> None:
  _row("projections", ", ".join(f"{k} {width}" for k, width in widths.items()))
  recipe = default_config().relations.num_heads
  usual = advice.relation_heads if advice else recipe
  for name in sorted(STUDENT_SIZES, key=lambda name: name != size):
    hidden = STUDENT_SIZES[name]["hidden_size"]
    common = math.gcd(hidden, *widths.values())
    fitting = [r for r in range(1, common + 1) if common % r == 0]
    misfit = "" if usual in fitting else f" ({usual} does not fit)"
    shown = ", ".join(map(str, fitting))
    _row(f"R for size {name}", f"{shown}{misfit}")


def _print_tokenizer(folder: Path, num_rows: int, problems: list[str]) -> None:
  backend = tokenizers.Tokenizer.from_str(
    tokenizer.load_tokenizer(folder, num_rows).backend
  )
  content = json.loads(backend.to_str())
  kind = type(backend.model).__name__
  if "ByteLevel" in json.dumps(content["pre_tokenizer"]):
    kind = f"byte-level {kind}"
  elif content["model"].get("byte_fallback"):
    kind = f"{kind} with bytes for what is unknown"
  entries = backend.get_vocab_size()
  _row("tokenizer", f"{kind}, {entries:,} entries for {num_rows:,} rows")
  ids = tokenizer.special_ids(folder, num_rows)
  shown = [f"{name.partition('_')[0]} {i}" for name, i in ids.items()]
  _row("special ids", ", ".join(shown))
  config = json_file.read_json(folder / "config.json")
  for name, token_id in ids.items():
    configured = config.get(name)
    accepted = configured if isinstance(configured, list) else [configured]
    if configured is not None and token_id not in accepted:
      problems.append(
        f"{folder}/config.json has {name}={configured}, its tokenizer "
        f"{token_id} ({backend.id_to_token(token_id)!r}); expected the same: "
        "correct the wrong one."
      )
