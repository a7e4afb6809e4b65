"""An encoder as PyTorch and transformers run it, to compare with."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from time_jax.core.errors import RunError, first_line
from time_jax.core.storage.paths import Path
from time_jax.hf import files

# (tokens (B, T), mask (B, T)) -> hidden states.
Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]
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
    A function of tokens (B, T) and mask (B, T) that gives hidden states
    (states, B, T, D), the model's output as the last of them.

  Raises:
    RunError: transformers cannot load it, or not all of it.
  """
  import torch
  import transformers

  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  kind = files.read_json(folder / "config.json").get("model_type", "")
  loader: Any = getattr(transformers, _ENCODERS.get(kind, "AutoModel"))
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
  for name, keys in report.items():
    keys = [key for key in map(str, keys) if strict or "pooler." not in key]
    if keys:
      problems[name] = sorted(keys)[:5]
  if problems:
    raise RunError(
      f"{folder} does not load cleanly in transformers: {problems}"
    )

  def encode(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    with torch.no_grad():
      output = model.eval()(
        input_ids=torch.tensor(np.asarray(tokens, np.int64)),
        attention_mask=torch.tensor(np.asarray(mask, np.int64)),
        output_hidden_states=every_layer,
      )
    below = output.hidden_states[:-1] if every_layer else ()
    states = [*below, output.last_hidden_state]
    return np.stack([state.numpy() for state in states])

  return encode
