"""Any encoder that can be fine-tuned: where it lies, how it is written."""

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
import safetensors.numpy
from jax.sharding import Mesh
from jax.typing import DTypeLike

from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file
from time_jax.core.storage.paths import local_path
from time_jax.data.tokenizing import TokenizerSpec
from time_jax.hf import files, load, model_identity, save, tokenizer
from time_jax.hf.model_identity import Identity
from time_jax.models.family import Family, Params, abstract_params, init_params
from time_jax.parallel import sharding
from time_jax.run import saved_student

LONGEST = 512  # tokens, of networks that know no limit


@dataclasses.dataclass(frozen=True)
class Opened:
  """An encoder, whole, with what belongs to it.

  Attributes:
    encoder: the network; its config has the dropout to train with.
    params: float32, without a pooler, on the mesh; None: still to be drawn.
    family: its architecture group.
    hf_config: what its config.json is to say.
    words: its tokenizer.
    folder: that holds the tokenizer.
    identity: which model it is, see `identity`.
    name: for tables.
  """

  encoder: nn.Module
  params: Params | None
  family: Family
  hf_config: Mapping[str, Any]
  words: TokenizerSpec
  folder: pathlib.Path
  identity: Identity
  name: str

  @property
  def config(self) -> Any:
    """The family's frozen config."""
    return self.encoder.config

  @property
  def longest(self) -> int:
    """Tokens that it takes at most."""
    return min(self.config.max_positions or LONGEST, LONGEST)

  @property
  def shape(self) -> dict[str, Any]:
    """Its kind and sizes, for reports."""
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
    """How many it has: in all, and outside of its tables of embeddings."""
    boxed = _without_pooler(abstract_params(self.encoder))
    flat: Any = flax.traverse_util.flatten_dict(nn.meta.unbox(boxed))
    sizes = {path: math.prod(leaf.shape) for path, leaf in flat.items()}
    tables = sum(n for path, n in sizes.items() if path[-1] == "embedding")
    whole = sum(sizes.values())
    return {"all": whole, "without_embeddings": whole - tables}

  def fresh(self, rng: jax.Array) -> Params:
    """Random parameters of its shape, boxed, without a pooler."""
    return _without_pooler(init_params(self.encoder, rng))


class _Found(NamedTuple):
  """What a model's place says of it; see `Opened`.

  Without parameters there is no identity yet: that of what is to be drawn.
  """

  family: Family
  config: Any
  hf_config: Mapping[str, Any]
  params: Params | None
  folder: pathlib.Path
  identity: Identity | None
  name: str


def open_encoder(
  model: str,
  *,
  mesh: Mesh,
  dtype: DTypeLike,
  step: int | None = None,
  random: bool = False,
  dropout: float = 0.0,
  allow_pickle: bool = False,
) -> Opened:
  """Opens a student of a workdir, or any model that is a teacher.

  Args:
    model: a workdir of `distill` or `import`; or see `files.resolve`.
    mesh: the devices.
    dtype: of computation.
    step: of a workdir's checkpoint; by default the chosen one, or the newest.
    random: only the shape and the tokenizer are taken.
    dropout: in the encoder, where its family has dropout at all.
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
  if (workdir / "checkpoints").is_dir():
    found = _of_workdir(workdir, step, random)
  else:
    if step is not None:
      raise UserError(f"model={model} is no workdir, so step has no meaning.")
    found = _of_folder(model, mesh, random, allow_pickle)
  family, config, params = found.family, found.config, found.params
  knobs = {"dropout", "attention_dropout"}
  names = {field.name for field in dataclasses.fields(config)} & knobs
  config = dataclasses.replace(config, **dict.fromkeys(names, dropout))
  encoder = family.encoder(config, config.num_layers, jnp.dtype(dtype))
  if params is not None:
    boxed = _without_pooler(abstract_params(encoder))
    layout = sharding.param_shardings(boxed, mesh)
    params = jax.device_put(_without_pooler(params), layout)
  which = found.identity or model_identity.of_random(
    found.hf_config, found.config, found.folder
  )
  return Opened(
    encoder=encoder,
    params=params,
    family=family,
    hf_config=found.hf_config,
    words=tokenizer.load_tokenizer(found.folder, config.vocab_size),
    folder=found.folder,
    identity=which,
    name=found.name,
  )


def _of_workdir(
  workdir: pathlib.Path, step: int | None, random: bool
) -> _Found:
  student = saved_student.read_student(workdir, step)
  folder = workdir / "tokenizer"
  if not folder.is_dir():
    raise UserError(
      f"{workdir} has no tokenizer, so there are no words for this student."
    )
  ids = tokenizer.special_ids(folder, student.config.vocab_size)
  hf_config = save.hf_config(student.config, ids)
  family, config = load.parse_config(hf_config, str(workdir))
  found = _Found(
    family,
    config,
    hf_config,
    student.params,
    folder,
    student.identity,
    f"{workdir.name}@{student.step}",
  )
  return _undrawn(found) if random else found


def _of_folder(
  model: str, mesh: Mesh, random: bool, allow_pickle: bool
) -> _Found:
  folder = files.resolve(model, allow_pickle)
  hf_config = files.model_config(folder)
  family, config = load.read_config(folder)
  # Without the folders of whoever trained it.
  name = "/".join(pathlib.PurePath(model).parts[-2:])
  found = _Found(family, config, hf_config, None, folder, None, name)
  if random:
    return _undrawn(found)
  _, params = load.load_encoder(
    folder, dtype=np.float32, mesh=mesh, allow_pickle=allow_pickle
  )
  which = model_identity.of_folder(folder, config, params, allow_pickle)
  return found._replace(params=params, identity=which)


def _undrawn(found: _Found) -> _Found:
  """Only the shape of it."""
  return found._replace(
    params=None,
    identity=None,
    name=f"random {found.config.num_layers}x{found.config.hidden_size}",
  )


def _without_pooler(params: Params) -> Params:
  """Nothing that is fine-tuned stands behind it."""
  return {name: tree for name, tree in params.items() if name != "pooler"}


def write_encoder(folder: pathlib.Path, opened: Opened, params: Params) -> None:
  """Writes what `open_encoder` reads, in the files of transformers.

  Args:
    folder: exists.
    opened: where the parameters came from.
    params: to write.
  """
  text = atomic_file.as_json(opened.hf_config, indent=2, sort_keys=True) + "\n"
  (folder / "config.json").write_text(text, encoding="utf-8")
  config = opened.config
  tensors = save.to_tensors(params, opened.family.names, config.num_layers)
  safetensors.numpy.save_file(
    tensors, folder / "model.safetensors", metadata={"format": "pt"}
  )
  (folder / "model.safetensors").chmod(0o644)  # It is written as private.
  tokenizer.save_tokenizer(
    opened.folder, folder, opened.longest, config.vocab_size
  )
