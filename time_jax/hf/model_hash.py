"""Which model this is: a hash of what it computes with, whatever the files are.

A checkpoint, its float32 export as either class, and the import of that export
have one identity. An export in bfloat16 holds other numbers, so it has an
identity of its own, which it shares with its import.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax
import jax
import numpy as np

from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.hf import files, save, tokenizer
from time_jax.models.bert import NAMES, BertConfig
from time_jax.models.family import Params
from time_jax.parallel import sharding

# Under this name the record of a fine-tuned model holds the identity.
MODEL = "model (SHA-256)"
# What shapes the function; dropout and the like only shape training.
_SIZES = (
  *("vocab_size", "hidden_size", "num_layers", "num_heads"),
  *("intermediate_size", "max_positions", "activation"),
)
_TOKEN_TYPES = 2  # rows of a student's table
# A tokenizer is its words and what it makes of these texts, which therefore
# must never change.
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
    value: a SHA-256 of its content.
    before: the hash by which earlier versions knew it; empty: none.
    proves: whether no other model could have had the hash `before`.
  """

  value: str
  before: str = ""
  proves: bool = True


def is_student(config: Any) -> bool:
  """Whether a model, of this config, is the network that students are."""
  return (
    isinstance(config, BertConfig)
    and config.embedding_size in (None, config.hidden_size)
    and config.activation == "gelu"
  )


def of_student(config: BertConfig, arrays: str, words: str) -> str:
  """The identity of a student.

  Args:
    config: its shape.
    arrays: see `arrays_sha256`.
    words: see `tokenizer_sha256`.
  """
  # Epsilon is computed with in float32, and some files hold it so rounded.
  epsilon = float(np.float32(config.layer_norm_eps))
  sizes = {name: getattr(config, name) for name in _SIZES}
  return _sha256(
    {
      "shape": sizes | {"layer_norm_eps": epsilon},
      "arrays": arrays,
      "tokenizer": words,
    }
  )


def of_folder(
  folder: pathlib.Path, config: Any, params: Params, allow_pickle: bool = False
) -> Identity:
  """The identity of a model in the files of transformers.

  That of a model which could be a student is of its content. Any other is
  known by its files, as no command of ours writes them in another form.

  Args:
    folder: of the model.
    config: the family's frozen config.
    params: as `hf.load.load_encoder` read them in float32, pooler included.
    allow_pickle: see `files.weight_files`.
  """
  before = files.fingerprint(folder, allow_pickle)
  words = tokenizer_sha256(folder, config.vocab_size)
  if is_student(config):
    arrays = arrays_sha256(config, params)
    return Identity(of_student(config, arrays, words), before)
  return Identity(_sha256({"files": before, "tokenizer": words}), before)


def of_random(
  hf_config: Mapping[str, Any], config: Any, folder: pathlib.Path
) -> Identity:
  """The identity of weights that a seed is to draw: of shape and tokenizer.

  Args:
    hf_config: what config.json says or would say.
    config: the family's frozen config.
    folder: of the tokenizer.
  """
  content = {
    "random": dataclasses.asdict(config),
    "type": hf_config["model_type"],
    "tokenizer": tokenizer_sha256(folder, config.vocab_size),
  }
  return Identity(_sha256(content), _sha256({"random": hf_config}))


def tokenizer_sha256(folder: pathlib.Path, vocab_size: int) -> str:
  """Hash of a folder's tokenizer; empty where there is none.

  Of its words and of what it makes of some texts, since two tokenizers with the
  same words may still cut a text in different ways.
  """
  if not tokenizer.has_tokenizer(folder):
    return ""
  return tokenizer.words_sha256(folder, vocab_size, _TEXTS)


def arrays_sha256(config: BertConfig, params: Params) -> str:
  """Hash of a student's arrays, in float32 and in the student's own form.

  That form has positions from row 0 on, two token types, and a pooler, which
  is of zeros where there was none: it is never distilled, but it ships.

  Args:
    config: of the model that the arrays are of, which may be any BERT.
    params: float32; all processes take part where they lie on several.
  """
  flat: Any = dict(flax.traverse_util.flatten_dict(params))
  width = config.hidden_size
  flat.setdefault(("pooler", "kernel"), np.zeros((width, width), np.float32))
  flat.setdefault(("pooler", "bias"), np.zeros(width, np.float32))
  hashes = {}
  for path, leaf in sorted(flat.items()):
    array = _as_of_student(path, _on_host(leaf), config)
    one = flax.traverse_util.unflatten_dict({path: array})
    for name, x in save.to_tensors(one, NAMES, config.num_layers).items():
      hashes[name] = (str(x.dtype), x.shape, hashlib.sha256(x.data).hexdigest())
  return _sha256(hashes)


def _as_of_student(
  path: tuple[str, ...], array: np.ndarray, config: BertConfig
) -> np.ndarray:
  if path == ("embeddings", "position", "embedding"):
    return array[config.position_offset :]
  if path == ("embeddings", "token_type", "embedding"):
    more = max(0, _TOKEN_TYPES - len(array))
    return np.pad(array[:_TOKEN_TYPES], ((0, more), (0, 0)))
  return array


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


def recognised(
  record: Mapping[str, Any], model: Identity, place: pathlib.Path
) -> dict[str, Any]:
  """A record, with the identity of its model in place of its earlier hash.

  Args:
    record: of a fine-tuned model, as it was saved.
    model: what is to be fine-tuned now.
    place: where the record lies, for messages.

  Raises:
    UserError: the record holds an earlier hash that other models had as well.
  """
  found = str(record.get(MODEL, ""))
  if not found or found != model.before or found == model.value:
    return dict(record)
  if not model.proves:
    raise UserError(
      f"{place} was fine-tuned by an earlier version, which knew its model by "
      f"the hash {found[:12]}; models that were imported, or began with the "
      "weights of a folder, may share it, so it cannot be told whether this "
      "is the same model. Use another --workdir to fine-tune this one."
    )
  note(
    f"{place} knows its model by the hash of an earlier version, "
    f"{found[:12]}, which is that of this model; going on."
  )
  return {**record, MODEL: model.value}
