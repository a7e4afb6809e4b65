"""Computes the programs of a network with onnxruntime, on the CPU."""

import concurrent.futures
import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from time_jax.hf import onnx_int8, onnx_session
from time_jax.hf.onnx_graph import Graph, is_large
from time_jax.hf.onnx_names import BESIDE
from time_jax.hf.onnx_session import Session, require
from time_jax.models.family import Params


class Program(NamedTuple):
  """A program as a graph.

  Attributes:
    graph: its inputs are the arrays in the program's inputs, in the order of
      `jax.tree.leaves`; its outputs those in `outputs`.
    outputs: the outputs of the program, with a name in place of each array.
  """

  graph: Graph
  outputs: Any


@dataclasses.dataclass(frozen=True)
class _Output:
  """An output that may still be computed; JAX and NumPy wait for it."""

  outputs: concurrent.futures.Future[list[np.ndarray]]
  number: int

  def block_until_ready(self) -> "_Output":
    self.outputs.result()
    return self

  def __array__(
    self, dtype: Any = None, copy: bool | None = None
  ) -> np.ndarray:
    del copy  # Nobody else has the array.
    return np.asarray(self.outputs.result()[self.number], dtype)


class _Opened(NamedTuple):
  """A program that is ready to run; see `Program`."""

  session: Session
  outputs: Any

  def start(self, inputs: Any) -> Any:
    leaves = jax.tree.leaves(inputs)
    feeds = dict(zip(self.session.inputs, map(_as_fed, leaves), strict=True))
    wanted, form = jax.tree.flatten(self.outputs)
    computed = self.session.start(wanted, feeds)
    arrays = [_Output(computed, i) for i in range(len(wanted))]
    return jax.tree.unflatten(form, arrays)


@dataclasses.dataclass(frozen=True)
class OnnxEngine:
  """onnxruntime, in float32 or in 8 bits; see `engine.Engine`.

  The result for an item does not depend on the items beside it.

  Attributes:
    sessions: the programs, by name.
  """

  sessions: Mapping[str, _Opened]

  def start(self, program: str, *inputs: Any) -> Any:
    """Starts a program; see `engine.Engine`."""
    return self.sessions[program].start(inputs)


def make_engine(
  programs: Mapping[str, Program], params: Params, *, int8: bool
) -> OnnxEngine:
  """Opens a network's programs in onnxruntime.

  Args:
    programs: see `task.Network.graphs`.
    params: the parameters that they were made of.
    int8: whether to compute with matrices in 8 bits, see `onnx_int8`.

  Raises:
    UserError: onnx or onnxruntime is not installed.
  """
  large = is_large(params)
  sessions = {}
  for name, (graph, outputs) in programs.items():
    sessions[name] = _Opened(_open(graph, large, int8), outputs)
  return OnnxEngine(sessions)


def _open(graph: Graph, large: bool, int8: bool) -> Session:
  """Opens a graph, by way of files where there is no other."""
  model = graph.model()
  if int8:
    onnx_int8.to_int8(model)
  if not large:
    return onnx_session.open_session(model.SerializeToString())
  (onnx,) = require("onnx")
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "model.onnx"
    beside = f"{path.name}{BESIDE}"
    onnx.save(model, path, save_as_external_data=True, location=beside)
    return onnx_session.open_session(path)


def _as_fed(array: Any) -> np.ndarray:
  """Returns an array in the type that graphs take: whole numbers are int64."""
  array = np.asarray(array)
  whole = np.issubdtype(array.dtype, np.integer)
  return array.astype(np.int64) if whole else array
