"""transformers' own Flax models as teachers (transformers 4.x only).

A second way to the projections that `hf.load` reads with our own encoders:
the layers are transformers' code. Two things are not left to it:

* Reading files. `from_pretrained` only warns about tensors that it did not
  find and leaves them random. Here every parameter has its tensor, or the
  load is refused.
* The softmax of attention. Theirs takes one mask per row, [B, S], with which
  documents packed into one row would see each other. Calls of their `self`
  module are intercepted: its own three projections, our masked attention.

transformers is imported only when such a teacher is asked for.
"""

import functools
import importlib
import importlib.metadata
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array

from time_jax.core.arrays import PROJECTIONS, Batch, Ids, Qkv, Targets
from time_jax.core.errors import UserError
from time_jax.hf import files, load
from time_jax.hf.read_params import Path, check_tensors
from time_jax.hf.weight_files import fingerprint
from time_jax.hf.weights import Weights
from time_jax.models import bert
from time_jax.models.attention import attend
from time_jax.models.attention_operands import Mask
from time_jax.models.family import LEAVES, Params, Teacher
from time_jax.parallel import sharding

# model_type -> class. Not here: those whose attention is not BERT's (ALBERT,
# BigBird, DistilBERT, RoFormer), T5, which newer JAX cannot construct, and
# XLM-R, whose class would find no tensor: it looks for names that start with
# "xlm-roberta.", where checkpoints have "roberta.".
_CLASSES = {
  "bert": "FlaxBertModel",
  "electra": "FlaxElectraModel",
  "roberta": "FlaxRobertaModel",
  "roberta-prelayernorm": "FlaxRobertaPreLayerNormModel",
}
_WAY_OUT = "use teacher.loader=own"

# Names from before 2019 in files converted from TensorFlow.
_LEGACY = {"weight": "gamma", "bias": "beta"}


def load_flax_teacher(
  path: str,
  layers: Collection[int],
  *,
  dtype: DTypeLike,
  mesh: Mesh,
  allow_pickle: bool = False,
) -> Teacher:
  """Loads a teacher that runs on transformers' Flax code, cut off.

  Packed rows are exact. Token types are zeros, as in training on raw text.

  Args:
    path: a folder, package or hub id, see `files.resolve`.
    layers: the distilled layers, 1-based. Blocks above the highest, and the
      pooler, are neither read nor kept.
    dtype: dtype of parameters and computation; softmax is in float32.
    mesh: the devices; every one holds all parameters.
    allow_pickle: see `weight_files.find_weights`.

  Raises:
    UserError: no transformers 4.x is installed, it has no usable Flax class
      for this model_type, or the folder, its config or its tensors are not
      as expected.
  """
  folder = files.resolve(path, allow_pickle)
  hf_config = files.model_config(folder)
  model_type = hf_config.get("model_type")
  if model_type not in _CLASSES:
    raise UserError(
      f"teacher.loader=flax does not know model_type={model_type!r}; known: "
      f"{', '.join(sorted(_CLASSES))}; or {_WAY_OUT}."
    )
  model = _import_model(_CLASSES[model_type])
  config = _parse_config(folder, hf_config, model)
  wanted = tuple(sorted(set(layers)))
  for layer in wanted:
    load.check_layer(layer, config.num_hidden_layers)
  config.num_hidden_layers = wanted[-1]
  # RoBERTa's position table starts after the padding token's id.
  offset = 0
  if config.model_type.startswith("roberta"):
    offset = bert.position_offset(config.to_dict())
  module, shapes = _build(folder, model, config, dtype)
  with Weights(folder, allow_pickle) as weights:
    params = _read_params(weights, model, shapes, mesh, dtype)
  return Teacher(
    targets=functools.partial(_targets, module, offset, wanted),
    layers=wanted,
    params=params,
    widths=dict.fromkeys(PROJECTIONS.values(), config.hidden_size),
    vocab_size=config.vocab_size,
    max_positions=config.max_position_embeddings - offset,
    fingerprint=fingerprint(folder, allow_pickle),
  )


def _import_model(name: str) -> Any:
  """Imports a Flax class of transformers, which takes seconds."""
  version = "none"
  try:
    version = importlib.metadata.version("transformers")
    if int(version.split(".")[0]) < 5:
      model = getattr(importlib.import_module("transformers"), name)
      # Without a usable flax the class is a stand-in that raises only here.
      _ = model.module_class
      return model
    reason = "it has no Flax models any more"
  except importlib.metadata.PackageNotFoundError:
    reason = "no transformers is installed"
  except (ImportError, AttributeError, RuntimeError) as error:
    reason = f"it cannot provide {name}: {error}"
  raise UserError(
    f"teacher.loader=flax needs transformers 4.x, found {version}: {reason}; "
    f"pip install 'transformers<5', or {_WAY_OUT}."
  )


def _parse_config(
  folder: pathlib.Path, hf_config: Mapping[str, Any], model: Any
) -> Any:
  """Returns transformers' config; refuses what its Flax code would ignore."""
  try:
    config = model.config_class.from_dict(dict(hf_config))
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f"{folder}/config.json is not usable: {error}.") from error
  positions = getattr(config, "position_embedding_type", "absolute")
  if (positions or "absolute") != "absolute":
    raise UserError(
      f"{folder}: position_embedding_type={positions!r} is ignored by "
      f"{model.__name__}; expected 'absolute'."
    )
  if config.is_decoder:
    raise UserError(
      f"{folder}: is_decoder=True, a causal model; expected an encoder."
    )
  return config


def _build(
  folder: pathlib.Path, model: Any, config: Any, dtype: DTypeLike
) -> tuple[nn.Module, Mapping[Path, Any]]:
  """Returns a model class's linen module and the shapes of its parameters."""
  ones = jnp.ones((1, 1), jnp.int32)
  batch = Batch(tokens=ones, segment_ids=ones, positions=0 * ones)
  switches = {}
  if "add_pooling_layer" in model.module_class.__dataclass_fields__:
    switches["add_pooling_layer"] = False
  try:
    module = model.module_class(config=config, dtype=dtype, **switches)
    init = functools.partial(module.init, **_inputs(batch, 0))
    variables = jax.eval_shape(init, jax.random.key(0))
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(
      f"{folder}: transformers cannot build {model.__name__} from its "
      f"config.json: {type(error).__name__}: {error}; {_WAY_OUT}."
    ) from error
  return module, flax.traverse_util.flatten_dict(variables["params"])


def _inputs(batch: Batch, position_offset: int) -> dict[str, Array]:
  """Returns all arguments of a module, whose defaults differ by class.

  FlaxElectraModel, for one, takes every token for one of the second sentence.
  """
  return {
    "input_ids": jnp.asarray(batch.tokens),
    "attention_mask": jnp.asarray(batch.segment_ids > 0, jnp.int32),
    "token_type_ids": jnp.zeros_like(batch.tokens),
    "position_ids": jnp.asarray(batch.positions + position_offset),
  }


def _read_params(
  weights: Weights,
  model: Any,
  shapes: Mapping[Path, Any],
  mesh: Mesh,
  dtype: DTypeLike,
) -> Params:
  """Reads every parameter onto the devices, or says all that is wrong."""
  prefix = model.base_model_prefix + "."
  if not any(name.startswith(prefix) for name in weights):
    prefix = ""
  names = {path: _name(weights, prefix, path) for path in shapes}
  check_tensors(
    weights,
    {
      name: shapes[path].shape[:: -1 if path[-1] == "kernel" else 1]
      for path, name in names.items()
    },
  )
  layout = NamedSharding(mesh, PartitionSpec())

  def read(path: Path) -> jax.Array:
    tensor = weights.read(names[path]).astype(dtype)
    return sharding.place(tensor.T if path[-1] == "kernel" else tensor, layout)

  return flax.traverse_util.unflatten_dict(
    {path: read(path) for path in shapes}
  )


def _name(weights: Weights, prefix: str, path: Path) -> str:
  """Returns a parameter's name in a file: Flax's path but for its end."""
  stem = prefix + ".".join(path[:-1])
  leaf = LEAVES[path[-1]]
  name, legacy = f"{stem}.{leaf}", f"{stem}.{_LEGACY.get(leaf)}"
  return legacy if name not in weights and legacy in weights else name


def _targets(
  module: Any,
  position_offset: int,
  layers: Collection[int],
  params: Params,
  batch: Batch,
) -> Targets:
  """Returns the projections of some of a module's layers."""
  attention = {
    layer: ("encoder", "layer", str(layer - 1), "attention", "self")
    for layer in layers
  }
  names = PROJECTIONS.values()

  def is_projection(part: nn.Module, method: str) -> bool:
    inside = part.path[:-1] in attention.values() and part.name in names
    return inside and method == "__call__"

  with nn.intercept_methods(functools.partial(_attend, batch.segment_ids)):
    # Under jit, what follows the last projections is never computed.
    _, state = module.apply(
      {"params": params},
      **_inputs(batch, position_offset),
      deterministic=True,
      capture_intermediates=is_projection,
      mutable=["intermediates"],
    )
  outputs: Any = flax.traverse_util.flatten_dict(state["intermediates"])
  return Targets(
    {
      layer: Qkv(*(outputs[(*path, p, "__call__")][0] for p in names))
      for layer, path in attention.items()
    }
  )


def _attend(
  documents: Ids,
  next_fun: Callable[..., Any],
  args: tuple[Any, ...],
  kwargs: Mapping[str, Any],
  context: Any,
) -> Any:
  """Intercepts self-attention, to keep it within documents."""
  part = context.module
  if part.name != "self" or context.method_name != "__call__":
    return next_fun(*args, **kwargs)
  qkv = Qkv(*(getattr(part, p)(args[0]) for p in PROJECTIONS.values()))
  heads = part.config.num_attention_heads
  return (attend(qkv, Mask(documents), num_heads=heads),)
