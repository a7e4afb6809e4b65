"""The checks of `verify`, one function each.

A check takes the opened folder and returns its finding in words. It raises
RunError or UserError if the folder is wrong, and NotCheckedError if there is
nothing to compare with.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax
import numpy as np
import tokenizers

from time_jax.core.errors import RunError
from time_jax.hf import files, load, save, task_classes, tokenizer
from time_jax.hf.torch_encoder import Encode
from time_jax.release import card, probe, task_card
from time_jax.release.model_folder import ModelFolder, NotCheckedError
from time_jax.release.record import RECORD

# Of hidden states in float32, relative to the largest one if that exceeds 1.
TOLERANCE = 1e-5
# A fingerprint may have been made on another machine.
_FINGERPRINT_TOLERANCE = 1e-4


def check_files(folder: ModelFolder) -> str:
  """Compares the files with the hashes in the record."""
  if folder.record is None:
    raise NotCheckedError(
      f"no {RECORD}: not an export of time_jax, so that weights which load but "
      "are wrong, and a wrong tokenizer of the right size, pass unseen"
    )
  exported, problems = folder.record["files"], []
  for name, known in exported.items():
    path = folder.path / name
    if not path.exists():
      if not name.startswith("onnx/"):  # Not every download has them.
        problems.append(f"{name} is missing")
    elif files.sha256(path) != known["sha256"]:
      problems.append(f"{name} was changed after the export")
  if problems:
    raise RunError("; ".join(problems))
  return f"{len(exported)} files as exported (SHA-256)"


def check_config(folder: ModelFolder) -> str:
  """Compares the special ids of config.json with the tokenizer's."""
  vocab_size = folder.config.vocab_size
  ids = {k: v for k, v in folder.hf_config.items() if k.endswith("_token_id")}
  past = {
    name: number
    for name, number in ids.items()
    if isinstance(number, int) and not 0 <= number < vocab_size
  }
  if past:
    raise RunError(f"ids outside the table of {vocab_size} rows: {_list(past)}")
  if not tokenizer.has_tokenizer(folder.path):
    raise NotCheckedError("ids: there is no tokenizer to compare with")
  special = tokenizer.special_ids(folder.path, vocab_size)
  # Students' say all; other people's configs may leave ids out.
  ours = "student" in (folder.record or {}) or folder.student
  expected = {n: i for n, i in special.items() if n in ids or ours}
  wrong = {n: ids.get(n) for n, i in expected.items() if ids.get(n) != i}
  if wrong:
    right = {name: expected[name] for name in wrong}
    raise RunError(f"{_list(wrong)}; the tokenizer has {_list(right)}")
  if folder.record:
    _check_own_config(folder)
  return f"{_list(expected)}; {folder.config.max_positions} positions"


def _check_own_config(folder: ModelFolder) -> None:
  longest = folder.tokenizer.model_max_length
  positions = folder.config.max_positions
  if folder.is_fine_tuned:  # `finetune` takes no longer rows.
    positions = min(positions or probe.LONGEST, probe.LONGEST)
  if longest != positions:
    raise RunError(
      f"the tokenizer's model_max_length={longest}, the position table has "
      f"{positions}"
    )
  with folder.weights() as weights:
    dtypes = {weights.info(name).dtype for name in weights}
  if dtypes != {folder.hf_config.get("dtype")}:
    raise RunError(
      f"dtype={folder.hf_config.get('dtype')!r}, the weights are "
      f"{', '.join(sorted(dtypes))}"
    )


def _list(values: Mapping[str, Any]) -> str:
  return ", ".join(f"{name}={value}" for name, value in values.items())


def check_tensors(folder: ModelFolder) -> str:
  """Compares the tensors with those that the encoder has."""
  # Raises if a tensor is missing or of another shape.
  encoder, params = folder.encoder
  leaves: Any = flax.traverse_util.flatten_dict(params)
  table = load.read_config(folder.path)[0].names
  known = {
    prefix + name
    for path, leaf in leaves.items()
    for name in table.names(path, leaf.shape, encoder.num_layers)
    for prefix in table.prefixes
  }
  with folder.weights() as weights:
    names = set(weights)
    if folder.task_class:
      task_classes.read_head(weights, folder.hf_config)  # Raises likewise.
      known |= {*task_classes.head_names(folder.task_class)}
  others = sorted(names - known)
  if folder.record and others:
    raise RunError(f"unexpected tensors: {', '.join(others)}")
  ignored = f", {len(others)} of them not the encoder's" if others else ""
  return f"none missing, all of the right shape; {len(names)} there{ignored}"


def check_tokenizer(folder: ModelFolder) -> str:
  """Compares transformers' ids with tokenizer.json's and the record's."""
  opened, rows = folder.tokenizer, folder.config.vocab_size
  texts = folder.probe.texts or probe.TEXTS
  ids = [folder.token_ids(text) for text in texts]
  highest = max((max(row) for row in ids if row), default=0)
  if highest >= rows or len(opened) > rows:
    raise RunError(
      f"{len(opened)} tokens, ids up to {highest}; the table has {rows} rows: "
      "it belongs to another model"
    )
  path = folder.path / "tokenizer.json"
  if path.exists():
    backend = tokenizers.Tokenizer.from_file(str(path))
    backend.no_padding()
    backend.no_truncation()
    for text, row in zip(texts, ids, strict=True):
      if backend.encode(text).ids != row:
        raise RunError(f"transformers reads tokenizer.json otherwise: {text!r}")
  recorded = folder.probe.rows if folder.fingerprint else ()
  for text, row, then in zip(texts, ids, recorded, strict=False):
    if tuple(row[: folder.config.max_positions]) != then:
      raise RunError(f"other tokens than when exported, of {text!r}")
  _check_vocabulary(folder)
  # None may: a tokenizer of one language need not know these scripts.
  back = tokenizer.round_trips(opened, texts)
  known = folder.fingerprint.get("coming_back", [])
  if lost := [text for text in known if text not in back]:
    raise RunError(f"no longer comes back from its ids: {lost[0]!r}")
  return (
    f"{len(opened)} tokens for {rows} rows; {len(back)} of {len(texts)} texts "
    "come back from their ids"
  )


def _check_vocabulary(folder: ModelFolder) -> None:
  """Raises RunError if the vocabulary is not that of the record or the run."""
  known = {
    "exported": folder.fingerprint.get("words"),
    "trained": folder.student.words if folder.student else "",
  }
  for when, expected in known.items():
    if expected and expected != tokenizer.vocabulary_sha256(
      folder.path, folder.config.vocab_size
    ):
      raise RunError(f"another vocabulary than it was {when} with")


def check_jax(folder: ModelFolder) -> str:
  """Runs the encoder in JAX."""
  real = folder.states[:, np.asarray(folder.batch.segment_ids) > 0]
  if not np.isfinite(real).all():
    raise RunError("hidden states are not finite")
  return f"loads; {len(folder.states)} hidden states, all finite"


def check_fingerprint(folder: ModelFolder) -> str:
  """Compares JAX's hidden states with those of the checkpoint."""
  if not folder.fingerprint:
    raise NotCheckedError("no fingerprint says what the weights should give")
  _, known = probe.from_json(folder.fingerprint, 0)
  numbers = folder.probe.fingerprint(folder.states)
  if known.shape != numbers.shape:
    raise RunError(f"{numbers.shape} numbers, {known.shape} when exported")
  equal = _check_equal(known, numbers, _FINGERPRINT_TOLERANCE)
  return f"{equal} to the checkpoint's"


def check_against_run(folder: ModelFolder) -> str:
  """Compares the tensors with those of a run's checkpoint."""
  student = folder.student
  if student is None:
    raise NotCheckedError("no run given (--against=WORKDIR)")
  if folder.is_fine_tuned:
    raise NotCheckedError("fine-tuning has changed the run's weights")
  with folder.weights() as weights:
    dtype = weights.info(next(iter(weights))).dtype
    offset = folder.config.position_offset
    expected = save.bert_tensors(student.config, student.params, offset, dtype)
    names = sorted({*expected, *weights})
    wrong = [
      name
      for name in names
      if name not in expected
      or name not in weights
      or not np.array_equal(expected[name], weights.read(name))
    ]
  if wrong:
    raise RunError(
      f"{len(wrong)} of {len(names)} tensors are not those of step "
      f"{student.step}, such as {wrong[0]}"
    )
  return f"all {len(names)} tensors are those of step {student.step}"


def check_torch(folder: ModelFolder, of_texts: bool) -> str:
  """Compares PyTorch with JAX on rows of the probe, padded and one by one.

  Args:
    folder: the opened folder.
    of_texts: whether the rows are texts or random tokens.
  """
  rows = _Rows(folder, of_texts)
  run = folder.torch
  equal = rows.compare(folder.states, run, "hidden states")
  return f"{equal}; lengths {rows.listed}, padded and alone"


def check_logits(folder: ModelFolder) -> str:
  """Compares the logits of every token in PyTorch with those in JAX."""
  found = []
  for of_texts in (True, False) if folder.probe.texts else (False,):
    rows = _Rows(folder, of_texts)

    def run(*inputs: Any) -> np.ndarray:
      return folder.torch_with_head(*inputs)[None]

    equal = rows.compare(folder.logits[None], run, "logits")
    found.append(f"{'texts' if of_texts else 'random tokens'}: {equal}")
  return "; ".join(found)


class _Rows:
  """Rows of a folder's probe: its texts, or its random tokens."""

  def __init__(self, folder: ModelFolder, of_texts: bool) -> None:
    num_texts = len(folder.probe.texts)
    if of_texts and not num_texts:
      raise NotCheckedError("there is no tokenizer in the folder")
    self._rows = slice(num_texts) if of_texts else slice(num_texts, None)
    segments = np.asarray(folder.batch.segment_ids)[self._rows]
    self._lengths = (segments > 0).sum(1)
    longest = self._lengths.max()  # of these rows; others may be longer
    self._real = np.arange(longest) < self._lengths[:, None]
    self._tokens = np.asarray(folder.batch.tokens)[self._rows, :longest]
    types = folder.types
    self._types = None if types is None else types[self._rows, :longest]

  @property
  def listed(self) -> str:
    """The lengths, in words."""
    return ", ".join(map(str, sorted(set(self._lengths.tolist()))))

  def compare(
    self,
    expected: np.ndarray,
    run: Encode,
    what: str,
  ) -> str:
    """Compares what is computed, padded and row by row.

    Args:
      expected: (N, B, T, D), for all rows of the probe.
      run: computes the same; see `torch_encoder.Encode`.
      what: what it is, in words.
    """
    expected = expected[:, self._rows, : self._real.shape[1]]
    padded = run(self._tokens, self._real, self._types)[:, self._real]
    equal = _check_equal(expected[:, self._real], padded, TOLERANCE, what)
    for row, length in enumerate(self._lengths):
      own = np.s_[row : row + 1, :length]
      types = None if self._types is None else self._types[own]
      alone = run(self._tokens[own], self._real[own], types)[:, 0]
      _check_equal(expected[:, row, :length], alone, TOLERANCE, what)
    return equal


def _check_equal(
  expected: np.ndarray,
  actual: np.ndarray,
  tolerance: float,
  what: str = "hidden states",
) -> str:
  """Says how close two arrays are; raises RunError if not close enough."""
  difference = float(np.abs(expected - actual).max())
  # The error of float32 grows with the size of the numbers.
  largest = float(np.abs(expected).max())
  allowed = tolerance * max(1.0, largest)
  if not difference <= allowed:
    raise RunError(
      f"{what} differ by {difference:.2e}, expected at most "
      f"{allowed:.1e} (the largest is {largest:.1f})"
    )
  return f"{what} equal within {difference:.1e}"


def check_card(folder: ModelFolder) -> str:
  """Checks that README.md is a complete card."""
  path = folder.path / "README.md"
  if folder.record is None and not folder.is_fine_tuned:
    there = "there" if path.exists() else "missing"
    raise NotCheckedError(f"README.md is {there}; only ours are checked")
  if not path.exists():
    raise RunError("README.md is missing")
  lacking = task_card.problems if folder.is_fine_tuned else card.problems
  if problems := lacking(path.read_text(encoding="utf-8")):
    raise RunError("; ".join(problems))
  return "complete"


class Check(NamedTuple):
  """A check and its place among the others.

  Attributes:
    name: what users see.
    run: checks the folder, and returns what it found.
    needs: name of the check that must pass before; "" for none.
    of_heads: whether only a model with a head is checked.
  """

  name: str
  run: Callable[[ModelFolder], str]
  needs: str = ""
  of_heads: bool = False


CARD = Check("model card", check_card)
CHECKS = (
  Check("files", check_files),
  Check("config", check_config),
  Check("tensors", check_tensors),
  Check("tokenizer", check_tokenizer),
  Check("JAX", check_jax, "tensors"),
  Check("fingerprint", check_fingerprint, "JAX"),
  Check("checkpoint", check_against_run, "tensors"),
  Check("PyTorch, random tokens", partial(check_torch, of_texts=False), "JAX"),
  Check("PyTorch, text", partial(check_torch, of_texts=True), "JAX"),
  Check("PyTorch, logits", check_logits, "JAX", of_heads=True),
  CARD,
)
