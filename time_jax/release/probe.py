"""Fixed inputs, and the fingerprint of an encoder: what it makes of them.

The rows are a few texts, tokenized by the model's own tokenizer, and random
tokens in several lengths, from one token to as many as the model takes. They
form one padded batch, so that a single program is compiled.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from time_jax.core.arrays import Batch, make_batch
from time_jax.models.family import Params

TEXTS = (
  "Small is fast.",
  "The ferry leaves at 6:45; if it's late, we'll miss the train (again).",
  "Ærøskøbing, Győr, Dún na nGall: naïve façades für 3,50 €?",
  "今日は良い天気です。 नमस्ते दुनिया، مرحبا بالعالم 👍🏽",
  "a",
)
LONGEST = 512  # tokens of a row where a model knows no limit
_GROUPS = 16  # numbers of a fingerprint for each row and layer


@dataclasses.dataclass(frozen=True)
class Probe:
  """Rows that encoders are compared on.

  Attributes:
    rows: token ids without padding; the rows of `texts` come first.
    texts: the texts of the first rows.
    pad_id: id of the padding after each row.
  """

  rows: tuple[tuple[int, ...], ...]
  texts: tuple[str, ...]
  pad_id: int

  def batch(self) -> Batch:
    """Returns all rows, padded to the longest."""
    lengths = np.array(list(map(len, self.rows)))
    tokens = np.full((len(self.rows), lengths.max()), self.pad_id)
    for target, row in zip(tokens, self.rows, strict=True):
      target[: len(row)] = row
    return make_batch(tokens, np.arange(lengths.max()) < lengths[:, None])

  def fingerprint(self, states: np.ndarray) -> np.ndarray:
    """Summarises hidden states by a few numbers that all weights influence.

    They are means over groups of components of the last token of each row,
    which attends to all others.

    Args:
      states: hidden states (states, B, T, D) of `batch`.

    Returns:
      The numbers, (states, rows, groups).
    """
    last = [len(row) - 1 for row in self.rows]
    ends = states[:, np.arange(len(last)), last]
    groups = min(_GROUPS, ends.shape[-1])
    return np.stack(
      [ends[..., i::groups].mean(-1) for i in range(groups)], axis=-1
    )


def make_probe(
  *,
  vocab_size: int,
  longest: int,
  pad_id: int,
  tokenize: Callable[[str], Sequence[int]] | None,
) -> Probe:
  """Makes the rows that are recorded with an export.

  Args:
    vocab_size: token ids are below it.
    longest: number of tokens of the longest row.
    pad_id: the padding token, which no row contains: RoBERTa's positions skip
      it.
    tokenize: maps a text to ids; None where there is no tokenizer.
  """
  texts = TEXTS if tokenize else ()
  rows = [tuple(tokenize(text))[:longest] for text in texts] if tokenize else []
  known = np.setdiff1d(np.arange(vocab_size), [pad_id])
  random = np.random.default_rng(0)
  lengths = (longest, longest // 2 + 1, 17, 3, 2, 1)
  for length in dict.fromkeys(min(length, longest) for length in lengths):
    rows.append(tuple(random.choice(known, length).tolist()))
  texts = tuple(t for t, row in zip(texts, rows, strict=False) if row)
  return Probe(tuple(row for row in rows if row), texts, pad_id)


def hidden_states(
  encoder: nn.Module, params: Params, batch: Batch
) -> np.ndarray:
  """Computes the hidden states of all layers, with products in full float32.

  Args:
    encoder: a complete encoder.
    params: its parameters.
    batch: rows of tokens.

  Returns:
    The states, (states, B, T, D).
  """
  run: Any = jax.jit(
    lambda params: encoder.apply(
      {"params": params}, batch, method="hidden_states"
    )
  )
  with jax.default_matmul_precision("highest"):
    return np.asarray(run(params))


def to_json(probe: Probe, numbers: np.ndarray) -> dict[str, Any]:
  """Returns a probe and its fingerprint as JSON that people can read.

  Args:
    probe: the rows.
    numbers: what `Probe.fingerprint` returned.
  """
  return {
    "texts": list(probe.texts),
    "rows": [" ".join(map(str, row)) for row in probe.rows],
    "states": [
      [" ".join(f"{number:.6f}" for number in row) for row in state]
      for state in numbers
    ],
  }


def from_json(content: dict[str, Any], pad_id: int) -> tuple[Probe, np.ndarray]:
  """Reads what `to_json` returned.

  Args:
    content: the JSON.
    pad_id: the padding of the probe, which is not in the JSON.

  Returns:
    The probe and its fingerprint.
  """
  rows = tuple(tuple(map(int, row.split())) for row in content["rows"])
  numbers = [[row.split() for row in state] for state in content["states"]]
  probe = Probe(rows, tuple(content["texts"]), pad_id)
  return probe, np.array(numbers, float)
