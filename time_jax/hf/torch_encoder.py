"""An encoder, or one with a head, as PyTorch and transformers run it."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from time_jax.core.errors import RunError, first_line
from time_jax.core.storage import json_file
from time_jax.core.storage.paths import Path
from time_jax.hf import task_classes
from time_jax.hf.task_classes import TaskClass

# (tokens (B, T), mask (B, T), types of tokens (B, T); without them all are 0)
# -> hidden states, or logits.
Encode = Callable[..., np.ndarray]
# Classes of an encoder alone, where AutoModel would take its decoder, too.
_ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel"}


def installed() -> bool:
  """Returns whether PyTorch is installed."""
  return importlib.util.find_spec("torch") is not None


def knows(hf_config: Mapping[str, Any]) -> bool:
  """Returns whether transformers has a class for a config.json."""
  import transformers

  return hf_config.get("model_type", "") in transformers.CONFIG_MAPPING


def load_torch(
  folder: Path,
  strict: bool,
  every_layer: bool = True,
  allow_pickle: bool = False,
) -> Encode:
  """Loads a folder in float32; no code of it is executed.

  Args:
    folder: the model's folder.
    strict: whether a tensor that the model does not know, or a pooler that is
      not there, is wrong; heads of other people's models are not.
    every_layer: whether all hidden states are given, or the last one alone.
    allow_pickle: see `weight_files.find_weights`.

  Returns:
    A function that gives hidden states (states, B, T, D), the model's output as
    the last of them.

  Raises:
    RunError: transformers cannot load it, or not all of it.
  """
  hf_config = json_file.read_json(folder / "config.json")
  kind = task_classes.of_config(hf_config)
  if strict and kind:  # What has its head would be strange to the encoder.
    model = getattr(
      _load(folder, kind.name, strict, allow_pickle), kind.encoder
    )
  else:
    name = _ENCODERS.get(hf_config.get("model_type", ""), "AutoModel")
    model = _load(folder, name, strict, allow_pickle)

  def encode(
    tokens: np.ndarray, mask: np.ndarray, types: np.ndarray | None = None
  ) -> np.ndarray:
    output = _run(model, tokens, mask, types, output_hidden_states=every_layer)
    below = output.hidden_states[:-1] if every_layer else ()
    states = [*below, output.last_hidden_state]
    return np.stack([state.numpy() for state in states])

  return encode


def load_torch_with_head(
  folder: Path, kind: TaskClass, strict: bool, allow_pickle: bool = False
) -> Encode:
  """Loads a model with a head in float32; no code of it is executed.

  Args:
    folder: the model's folder.
    kind: its class.
    strict: see `load_torch`.
    allow_pickle: see `load_torch`.

  Returns:
    A function that gives logits (B, T, C).

  Raises:
    RunError: transformers cannot load it, or not all of it.
  """
  model = _load(folder, kind.name, strict, allow_pickle)

  def encode(
    tokens: np.ndarray, mask: np.ndarray, types: np.ndarray | None = None
  ) -> np.ndarray:
    output = _run(model, tokens, mask, types)
    if kind.reads_pairs:
      both = output.start_logits.numpy(), output.end_logits.numpy()
      return np.stack(both, axis=-1)
    return output.logits.numpy()

  return encode


def _load(folder: Path, name: str, strict: bool, allow_pickle: bool) -> Any:
  """Loads a folder by a class of transformers; see `load_torch`."""
  import torch
  import transformers

  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  loader: Any = getattr(transformers, name)
  try:
    model, report = loader.from_pretrained(
      str(folder),
      output_loading_info=True,
      local_files_only=True,
      trust_remote_code=False,
      use_safetensors=None if allow_pickle else True,  # None: if there.
      dtype=torch.float32,
    )
  except Exception as error:  # Its errors share no base class.
    raise RunError(
      f"transformers cannot load {folder}: {first_line(error)}"
    ) from error
  if not strict:
    report.pop("unexpected_keys", None)
  problems = {}
  for problem, keys in report.items():
    keys = [key for key in map(str, keys) if strict or "pooler." not in key]
    if keys:
      problems[problem] = sorted(keys)[:5]
  if problems:
    raise RunError(
      f"{folder} does not load cleanly in transformers: {problems}"
    )

  return model.eval()


def _run(
  model: Any,
  tokens: np.ndarray,
  mask: np.ndarray,
  types: np.ndarray | None,
  **flags: Any,
) -> Any:
  import torch

  inputs = {"input_ids": tokens, "attention_mask": mask}
  if types is not None:
    inputs["token_type_ids"] = types
  tensors = {
    k: torch.tensor(np.asarray(x, np.int64)) for k, x in inputs.items()
  }
  with torch.no_grad():
    return model(**tensors, **flags)
