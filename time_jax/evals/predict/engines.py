"""Chooses what computes a fine-tuned model.

`auto` follows a rule that is written here, and never measures: JAX on a GPU or
a TPU; on a CPU onnxruntime, which is faster there, if it and onnx are installed
and the encoder is of BERT's kinds; JAX otherwise. 8 bits are onnxruntime's
alone, and are computed on the CPU.
"""

import importlib.util
from typing import Any, get_args

import jax

from time_jax.config.finetune import EngineName
from time_jax.core.errors import UserError
from time_jax.evals.common import onnx_engine
from time_jax.evals.common.engine import Engine
from time_jax.evals.common.task import Network
from time_jax.hf import onnx_session
from time_jax.models import registry
from time_jax.models.bert import FAMILY, BertConfig
from time_jax.models.family import Params
from time_jax.parallel import sharding

_PACKAGES = ("onnx", "onnxruntime")


def in_onnx(config: Any) -> bool:
  """Returns whether onnxruntime can compute an encoder of a config."""
  return isinstance(config, BertConfig)


def require_onnxruntime() -> None:
  """Raises UserError if a package is missing that onnxruntime needs here."""
  onnx_session.require(*_PACKAGES)


def choose(network: Network, name: EngineName, *, int8: bool) -> str:
  """Returns "jax" or "onnxruntime".

  Args:
    network: the network to be computed.
    name: what is asked for.
    int8: whether matrices in 8 bits are asked for.

  Raises:
    UserError: there is no such engine, or it cannot compute this.
  """
  if name not in get_args(EngineName):
    raise UserError(
      f"engine={name!r} is not known; expected one of "
      f"{', '.join(get_args(EngineName))}."
    )
  if name == "jax":
    if int8:
      raise UserError(
        "8 bits are computed by onnxruntime alone, and engine=jax; expected "
        "--engine=onnxruntime, or no --int8."
      )
    return name
  known = in_onnx(network.opened.config)
  if name == "onnxruntime" or int8:
    if not known:
      raise _unknown(network)
    require_onnxruntime()
    return "onnxruntime"
  installed = all(map(importlib.util.find_spec, _PACKAGES))
  on_cpu = jax.default_backend() == "cpu"
  return "onnxruntime" if on_cpu and installed and known else "jax"


def open_engine(
  network: Network, params: Params, name: EngineName, *, int8: bool
) -> tuple[Engine, str]:
  """Returns an engine, and in words which one it is.

  Args:
    network: the network to be computed.
    params: its parameters, on the host.
    name: see `choose`.
    int8: see `choose`.

  Raises:
    UserError: see `choose`.
  """
  if choose(network, name, int8=int8) == "jax":
    placed = sharding.replicate(params, network.mesh)
    return network.engine(placed), f"JAX on {jax.default_backend()}"
  engine = onnx_engine.make_engine(network.graphs(params), params, int8=int8)
  return engine, f"onnxruntime on cpu{' in int8' if int8 else ''}"


def _unknown(network: Network) -> UserError:
  kinds = [k for k, family in registry.FAMILIES.items() if family is FAMILY]
  config = network.opened.hf_config
  kind = config.get("model_type") or config.get("architectures")
  return UserError(
    f"onnxruntime computes encoders of the types {', '.join(kinds)}, and this "
    f"one is {kind!r}; use --engine=jax, without --int8."
  )
