"""Opens any encoder that can be fine-tuned, and writes it again."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from time_jax.checkpoint import layout
from time_jax.core.arrays import Batch
from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.paths import local_path
from time_jax.data.tokenizing import TokenizerSpec
from time_jax.hf import (
  files,
  load,
  model_identity,
  save,
  task_classes,
  tokenizer,
)
from time_jax.hf.model_identity import Identity
from time_jax.models.family import Family, Params, abstract_params, init_params
from time_jax.parallel import sharding

_MAX_TOKENS = 512  # of encoders that know no limit


@dataclasses.dataclass(frozen=True)
class OpenedEncoder:
  """An encoder with its tokenizer.

  Attributes:
    encoder: the network; its config has the dropout to train with.
    params: float32, without a pooler, on the mesh; None: still to be drawn.
    family: its architecture family.
    hf_config: the content of its config.json.
    tokenizer: its tokenizer.
    folder: folder with the files of the tokenizer.
    identity: which model it is.
    name: name in tables.
  """

  encoder: nn.Module
  params: Params | None
  family: Family
  hf_config: Mapping[str, Any]
  tokenizer: TokenizerSpec
  folder: pathlib.Path
  identity: Identity
  name: str

  @property
  def config(self) -> Any:
    """The family's frozen config."""
    return self.encoder.config

  @property
  def longest(self) -> int:
    """The most tokens that it takes."""
    return min(self.config.max_positions or _MAX_TOKENS, _MAX_TOKENS)

  @property
  def shape(self) -> dict[str, Any]:
    """Its type and sizes, for reports."""
    c = self.config
    return {
      "type": self.hf_config["model_type"],
      "layers": c.num_layers,
      "width": c.hidden_size,
      "heads": c.widths["query"] // c.head_dim,
      "vocabulary": c.vocab_size,
    }

  @property
  def parameters(self) -> dict[str, int]:
    """Its number of parameters: all, and those outside of embedding tables."""
    boxed = _without_pooler(abstract_params(self.encoder))
    flat: Any = flax.traverse_util.flatten_dict(nn.meta.unbox(boxed))
    sizes = {path: math.prod(leaf.shape) for path, leaf in flat.items()}
    tables = sum(n for path, n in sizes.items() if path[-1] == "embedding")
    whole = sum(sizes.values())
    return {"all": whole, "without_embeddings": whole - tables}

  def fresh(self, rng: Array) -> Params:
    """Returns random parameters of its shape, boxed, without a pooler."""
    return _without_pooler(init_params(self.encoder, rng))

  def hidden_states(
    self, params: Params, batch: Batch, dropout: Array | None = None
  ) -> Float[Array, "L B T D"]:
    """Returns the hidden states of all layers, the embeddings first.

    Args:
      params: parameters such as `params`.
      batch: rows of tokens.
      dropout: random key for dropout; None: without dropout.
    """
    options: dict[str, Any] = {"method": "hidden_states"}
    if dropout is not None:
      options |= {"deterministic": False, "rngs": {"dropout": dropout}}
    states: Any = self.encoder.apply({"params": params}, batch, **options)
    return states


class _Stored(NamedTuple):
  """A model as it is stored; see `OpenedEncoder`.

  Without parameters, which are to be drawn then, it has no identity yet.
  """

  hf_config: Mapping[str, Any]
  folder: pathlib.Path
  name: str
  params: Params | None = None
  identity: Identity | None = None


def open_encoder(
  model: str,
  *,
  mesh: Mesh,
  dtype: DTypeLike,
  step: int | None = None,
  random: bool = False,
  dropout: float = 0.0,
  allow_pickle: bool = False,
) -> OpenedEncoder:
  """Opens the student of a workdir, or any model that can be a teacher.

  Args:
    model: a workdir of `distill` or `import`; or see `files.resolve`.
    mesh: the devices.
    dtype: dtype of computation.
    step: step of a workdir's checkpoint; by default the chosen one, or the
      newest.
    random: whether only the shape and the tokenizer are taken.
    dropout: dropout rate of the encoder, where its family has dropout at all.
    allow_pickle: see `weight_files.find_weights`.

  Raises:
    UserError: there is no such model, or no tokenizer with it.
  """
  if not model:
    raise UserError(
      "model is empty; expected a workdir, a folder or a hub id OWNER/NAME, "
      "such as configs/ud.py:model=runs/da-m."
    )
  workdir = local_path(model)
  if layout.is_workdir(workdir):
    stored = _open_workdir(workdir, step)
  elif step is not None:
    raise UserError(f"model={model} is no workdir, so step has no meaning.")
  else:
    stored = _open_folder(model, mesh, random, allow_pickle)
  hf_config, folder, name, params, identity = stored
  family, config = load.parse_config(hf_config, f"{folder}/config.json")
  if random or identity is None:
    name = f"random {config.num_layers}x{config.hidden_size}"
    identity = model_identity.of_random(hf_config, config, folder)
    params = None
  if params is not None:
    # Of an encoder that reading a folder has asked for, too: it takes a while.
    stored_as = family.encoder(config, config.num_layers, np.float32)
    boxed = _without_pooler(abstract_params(stored_as))
    shardings = sharding.param_shardings(boxed, mesh)
    params = jax.device_put(_without_pooler(params), shardings)
  rates = {"dropout", "attention_dropout"}
  rates &= {field.name for field in dataclasses.fields(config)}
  config = dataclasses.replace(config, **dict.fromkeys(rates, dropout))
  encoder = family.encoder(config, config.num_layers, jnp.dtype(dtype))
  return OpenedEncoder(
    encoder=encoder,
    params=params,
    family=family,
    hf_config=hf_config,
    tokenizer=tokenizer.load_tokenizer(folder, config.vocab_size),
    folder=folder,
    identity=identity,
    name=name,
  )


def _open_workdir(workdir: pathlib.Path, step: int | None) -> _Stored:
  # Orbax, grain and what else a run needs take longer to import than the model
  # of a folder takes to open.
  from time_jax.run import saved_student

  student = saved_student.read_student(workdir, step)
  folder = workdir / "tokenizer"
  if not folder.is_dir():
    raise UserError(
      f"{workdir} has no tokenizer, so there are no words for this student."
    )
  ids = tokenizer.special_ids(folder, student.config.vocab_size)
  hf_config = save.hf_config(student.config, ids)
  name = f"{workdir.name}@{student.step}"
  return _Stored(hf_config, folder, name, student.params, student.identity)


def _open_folder(
  model: str, mesh: Mesh, random: bool, allow_pickle: bool
) -> _Stored:
  folder = files.resolve(model, allow_pickle)
  _, config = load.read_config(folder)
  # Without the folders of whoever trained it.
  name = "/".join(pathlib.PurePath(model).parts[-2:])
  stored = _Stored(files.model_config(folder), folder, name)
  if random:
    return stored
  _, params = load.load_encoder(
    folder, dtype=np.float32, mesh=mesh, allow_pickle=allow_pickle
  )
  identity = model_identity.of_folder(folder, config, params, allow_pickle)
  return stored._replace(params=params, identity=identity)


def _without_pooler(params: Params) -> Params:
  """Leaves out the pooler, which no task uses."""
  return {name: tree for name, tree in params.items() if name != "pooler"}


def encoder_tensors(
  opened: OpenedEncoder, params: Params
) -> dict[str, np.ndarray]:
  """Returns the tensors of an encoder as its family names them.

  Args:
    opened: the encoder that was fine-tuned.
    params: its parameters.
  """
  return save.to_tensors(params, opened.family.names, opened.config.num_layers)


def write_encoder(
  folder: pathlib.Path, opened: OpenedEncoder, params: Params
) -> None:
  """Writes what `open_encoder` reads, in the files of transformers.

  Args:
    folder: an empty folder.
    opened: the encoder that was fine-tuned.
    params: its parameters.
  """
  content = task_classes.make_encoder_config(opened.hf_config)
  atomic_file.write_json(folder / "config.json", content, sort_keys=True)
  save.write_safetensors(folder / save.WEIGHTS, encoder_tensors(opened, params))
  tokenizer.save_tokenizer(
    opened.folder, folder, opened.longest, opened.config.vocab_size
  )
