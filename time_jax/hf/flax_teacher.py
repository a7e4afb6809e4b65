"""transformers' own Flax models as teachers (transformers 4.x only).

A second way to the projections that `hf.load` reads with our own encoders:
the layers are transformers' code. Two things are not left to it:

* Reading files. `from_pretrained` only warns about tensors that it did not
  find and leaves them random. Here every parameter has its tensor, or the
  load is refused.
* The softmax of attention. Theirs takes one mask per row, [B, S], with which
  documents packed into one row would see each other. Calls of their `self`
  module are intercepted: its own three projections, our masked attention.

Nothing of transformers is imported before a teacher is asked for.
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array

from time_jax.core.arrays import PROJECTIONS, Batch, Ids, Qkv
from time_jax.core.errors import UserError
from time_jax.hf import files, load
from time_jax.hf.weights import Weights
from time_jax.models import bert
from time_jax.models.attention import attend
from time_jax.models.attention_operands import Mask
from time_jax.models.family import Params, Teacher
from time_jax.parallel import sharding


@dataclasses.dataclass(frozen=True)
class _Kind:
  """What differs between the Flax classes that share BERT's block.

  Attributes:
    name: the class in transformers.
    pooler: whether its module has the switch `add_pooling_layer`.
    padded_positions: whether the position table starts at pad_token_id + 1.
  """

  name: str
  pooler: bool = True
  padded_positions: bool = False


# model_type -> class. Not here: those whose attention is not BERT's (ALBERT,
# BigBird, DistilBERT, RoFormer) and T5, which newer JAX cannot construct.
_KINDS = {
  "bert": _Kind("FlaxBertModel"),
  "electra": _Kind("FlaxElectraModel", pooler=False),
  "roberta": _Kind("FlaxRobertaModel", padded_positions=True),
  "roberta-prelayernorm": _Kind(
    "FlaxRobertaPreLayerNormModel", padded_positions=True
  ),
}
_REFUSED = {
  "xlm-roberta": (
    "transformers' FlaxXLMRobertaModel looks for names that start with "
    "'xlm-roberta.', checkpoints have 'roberta.', so none would be found"
  ),
}
_WAY_OUT = "use teacher.loader=own"

_WEIGHT_NAMES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
# Names from before 2019 in files converted from TensorFlow.
_LEGACY = {"weight": "gamma", "bias": "beta"}

_Path = tuple[str, ...]


def load_flax_teacher(
  path: str,
  layer: int,
  *,
  dtype: DTypeLike,
  mesh: Mesh,
  allow_pickle: bool = False,
) -> Teacher:
  """Loads a teacher that runs on transformers' Flax code, up to one layer.

  Packed rows are exact. Token types are zeros, as in training on raw text.

  Args:
    path: see `files.resolve`.
    layer: the distilled layer, 1-based. Blocks above it, and the pooler, are
      neither read nor kept.
    dtype: of parameters and computation; softmax is in float32.
    mesh: the devices; every one holds all parameters.
    allow_pickle: see `files.weight_files`.

  Raises:
    UserError: no transformers 4.x is installed, it has no usable Flax class
      for this model_type, or the folder, its config or its tensors are not
      as expected.
  """
  folder = files.resolve(path, allow_pickle)
  hf_config = files.model_config(folder)
  kind = _find_kind(hf_config.get("model_type"))
  model = _import_model(kind.name)
  config = _parse_config(folder, hf_config, model)
  load.check_layer(layer, config.num_hidden_layers)
  config.num_hidden_layers = layer
  offset = 0
  if kind.padded_positions:
    offset = bert.position_offset(config.to_dict())
  module, shapes = _build(folder, kind, model, config, dtype)
  with Weights(folder, allow_pickle) as weights:
    params = _read_params(weights, model, shapes, mesh, dtype)
  fingerprint = files.fingerprint(folder, allow_pickle)
  return _teacher(module, params, offset, fingerprint)


def _find_kind(model_type: Any) -> _Kind:
  if model_type in _REFUSED:
    raise UserError(
      f"model_type={model_type!r} cannot be loaded with teacher.loader=flax: "
      f"{_REFUSED[model_type]}; {_WAY_OUT}."
    )
  if model_type not in _KINDS:
    raise UserError(
      f"teacher.loader=flax does not know model_type={model_type!r}; known: "
      f"{', '.join(sorted(_KINDS))}; or {_WAY_OUT}."
    )
  return _KINDS[model_type]


def _import_model(name: str) -> Any:
  """A Flax class of transformers, imported now: that takes seconds."""
  wanted = "teacher.loader=flax needs transformers 4.x"
  advice = f"pip install 'transformers<5', or {_WAY_OUT}"
  try:
    version = importlib.metadata.version("transformers")
  except importlib.metadata.PackageNotFoundError:
    raise UserError(
      f"{wanted}, and no transformers is installed: {advice}."
    ) from None
  if int(version.split(".")[0]) >= 5:
    raise UserError(
      f"{wanted}; installed is transformers {version}, which has no Flax "
      f"models any more: {advice}."
    )
  try:
    model = getattr(importlib.import_module("transformers"), name)
    # Without a usable flax the class is a stand-in that raises only here.
    _ = model.module_class
  except (ImportError, AttributeError, RuntimeError) as error:
    raise UserError(
      f"transformers {version} cannot provide {name}: {error}; {_WAY_OUT}."
    ) from error
  return model


def _parse_config(
  folder: pathlib.Path, hf_config: Mapping[str, Any], model: Any
) -> Any:
  """A config object of transformers, without what its Flax code ignores."""
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
  folder: pathlib.Path,
  kind: _Kind,
  model: Any,
  config: Any,
  dtype: DTypeLike,
) -> tuple[nn.Module, Mapping[_Path, Any]]:
  """The linen module behind a model class, and the shapes of its parameters."""
  switches = {"add_pooling_layer": False} if kind.pooler else {}
  one = jnp.ones((1, 1), jnp.int32)
  batch = Batch(tokens=one, segment_ids=one, positions=0 * one)
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
  """Arguments of the modules, all explicit: their defaults differ.

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
  shapes: Mapping[_Path, Any],
  mesh: Mesh,
  dtype: DTypeLike,
) -> Params:
  """Reads every parameter onto the devices, or says all that is wrong."""
  prefix = model.base_model_prefix + "."
  if not any(name.startswith(prefix) for name in weights):
    prefix = ""
  names = {path: _name(weights, prefix, path) for path in shapes}
  _check(weights, shapes, names)
  layout = NamedSharding(mesh, PartitionSpec())

  def read(path: _Path) -> jax.Array:
    tensor: np.ndarray = weights.read(names[path]).astype(dtype)
    tensor = tensor.T if path[-1] == "kernel" else tensor
    return sharding.place(tensor, layout)

  return flax.traverse_util.unflatten_dict(
    {path: read(path) for path in shapes}
  )


def _name(weights: Weights, prefix: str, path: _Path) -> str:
  """How a file calls a parameter; Flax's paths are PyTorch's but the end."""
  stem = prefix + ".".join(path[:-1])
  leaf = _WEIGHT_NAMES.get(path[-1], path[-1])
  name, legacy = f"{stem}.{leaf}", f"{stem}.{_LEGACY.get(leaf)}"
  return legacy if name not in weights and legacy in weights else name


def _check(
  weights: Weights,
  shapes: Mapping[_Path, Any],
  names: Mapping[_Path, str],
) -> None:
  problems = []
  for path, name in names.items():
    expected = shapes[path].shape
    expected = expected[::-1] if path[-1] == "kernel" else expected
    if name not in weights:
      problems.append(f"{name} is missing{weights.why_missing(name)}")
    elif weights.shape(name) != expected:
      found = weights.shape(name)
      problems.append(f"{name} has shape {found}, expected {expected}")
  if problems:
    shown = "; ".join(problems[:20])
    more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
    raise UserError(
      f"{weights.folder}: the weights do not fit config.json: {shown}{more}."
    )


def _teacher(
  module: Any, params: Params, position_offset: int, fingerprint: str
) -> Teacher:
  config = module.config
  last = str(config.num_hidden_layers - 1)
  where = ("encoder", "layer", last, "attention", "self")

  def wanted(part: nn.Module, method: str) -> bool:
    is_projection = (
      part.path[:-1] == where and part.name in PROJECTIONS.values()
    )
    return is_projection and method == "__call__"

  def project(params: Params, batch: Batch) -> Qkv:
    within = functools.partial(_attend, batch.segment_ids)
    with nn.intercept_methods(within):
      # Under jit, what follows the projections is never computed.
      _, state = module.apply(
        {"params": params},
        **_inputs(batch, position_offset),
        deterministic=True,
        capture_intermediates=wanted,
        mutable=["intermediates"],
      )
    found: Any = flax.traverse_util.flatten_dict(state["intermediates"])
    outputs = [found[(*where, p, "__call__")] for p in PROJECTIONS.values()]
    return Qkv(*(output[0] for output in outputs))

  width = config.hidden_size
  return Teacher(
    project=project,
    params=params,
    widths={"query": width, "key": width, "value": width},
    vocab_size=config.vocab_size,
    max_positions=config.max_position_embeddings - position_offset,
    fingerprint=fingerprint,
  )


def _attend(
  documents: Ids,
  next_fun: Callable[..., Any],
  args: tuple[Any, ...],
  kwargs: Mapping[str, Any],
  context: Any,
) -> Any:
  """Method interceptor: self-attention within documents, else no change."""
  part = context.module
  if part.name != "self" or context.method_name != "__call__":
    return next_fun(*args, **kwargs)
  hidden = args[0]
  qkv = Qkv(*(getattr(part, p)(hidden) for p in PROJECTIONS.values()))
  heads = part.config.num_attention_heads
  return (attend(qkv, Mask(documents), num_heads=heads),)
