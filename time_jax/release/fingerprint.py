"""Fixed inputs, and what an encoder makes of them: its fingerprint.

The rows are a few texts, as the model's own tokenizer cuts them, and random
tokens of several lengths, from one token to all positions. All of them go
through the encoder as one padded batch, so one program is compiled.
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
_GROUPS = 16  # Numbers of a fingerprint for each row and layer.


@dataclasses.dataclass(frozen=True)
class Probe:
  """Rows to show to an encoder.

  Attributes:
    rows: token ids, without padding; those of `texts` come first.
    texts: what the first rows are made of.
    pad_id: what fills the places behind a row.
  """

  rows: tuple[tuple[int, ...], ...]
  texts: tuple[str, ...]
  pad_id: int

  def batch(self) -> Batch:
    """All rows, padded to the longest."""
    longest = max(map(len, self.rows))
    tokens = np.full((len(self.rows), longest), self.pad_id)
    for target, row in zip(tokens, self.rows, strict=True):
      target[: len(row)] = row
    lengths = np.array(list(map(len, self.rows)))
    return make_batch(tokens, np.arange(longest) < lengths[:, None])


def make_probe(
  *,
  vocab_size: int,
  longest: int,
  pad_id: int,
  tokenize: Callable[[str], Sequence[int]] | None,
) -> Probe:
  """Makes the rows.

  Args:
    vocab_size: token ids are below it.
    longest: tokens of the longest row.
    pad_id: no row contains it: RoBERTa and its kin do not count it.
    tokenize: text -> ids, or None where there is no tokenizer.
  """
  texts = TEXTS if tokenize else ()
  rows = [tuple(tokenize(text))[:longest] for text in texts] if tokenize else []
  known = np.setdiff1d(np.arange(vocab_size), [pad_id])
  random = np.random.default_rng(0)
  lengths = (longest, longest // 2 + 1, 17, 3, 2, 1)
  for length in dict.fromkeys(min(length, longest) for length in lengths):
    rows.append(tuple(random.choice(known, length).tolist()))
  kept = [(row, text) for row, text in zip(rows, texts, strict=False) if row]
  texts = tuple(text for _, text in kept)
  return Probe(tuple(row for row in rows if row), texts, pad_id)


def hidden_states(
  encoder: nn.Module, params: Params, batch: Batch
) -> np.ndarray:
  """Hidden states (states, B, T, D) of all layers, in full float32."""
  run: Any = jax.jit(
    lambda params: encoder.apply(
      {"params": params}, batch, method="hidden_states"
    )
  )
  with jax.default_matmul_precision("highest"):
    return np.asarray(run(params))


def fingerprint(probe: Probe, states: np.ndarray) -> np.ndarray:
  """Numbers (states, rows, groups) that every weight has a part in.

  Of the last token of every row, which has seen all others: means over groups
  of its components.

  Args:
    probe: the rows.
    states: what `hidden_states` gives for its batch.
  """
  rows = np.arange(len(probe.rows))
  last = np.array(list(map(len, probe.rows))) - 1
  ends = states[:, rows, last]
  groups = min(_GROUPS, ends.shape[-1])
  return np.stack(
    [ends[..., i::groups].mean(-1) for i in range(groups)], axis=-1
  )


def to_json(probe: Probe, numbers: np.ndarray) -> dict[str, Any]:
  """Rows and fingerprint as JSON that stays readable."""
  return {
    "texts": list(probe.texts),
    "rows": [" ".join(map(str, row)) for row in probe.rows],
    "states": [
      [" ".join(f"{number:.6f}" for number in row) for row in state]
      for state in numbers
    ],
  }


def from_json(content: dict[str, Any], pad_id: int) -> tuple[Probe, np.ndarray]:
  """The inverse of `to_json`."""
  rows = tuple(tuple(map(int, row.split())) for row in content["rows"])
  numbers = [
    [[float(number) for number in row.split()] for row in state]
    for state in content["states"]
  ]
  return Probe(rows, tuple(content["texts"]), pad_id), np.array(numbers)
