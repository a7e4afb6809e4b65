"""A Hugging Face folder whose parts are read when first needed, and kept."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from time_jax.core.arrays import Batch
from time_jax.core.storage import json_file
from time_jax.core.storage.paths import Path
from time_jax.hf import (
  files,
  fine_tuned,
  load,
  task_classes,
  tokenizer,
  torch_encoder,
)
from time_jax.hf.task_classes import TaskClass
from time_jax.hf.weights import Weights
from time_jax.parallel import sharding
from time_jax.release import probe
from time_jax.release.record import read_record
from time_jax.run import saved_student


class NotCheckedError(Exception):
  """There is nothing to check against; the message says what is missing."""


class ModelFolder:
  """A folder, and the student that it should hold.

  Attributes:
    path: the folder.
    student: the student to compare with, or None.
  """

  def __init__(
    self,
    path: Path,
    student: saved_student.Student | None = None,
    allow_pickle: bool = False,
  ) -> None:
    self.path = path
    self.student = student
    self._allow_pickle = allow_pickle

  @functools.cached_property
  def record(self) -> dict[str, Any] | None:
    """Its record, see `read_record`."""
    return read_record(self.path)

  @property
  def fingerprint(self) -> dict[str, Any]:
    """The record's fingerprint, see `probe`; empty if there is none."""
    return (self.record or {}).get("fingerprint") or {}

  @functools.cached_property
  def hf_config(self) -> dict[str, Any]:
    """Content of config.json."""
    return files.model_config(self.path)

  @functools.cached_property
  def config(self) -> Any:
    """Frozen config of the family."""
    return load.read_config(self.path)[1]

  @functools.cached_property
  def tokenizer(self) -> Any:
    """The tokenizer as transformers opens it."""
    if not tokenizer.has_tokenizer(self.path):
      raise NotCheckedError("there is no tokenizer in the folder")
    return tokenizer.open_tokenizer(self.path)

  def token_ids(self, text: str) -> list[int]:
    """Returns the ids that transformers gives to a text."""
    return self.tokenizer(text)["input_ids"]

  @functools.cached_property
  def encoder(self) -> tuple[Any, Any]:
    """Encoder and parameters, float32."""
    return load.load_encoder(
      self.path,
      dtype=jnp.dtype("float32"),
      mesh=sharding.make_mesh(),
      allow_pickle=self._allow_pickle,
    )

  def weights(self) -> Weights:
    """Opens the tensors, to be used in a `with` statement."""
    return Weights(self.path, self._allow_pickle)

  @functools.cached_property
  def torch(self) -> torch_encoder.Encode:
    """The encoder in PyTorch."""
    self._require_torch()
    return torch_encoder.load_torch(
      self.path, strict=self._is_ours, allow_pickle=self._allow_pickle
    )

  @functools.cached_property
  def task_class(self) -> TaskClass | None:
    """The class of a model with a head, by config.json."""
    return task_classes.of_config(self.hf_config)

  @property
  def is_fine_tuned(self) -> bool:
    """Whether `finetune` made it."""
    return fine_tuned.is_fine_tuned(self.path)

  @functools.cached_property
  def logits(self) -> np.ndarray:
    """Logits (B, T, C) that JAX computes from `batch`."""
    with self.weights() as weights:
      head = task_classes.read_head(weights, self.hf_config)
    return head.logits(self.states[-1])

  @functools.cached_property
  def torch_with_head(self) -> torch_encoder.Encode:
    """The model with its head in PyTorch."""
    assert self.task_class, self.path
    self._require_torch()
    return torch_encoder.load_torch_with_head(
      self.path, self.task_class, self._is_ours, self._allow_pickle
    )

  @property
  def _is_ours(self) -> bool:
    """Whether every tensor that the class has was written by us."""
    if self.is_fine_tuned:  # Elsewhere the pooler is left out.
      return self.task_class is not None
    return self.record is not None

  def _require_torch(self) -> None:
    if not torch_encoder.installed():
      raise NotCheckedError("torch is not installed")
    if not torch_encoder.knows(self.hf_config):
      raise NotCheckedError("transformers has no such class")

  @functools.cached_property
  def probe(self) -> probe.Probe:
    """The record's own rows where there is a record, else fresh ones."""
    pad_id = self.hf_config.get("pad_token_id")
    # Where nothing is looked up, padding may be any id.
    if type(pad_id) is not int or not 0 <= pad_id < self.config.vocab_size:
      pad_id = 0
    if self.fingerprint:
      return probe.from_json(self.fingerprint, pad_id)[0]
    known = tokenizer.has_tokenizer(self.path)
    return probe.make_probe(
      vocab_size=self.config.vocab_size,
      longest=min(self.config.max_positions or probe.LONGEST, probe.LONGEST),
      pad_id=pad_id,
      tokenize=self.token_ids if known else None,
    )

  @functools.cached_property
  def batch(self) -> Batch:
    """The rows of `probe`, padded; with types of tokens if the model has any.

    The second half of each row is then of type 1.
    """
    return dataclasses.replace(self.probe.batch(), token_types=self.types)

  @functools.cached_property
  def types(self) -> np.ndarray | None:
    """Types of the tokens of `batch`; None if the model is to have none."""
    if not self.has_token_types:
      return None
    real = np.asarray(self.probe.batch().segment_ids) > 0
    seen = np.cumsum(real, axis=1) > real.sum(axis=1, keepdims=True) / 2
    return (seen & real).astype(np.int32)

  @functools.cached_property
  def has_token_types(self) -> bool:
    """Whether the tokenizer of a model with a head gives types of tokens."""
    path = self.path / "tokenizer_config.json"
    names = json_file.read_json_if_there(path).get("model_input_names") or ()
    given = "token_type_ids" in names and self.task_class is not None
    return given and getattr(self.config, "num_token_types", 1) > 1

  @functools.cached_property
  def states(self) -> np.ndarray:
    """Hidden states (states, B, T, D) that JAX computes from `batch`."""
    encoder, params = self.encoder
    return probe.hidden_states(encoder, params, self.batch)
