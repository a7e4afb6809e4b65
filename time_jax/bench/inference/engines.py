"""Engines that run encoders: JAX, PyTorch, onnxruntime and spaCy.

Each works in its own process. onnxruntime takes part twice, the second time
with weights in 8 bits. spaCy runs a pipeline of its own on the same sentences.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from time_jax.bench.common import spacy_pipelines
from time_jax.bench.common.energy import make_meter
from time_jax.bench.inference.encoders import EncoderFiles
from time_jax.bench.inference.sentences import SentenceBatch
from time_jax.core.arrays import make_batch
from time_jax.hf import load, onnx_int8, torch_encoder
from time_jax.models import stepwise
from time_jax.parallel import sharding
from time_jax.release import onnx_files

Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]
INT8, SPACY = "onnxruntime-int8", "spacy"


class Engine:
  """Encoders in one library, which may use as many threads as it likes."""

  def __init__(self, name: str, encoders: Sequence[EncoderFiles]) -> None:
    """Loads encoders.

    Args:
      name: key of `ENGINES`.
      encoders: encoders to load.
    """
    self._encode = {e.name: ENGINES[name](e) for e in encoders}
    # The others are installed for the CPU alone.
    self.platform = jax.default_backend() if name == "jax" else "cpu"
    self._meter = make_meter(self.platform)

  def last_state(self, encoder: str, batch: SentenceBatch) -> np.ndarray:
    """Returns the hidden states of an encoder's last layer, [B, T, D]."""
    return self._encode[encoder](batch.tokens, batch.mask)

  def seconds(
    self, encoder: str, batches: Sequence[SentenceBatch]
  ) -> list[float]:
    """Times a call with each batch, from host arrays to host arrays."""
    encode, seconds = self._encode[encoder], []
    for batch in batches:
      start = time.perf_counter()
      encode(batch.tokens, batch.mask)
      seconds.append(time.perf_counter() - start)
    return seconds

  def energy(
    self, encoder: str, batches: Sequence[SentenceBatch], at_least: float
  ) -> dict[str, Any]:
    """Measures the energy of encoding all batches, with the device's counter.

    Args:
      encoder: name of the encoder.
      batches: what is encoded, again and again.
      at_least: seconds to measure for, because a counter moves in steps.

    Returns:
      "platform", "chips", "method"; and, where there is a counter, "joules"
      and "seconds" of encoding all batches once.
    """
    measured = self._meter.measure(
      lambda: self.seconds(encoder, batches), at_least
    )
    return {"platform": self.platform, "chips": 1, **measured}


class SpacyPipeline:
  """A pipeline of `spacy.load`, with all of its components."""

  def __init__(self, name: str) -> None:
    """Loads the pipeline.

    Args:
      name: installed package of spaCy, or a folder.

    Raises:
      UserError: spaCy or the pipeline is not installed.
    """
    self._pipeline = spacy_pipelines.load(name)

  def describe(self) -> str:
    """Returns name and version, which stand in for a fingerprint."""
    return spacy_pipelines.describe(self._pipeline)

  def seconds(
    self, encoder: str, batches: Sequence[SentenceBatch]
  ) -> list[float]:
    """Times a call with the sentences of each batch; see `Engine`."""
    del encoder
    seconds = []
    for batch in batches:
      start = time.perf_counter()
      list(self._pipeline.pipe(batch.texts, batch_size=len(batch.texts)))
      seconds.append(time.perf_counter() - start)
    return seconds


def _load_jax(files: EncoderFiles) -> Encode:
  # One device, whose energy is counted.
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  encoder, params = load.load_encoder(files.folder, dtype=np.float32, mesh=mesh)
  encode = jax.jit(functools.partial(stepwise.last_state, encoder))
  apart = stepwise.unstack(params)
  # For the life of the process: entering it takes time at every call.
  contextlib.ExitStack().enter_context(sharding.use_mesh(mesh))
  return lambda tokens, mask: np.asarray(
    encode(apart, make_batch(tokens, mask))
  )


def _load_torch(files: EncoderFiles) -> Encode:
  encode = torch_encoder.load_torch(
    files.folder, strict=False, every_layer=False
  )
  return lambda tokens, mask: encode(tokens, mask)[-1]


def _load_onnx(files: EncoderFiles) -> Encode:
  assert files.onnx, files
  return onnx_files.load_onnx(files.onnx)


def _load_int8(files: EncoderFiles) -> Encode:
  assert files.onnx, files
  path = files.onnx.with_suffix(".int8")
  large = onnx_files.size_of(files.onnx) > files.onnx.stat().st_size
  onnx_int8.write_int8(files.onnx, path, large=large)
  return onnx_files.load_onnx(path)


ENGINES: dict[str, Callable[[EncoderFiles], Encode]] = {
  "jax": _load_jax,
  "torch": _load_torch,
  "onnxruntime": _load_onnx,
  INT8: _load_int8,
}
# Engines that read a graph -> the suffix of its file.
GRAPHS = {"onnxruntime": ".onnx", INT8: ".int8"}


def file_bytes(engine: str, files: EncoderFiles) -> int:
  """Returns the bytes of the file that an engine has read."""
  if engine in GRAPHS:
    assert files.onnx, files
    return onnx_files.size_of(files.onnx.with_suffix(GRAPHS[engine]))
  return sum(f.stat().st_size for f in files.folder.glob("*.safetensors"))
