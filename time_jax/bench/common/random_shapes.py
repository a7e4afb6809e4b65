"""Shapes of encoders whose weights are random: enough to measure speed."""

import re
from typing import Any

from time_jax.bench.common.flags import RANDOM
from time_jax.catalog.teachers import XLMR_LARGE
from time_jax.config.distill import STUDENT_SIZES
from time_jax.core.errors import UserError
from time_jax.models.bert import BertConfig

_HEADS = 12
_SHAPES: dict[str, Any] = {
  name: dict(size, num_heads=_HEADS) for name, size in STUDENT_SIZES.items()
} | {
  "xlmr-large": dict(
    num_layers=XLMR_LARGE["num_hidden_layers"],
    hidden_size=XLMR_LARGE["hidden_size"],
    intermediate_size=XLMR_LARGE["intermediate_size"],
    num_heads=XLMR_LARGE["num_attention_heads"],
  )
}


def vocabulary(spec: str) -> int:
  """Returns the rows of the token table of the model that a shape is named of.

  It is 0 for a shape that is named of none.

  Args:
    spec: see `shape`.
  """
  large = spec == f"{RANDOM}xlmr-large"
  return XLMR_LARGE["vocab_size"] if large else 0


def shape(spec: str, vocab_size: int) -> BertConfig:
  """Returns the shape of a random encoder.

  Args:
    spec: random: and a name; or LAYERSxWIDTH[xHEADS], with an MLP four times
      as wide.
    vocab_size: rows of its token table.

  Raises:
    UserError: there is no such shape.
  """
  name = spec.removeprefix(RANDOM)
  if name in _SHAPES:
    return BertConfig(vocab_size=vocab_size, **_SHAPES[name])
  match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)(?:x([1-9]\d*))?", name)
  if not match:
    raise UserError(
      f"{RANDOM}{name} is unknown; known: {', '.join(_SHAPES)}, and "
      "LAYERSxWIDTH or LAYERSxWIDTHxHEADS, such as 4x384."
    )
  layers, width, heads = (int(number or _HEADS) for number in match.groups())
  if width % heads:
    raise UserError(
      f"{RANDOM}{name}: {heads} attention heads do not divide the width; "
      f"expected {RANDOM}{layers}x{width}xHEADS with another number of them."
    )
  return BertConfig(
    vocab_size=vocab_size,
    num_layers=layers,
    hidden_size=width,
    intermediate_size=4 * width,
    num_heads=heads,
  )
