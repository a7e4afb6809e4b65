"""Which family reads which config.json."""

from collections.abc import Mapping
from typing import Any

from time_jax.errors import UserError
from time_jax.models import bert
from time_jax.models.family import Family

FAMILIES: dict[str, Family] = {
  "bert": bert.FAMILY,
  "roberta": bert.FAMILY,
  "camembert": bert.FAMILY,
  "xlm-roberta": bert.FAMILY,
}


def find_family(hf_config: Mapping[str, Any]) -> Family:
  """Looks a checkpoint's family up by its `model_type`, and by nothing else.

  Raises:
    UserError: the architecture is unknown.
  """
  model_type = hf_config.get("model_type")
  if model_type not in FAMILIES:
    raise UserError(
      f"unknown architecture model_type={model_type!r}, architectures="
      f"{hf_config.get('architectures')}; time_jax reads "
      f"{', '.join(sorted(FAMILIES))}."
    )
  return FAMILIES[model_type]
