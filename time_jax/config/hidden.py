"""Which hidden states a student's are compared with, as its config says.

`hidden.pairs = "6:12,3:6"` compares the output of the student's layer 6 with
that of the teacher's layer 12, and 3 with 6.
"""

from typing import Any

from ml_collections import ConfigDict

from time_jax.core.errors import UserError

Pairs = tuple[tuple[int, int], ...]  # the student's layer and the teacher's


def pairs(config: ConfigDict) -> Pairs:
  """Returns the layers whose hidden states are compared.

  Args:
    config: config of a student. Where it has no pairs, the last layer is
      compared with the distilled one.

  Returns:
    The pairs; none where the term has no weight.

  Raises:
    UserError: `hidden.pairs` has another form.
  """
  if not config.hidden.weight:
    return ()
  text = config.hidden.pairs
  if not text:
    return ((config.student.num_layers, config.teacher.layer),)
  try:
    found = tuple(_pair(part) for part in text.split(","))
    if len(set(found)) < len(found):
      raise ValueError(text)
  except ValueError:
    raise UserError(
      f"hidden.pairs={text!r} cannot be read; expected STUDENT:TEACHER, "
      "numbers of layers, each pair once, such as '6:12,3:6'."
    ) from None
  return found


def _pair(text: str) -> tuple[int, int]:
  own, layer = text.split(":")
  return int(own), int(layer)


def problems(config: ConfigDict) -> list[str]:
  """Returns a phrase for each mistake in the hidden-state term of a config.

  Args:
    config: config of a student, whose numbers are in their ranges.
  """
  try:
    compared = pairs(config)
  except UserError as error:
    return [str(error).rstrip(".")]
  last = config.student.num_layers
  found = [
    f"hidden.pairs names layer {own} of the student, which has layers 1 to "
    f"{last}"
    for own, _ in compared
    if not 1 <= own <= last
  ]
  trained = max((own for own, _ in compared), default=last)
  if not found and trained < last and not any(_weights(config)):
    found.append(
      f"hidden.pairs={config.hidden.pairs!r} with all relations.weights 0 "
      f"would leave layer {last} of the student as it is; name it in a pair, "
      f"or expected student.num_layers={trained}"
    )
  return found


def _weights(config: ConfigDict) -> Any:
  return config.relations.weights.values()
