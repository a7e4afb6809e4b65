"""What can be looked at in a Hugging Face folder, one function a thing.

Each takes the opened folder and says what it found; RunError or UserError if
that is wrong, NotCheckedError if it cannot be known.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np
import tokenizers

from time_jax.core.arrays import Batch
from time_jax.core.errors import RunError, UserError
from time_jax.hf import files, load, save, tokenizer, torch_encoder
from time_jax.hf.weights import Weights
from time_jax.models.family import abstract_params
from time_jax.parallel import sharding
from time_jax.release import card, fingerprint
from time_jax.run import saved_student

RECORD = "time_jax.json"
TOLERANCE = 1e-5  # of hidden states in float32, of their largest value above 1
# A fingerprint may have been made on another machine.
_FAR = 1e-4


class NotCheckedError(Exception):
  """Says why something cannot be checked."""


def read_record(folder: pathlib.Path) -> dict[str, Any] | None:
  """What an export of ours says of itself; None of any other folder."""
  path = folder / RECORD
  if not path.exists():
    return None
  record = files.read_json(path)
  lacking = {"step", "files", "fingerprint"} - set(record)
  if lacking:
    raise UserError(
      f"{path} lacks {', '.join(sorted(lacking))}; it is of an earlier version "
      "of time_jax, or damaged: export again."
    )
  return record


class Opened:
  """A folder, each part of it read once."""

  def __init__(
    self,
    folder: pathlib.Path,
    against: saved_student.Student | None,
    allow_pickle: bool,
  ) -> None:
    self.folder = folder
    self.against = against
    self._allow_pickle = allow_pickle

  @functools.cached_property
  def record(self) -> dict[str, Any] | None:
    """See `read_record`."""
    return read_record(self.folder)

  @functools.cached_property
  def config(self) -> dict[str, Any]:
    """Content of config.json."""
    return files.model_config(self.folder)

  @functools.cached_property
  def shape(self) -> Any:
    """Frozen config of the family."""
    return load.read_config(self.folder)[1]

  @functools.cached_property
  def tokenizer(self) -> Any:
    """As transformers opens it."""
    if not tokenizer.has_tokenizer(self.folder):
      raise NotCheckedError("there is no tokenizer in the folder")
    return tokenizer.open_tokenizer(self.folder)

  @functools.cached_property
  def loaded(self) -> tuple[Any, Any]:
    """Encoder and parameters, float32."""
    return load.load_encoder(
      self.folder,
      dtype=jnp.dtype("float32"),
      mesh=sharding.make_mesh(),
      allow_pickle=self._allow_pickle,
    )

  def weights(self) -> Weights:
    """The tensors; to be used with `with`."""
    return Weights(self.folder, self._allow_pickle)

  @functools.cached_property
  def torch(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The encoder in PyTorch."""
    if not torch_encoder.installed():
      raise NotCheckedError("torch is not installed")
    if not torch_encoder.knows(self.config):
      raise NotCheckedError("transformers has no such class")
    return torch_encoder.load_torch(
      self.folder, strict=bool(self.record), allow_pickle=self._allow_pickle
    )

  @functools.cached_property
  def shown(self) -> fingerprint.Probe:
    """The record's own rows where there is one, else fresh ones."""
    pad_id = self.config.get("pad_token_id")
    # Rows are as right with any id where nothing is looked at.
    if type(pad_id) is not int or not 0 <= pad_id < self.shape.vocab_size:
      pad_id = 0
    if self.record:
      return fingerprint.from_json(self.record["fingerprint"], pad_id)[0]
    tokenize = None
    if tokenizer.has_tokenizer(self.folder):
      tokenize = functools.partial(_ids, self.tokenizer)
    return fingerprint.make_probe(
      vocab_size=self.shape.vocab_size,
      longest=min(self.shape.max_positions or 512, 512),
      pad_id=pad_id,
      tokenize=tokenize,
    )

  @functools.cached_property
  def batch(self) -> Batch:
    """The rows of `shown`, padded."""
    return self.shown.batch()

  @functools.cached_property
  def states(self) -> np.ndarray:
    """What JAX makes of `batch`."""
    encoder, params = self.loaded
    return fingerprint.hidden_states(encoder, params, self.batch)


def _ids(tokenizer: Any, text: str) -> list[int]:
  return tokenizer(text)["input_ids"]


def _files(opened: Opened) -> str:
  record = opened.record
  if record is None:
    raise NotCheckedError(
      f"no {RECORD}: not an export of time_jax, so that weights which load but "
      "are wrong, and a wrong tokenizer of the right size, pass unseen"
    )
  wrong = []
  for name, known in record["files"].items():
    path = opened.folder / name
    if not path.exists():
      if not name.startswith("onnx/"):  # Not every download has them.
        wrong.append(f"{name} is missing")
    elif files.sha256(path) != known["sha256"]:
      wrong.append(f"{name} was changed after the export")
  if wrong:
    raise RunError("; ".join(wrong))
  return f"{len(record['files'])} files as exported (SHA-256)"


def _config(opened: Opened) -> str:
  shape, config = opened.shape, opened.config
  ids = {k: v for k, v in config.items() if k.endswith("_token_id")}
  past = {
    name: number
    for name, number in ids.items()
    if isinstance(number, int) and not 0 <= number < shape.vocab_size
  }
  if past:
    raise RunError(
      f"ids outside the table of {shape.vocab_size} rows: {_said(past)}"
    )
  if not tokenizer.has_tokenizer(opened.folder):
    raise NotCheckedError("ids: there is no tokenizer to compare with")
  theirs = tokenizer.special_ids(opened.folder, shape.vocab_size)
  # Ours say all; others may keep ids to themselves.
  ours = opened.record or opened.against
  wanted = {n: v for n, v in theirs.items() if n in ids or ours}
  other = {n: ids.get(n) for n, v in wanted.items() if ids.get(n) != v}
  if other:
    expected = {name: wanted[name] for name in other}
    raise RunError(f"{_said(other)}; the tokenizer has {_said(expected)}")
  if opened.record:
    _check_own_config(opened)
  return f"{_said(wanted)}; {shape.max_positions} positions"


def _check_own_config(opened: Opened) -> None:
  longest = opened.tokenizer.model_max_length
  if longest != opened.shape.max_positions:
    raise RunError(
      f"the tokenizer's model_max_length={longest}, the position table has "
      f"{opened.shape.max_positions}"
    )
  with opened.weights() as weights:
    dtypes = {weights.info(name).dtype for name in weights}
  if dtypes != {opened.config.get("dtype")}:
    raise RunError(
      f"dtype={opened.config.get('dtype')!r}, the weights are "
      f"{', '.join(sorted(dtypes))}"
    )


def _said(values: Mapping[str, Any]) -> str:
  return ", ".join(f"{name}={value}" for name, value in values.items())


def _tensors(opened: Opened) -> str:
  family, config = load.read_config(opened.folder)
  encoder = family.encoder(config, config.num_layers, "float32")
  shapes: Any = flax.traverse_util.flatten_dict(
    flax.linen.meta.unbox(abstract_params(encoder))
  )
  known = {
    prefix + name
    for path, leaf in shapes.items()
    for name in family.names.names(path, leaf.shape, config.num_layers)
    for prefix in family.names.prefixes
  }
  _ = opened.loaded  # Says what is missing, or of another shape.
  with opened.weights() as weights:
    more = sorted(set(weights) - known)
    count = len(list(weights))
  if opened.record and more:
    raise RunError(f"unexpected tensors: {', '.join(more)}")
  ignored = f", {len(more)} of them not the encoder's" if more else ""
  return f"none missing, all of the right shape; {count} there{ignored}"


def _in_jax(opened: Opened) -> str:
  real = opened.states[:, np.asarray(opened.batch.segment_ids) > 0]
  if not np.isfinite(real).all():
    raise RunError("hidden states are not finite")
  count = opened.states.shape[0]
  return f"loads; {count} hidden states, all finite"


def _fingerprint(opened: Opened) -> str:
  if opened.record is None:
    raise NotCheckedError(f"no {RECORD} to say what the weights should give")
  _, known = fingerprint.from_json(opened.record["fingerprint"], 0)
  found = fingerprint.fingerprint(opened.shown, opened.states)
  if known.shape != found.shape:
    raise RunError(f"{found.shape} numbers, {known.shape} when exported")
  return f"{_equal(known, found, _FAR)} to the checkpoint's"


def _against(opened: Opened) -> str:
  if opened.against is None:
    raise NotCheckedError("no run given (--against=WORKDIR)")
  with opened.weights() as weights:
    dtype = weights.info(next(iter(weights))).dtype
    student = opened.against
    offset = opened.shape.position_offset
    wanted = save.bert_tensors(student.config, student.params, offset, dtype)
    names = sorted(set(wanted) | set(weights))
    other = [
      name
      for name in names
      if name not in wanted
      or name not in weights
      or not np.array_equal(wanted[name], weights.read(name))
    ]
  if other:
    raise RunError(
      f"{len(other)} of {len(names)} tensors are not those of step "
      f"{student.step}, such as {other[0]}"
    )
  return f"all {len(names)} tensors are those of step {student.step}"


def _in_torch(opened: Opened, of_texts: bool) -> str:
  count = len(opened.shown.texts)
  chosen = slice(0, count) if of_texts else slice(count, None)
  if of_texts and not count:
    raise NotCheckedError("there is no tokenizer in the folder")
  expected = opened.states[:, chosen]
  real = np.asarray(opened.batch.segment_ids)[chosen] > 0
  run = opened.torch
  tokens = np.asarray(opened.batch.tokens)[chosen]
  longest = real.sum(1).max()
  together = run(tokens[:, :longest], real[:, :longest])
  there = real[:, :longest]
  found = _equal(
    expected[:, :, :longest][:, there], together[:, there], TOLERANCE
  )
  for row, length in enumerate(real.sum(1)):
    alone = run(tokens[row : row + 1, :length], real[row : row + 1, :length])
    _equal(expected[:, row, :length], alone[:, 0], TOLERANCE)
  lengths = sorted(set(real.sum(1).tolist()))
  return f"{found}; lengths {', '.join(map(str, lengths))}, padded and alone"


def _random_in_torch(opened: Opened) -> str:
  return _in_torch(opened, of_texts=False)


def _text_in_torch(opened: Opened) -> str:
  return _in_torch(opened, of_texts=True)


def _equal(expected: np.ndarray, found: np.ndarray, tolerance: float) -> str:
  """Says how equal two arrays are; RunError if they are not."""
  difference = float(np.abs(expected - found).max())
  # Beyond 1, float32 has no more than so many digits.
  largest = float(np.abs(expected).max())
  allowed = tolerance * max(1.0, largest)
  if not difference <= allowed:
    raise RunError(
      f"hidden states differ by {difference:.2e}, expected at most "
      f"{allowed:.1e} (the largest is {largest:.1f})"
    )
  return f"hidden states equal within {difference:.1e}"


def _tokens(opened: Opened) -> str:
  """Ids as transformers gives them, against the file and the record."""
  theirs, rows = opened.tokenizer, opened.shape.vocab_size
  texts = opened.shown.texts or fingerprint.TEXTS
  ids = [_ids(theirs, text) for text in texts]
  highest = max((max(row) for row in ids if row), default=0)
  if highest >= rows or len(theirs) > rows:
    raise RunError(
      f"{len(theirs)} tokens, ids up to {highest}; the table has {rows} rows: "
      "it is of another model"
    )
  path = opened.folder / "tokenizer.json"
  if path.exists():
    backend = tokenizers.Tokenizer.from_file(str(path))
    backend.no_padding()
    backend.no_truncation()
    for text, row in zip(texts, ids, strict=True):
      if backend.encode(text).ids != row:
        raise RunError(f"transformers reads tokenizer.json otherwise: {text!r}")
  if opened.record:
    known = opened.shown.rows
    for text, row, was in zip(texts, ids, known, strict=False):
      if tuple(row[: opened.shape.max_positions]) != was:
        raise RunError(f"other tokens than when exported, of {text!r}")
  _check_words(opened)
  # None may: a tokenizer of one language need not know these scripts.
  back = tokenizer.coming_back(theirs, texts)
  known = (opened.record or {}).get("fingerprint", {}).get("coming_back", [])
  if lost := [text for text in known if text not in back]:
    raise RunError(f"no longer comes back from its ids: {lost[0]!r}")
  return (
    f"{len(theirs)} tokens for {rows} rows; {len(back)} of {len(texts)} texts "
    "come back from their ids"
  )


def _check_words(opened: Opened) -> None:
  """RunError where the words are not those of the record or of the run."""
  rows = opened.shape.vocab_size
  known = []
  if opened.record:
    known.append(("exported", opened.record["fingerprint"].get("words")))
  if opened.against:
    known.append(("trained", opened.against.words))
  if any(hash_ for _, hash_ in known):
    found = tokenizer.words_sha256(opened.folder, rows)
    for when, hash_ in known:
      if hash_ and hash_ != found:
        raise RunError(f"another vocabulary than it was {when} with")


def _card(opened: Opened) -> str:
  path = opened.folder / "README.md"
  if opened.record is None:
    there = "there" if path.exists() else "missing"
    raise NotCheckedError(f"README.md is {there}; only ours are checked")
  if not path.exists():
    raise RunError("README.md is missing")
  if problems := card.problems(path.read_text(encoding="utf-8")):
    raise RunError("; ".join(problems))
  return "complete"


# Name, function, and the checks without which it makes no sense.
CHECKS: tuple[tuple[str, Callable[[Opened], str], tuple[str, ...]], ...] = (
  ("files", _files, ()),
  ("config", _config, ()),
  ("tensors", _tensors, ()),
  ("tokenizer", _tokens, ()),
  ("JAX", _in_jax, ("tensors",)),
  ("fingerprint", _fingerprint, ("JAX",)),
  ("checkpoint", _against, ("tensors",)),
  ("PyTorch, random tokens", _random_in_torch, ("JAX",)),
  ("PyTorch, text", _text_in_torch, ("JAX",)),
  ("model card", _card, ()),
)
