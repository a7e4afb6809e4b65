"""Identifies a model by a hash of what it computes with, not of its files.

A checkpoint, its float32 export as either class, and the import of that export
have one identity. An export in bfloat16 holds other numbers, so it has an
identity of its own, which it shares with its import.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax
import jax
import numpy as np

from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.hf import save, tokenizer, weight_files
from time_jax.models.bert import NAMES, BertConfig
from time_jax.models.family import Params, Path
from time_jax.parallel import sharding

# Under this key the record of a fine-tuned model holds the identity.
KEY = "model (SHA-256)"
# What shapes the function; dropout and the like only shape training.
_SIZES = (
  *("vocab_size", "hidden_size", "num_layers", "num_heads"),
  *("intermediate_size", "max_positions", "activation"),
)
TOKEN_TYPES = 2  # rows of a student's table
# Two tokenizers with one vocabulary may still cut a text in different ways, so
# the ids of these texts are hashed too. They must never change.
_TEXTS = (
  "Small is fast, isn't it?  HE SAID: 1,234.50 €",
  "Ærøskøbing, Győr, Dún na nGall: naïve façades",
  "今日は良い天気です。 नमस्ते दुनिया، مرحبا بالعالم 👍🏽",
  "한국어 ﬁn ① e\u0301 <s> [MASK]\tx\n",
)


@dataclasses.dataclass(frozen=True)
class Identity:
  """Which model something is.

  Attributes:
    value: SHA-256 of its content.
    legacy: the hash by which earlier versions knew it; "" if there was none.
    legacy_is_unique: whether no other model could have had the hash `legacy`.
  """

  value: str
  legacy: str = ""
  legacy_is_unique: bool = True

  @property
  def known_before(self) -> str:
    """The legacy hash, or "" where other models may have had it too."""
    return self.legacy if self.legacy_is_unique else ""


def is_student(config: Any) -> bool:
  """Returns whether a model of this config has the architecture of students."""
  return (
    isinstance(config, BertConfig)
    and config.embedding_size in (None, config.hidden_size)
    and config.activation == "gelu"
  )


def of_student(config: BertConfig, arrays: str, tokenizer: str) -> str:
  """Returns the identity of a student.

  Args:
    config: the student's shape.
    arrays: hash of its parameters, see `arrays_sha256`.
    tokenizer: hash of its tokenizer, see `tokenizer_sha256`.
  """
  # Epsilon is computed with in float32, and some files hold it so rounded.
  epsilon = float(np.float32(config.layer_norm_eps))
  sizes = {name: getattr(config, name) for name in _SIZES}
  return _sha256(
    {
      "shape": sizes | {"layer_norm_eps": epsilon},
      "arrays": arrays,
      "tokenizer": tokenizer,
    }
  )


def of_folder(
  folder: pathlib.Path, config: Any, params: Params, allow_pickle: bool = False
) -> Identity:
  """Returns the identity of a model in the files of transformers.

  A model that could be a student is known by its content. Any other is known
  by its files, as no command of ours writes them in another form.

  Args:
    folder: the model's folder.
    config: the family's frozen config.
    params: as `hf.load.load_encoder` read them in float32, pooler included.
    allow_pickle: see `weight_files.find_weights`.
  """
  fingerprint = weight_files.fingerprint(folder, allow_pickle)
  of_tokenizer = tokenizer_sha256(folder, config.vocab_size)
  if is_student(config):
    arrays = arrays_sha256(config, params)
    return Identity(of_student(config, arrays, of_tokenizer), fingerprint)
  content = {"files": fingerprint, "tokenizer": of_tokenizer}
  return Identity(_sha256(content), fingerprint)


def of_random(
  hf_config: Mapping[str, Any], config: Any, folder: pathlib.Path
) -> Identity:
  """Returns the identity of weights that a seed is to draw.

  Args:
    hf_config: what config.json says or would say.
    config: the family's frozen config.
    folder: the tokenizer's folder.
  """
  content = {
    "random": dataclasses.asdict(config),
    "type": hf_config["model_type"],
    "tokenizer": tokenizer_sha256(folder, config.vocab_size),
  }
  return Identity(_sha256(content), _sha256({"random": hf_config}))


def tokenizer_sha256(folder: pathlib.Path, vocab_size: int) -> str:
  """Returns a hash of a folder's tokenizer, or "" where there is none."""
  if not tokenizer.has_tokenizer(folder):
    return ""
  return tokenizer.vocabulary_sha256(folder, vocab_size, _TEXTS)


def arrays_sha256(config: BertConfig, params: Params) -> str:
  """Returns a hash of a student's arrays, see `student_arrays`.

  Args:
    config: config of the model that the arrays are of, which may be any BERT.
    params: float32; all processes take part where they lie on several.
  """
  hashes = {}
  for path, array in student_arrays(config, params):
    tree = flax.traverse_util.unflatten_dict({path: array})
    for name, x in save.to_tensors(tree, NAMES, config.num_layers).items():
      hashes[name] = (str(x.dtype), x.shape, hashlib.sha256(x.data).hexdigest())
  return _sha256(hashes)


def student_arrays(
  config: BertConfig, params: Params
) -> Iterator[tuple[Path, np.ndarray]]:
  """Yields the arrays that a model has as a student, by their paths.

  A student has positions from row 0 on, `TOKEN_TYPES` token types and a pooler,
  which is never distilled but belongs to the files. What the model does not
  have is zero.

  Args:
    config: config of the model, which may be any BERT.
    params: float32; all processes take part where they lie on several.
  """
  flat: Any = dict(flax.traverse_util.flatten_dict(params))
  width = config.hidden_size
  flat.setdefault(("pooler", "kernel"), np.zeros((width, width), np.float32))
  flat.setdefault(("pooler", "bias"), np.zeros(width, np.float32))
  for path, leaf in sorted(flat.items()):
    array = _on_host(leaf)
    if path == ("embeddings", "position", "embedding"):
      array = array[config.position_offset :]
    if path == ("embeddings", "token_type", "embedding"):
      missing = max(0, TOKEN_TYPES - len(array))
      array = np.pad(array[:TOKEN_TYPES], ((0, missing), (0, 0)))
    yield path, array


def _on_host(leaf: Any) -> np.ndarray:
  whole = not isinstance(leaf, jax.Array) or (
    leaf.is_fully_addressable or leaf.is_fully_replicated
  )
  if not whole:
    leaf = sharding.replicate(leaf, leaf.sharding.mesh)
  return np.asarray(leaf, np.float32)


def _sha256(content: Any) -> str:
  return hashlib.sha256(
    json.dumps(content, sort_keys=True).encode()
  ).hexdigest()


def upgrade_record(
  record: Mapping[str, Any], model: Identity, place: pathlib.Path
) -> dict[str, Any]:
  """Returns a record with its model's identity in place of a legacy hash.

  Args:
    record: the record of a fine-tuned model, as it was saved.
    model: the model that is to be fine-tuned now.
    place: where the record lies, for messages.

  Raises:
    UserError: the record holds a legacy hash that other models had as well.
  """
  known_as = str(record.get(KEY, ""))
  if not known_as or known_as != model.legacy or known_as == model.value:
    return dict(record)
  if not model.legacy_is_unique:
    raise UserError(
      f"{place} was fine-tuned by an earlier version, which knew its model by "
      f"the hash {known_as[:12]}; models that were imported, or began with the "
      "weights of a folder, may share it, so it cannot be told whether this "
      "is the same model. Use another --workdir to fine-tune this one."
    )
  note(
    f"{place} knows its model by the hash of an earlier version, "
    f"{known_as[:12]}, which is that of this model; going on."
  )
  return {**record, KEY: model.value}
