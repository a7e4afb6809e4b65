"""Which family reads which config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from time_jax.errors import UserError
from time_jax.models import (
  bert,
  deberta,
  eurobert,
  ltg_bert,
  modernbert,
  t5,
)
from time_jax.models.family import Family

# By config.json's model_type, or, where it has none, by its architecture.
FAMILIES: dict[str, Family] = {
  "bert": bert.FAMILY,
  "roberta": bert.FAMILY,
  "camembert": bert.FAMILY,
  "xlm-roberta": bert.FAMILY,
  "electra": bert.FAMILY,
  "deberta-v2": deberta.FAMILY,
  "t5": t5.FAMILY,
  "mt5": t5.FAMILY,
  "modernbert": modernbert.FAMILY,
  "eurobert": eurobert.FAMILY,
  "ltgbert": ltg_bert.FAMILY,
  "norbert": ltg_bert.FAMILY,
}

# What looks supported and is not, with the reason.
REFUSED = {
  "xlm-roberta-xl": "pre-norm, unlike XLM-R base and large",
  "umt5": "a table of distances in every block, unlike T5 and mT5",
  "deberta": "DeBERTa v1 has other projections than v2 and v3",
  "gptbert": "GPT-BERT (NorBERT 4) gates its values and weighs its layers",
  "norbert4": "GPT-BERT (NorBERT 4) gates its values and weighs its layers",
}


def parse_config(hf_config: Mapping[str, Any]) -> tuple[Family, Any]:
  """Family and frozen config of what a config.json says.

  Raises:
    UserError: the architecture is not supported, or a size in the config is
      no whole number.
  """
  family = find_family(hf_config)
  config = family.parse_config(hf_config)
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.type is int and type(value) is not int:
      raise UserError(f"{field.name}={value!r}; expected a whole number.")
  return family, config


def find_family(hf_config: Mapping[str, Any]) -> Family:
  """Looks a checkpoint's family up by what its config.json says it is.

  Raises:
    UserError: the architecture is not supported, or not known.
  """
  model_type = hf_config.get("model_type")
  names = hf_config.get("architectures") or [""]
  # Without a model_type: LtgbertForMaskedLM -> ltgbert.
  name = model_type or str(names[0]).lower().partition("for")[0]
  if name in FAMILIES:
    return FAMILIES[name]
  said = f"model_type={model_type!r}, architectures={names}"
  known = ", ".join(sorted(FAMILIES))
  if name in REFUSED:
    raise UserError(
      f"{said} is not supported: {REFUSED[name]}; time_jax reads {known}."
    )
  hint = "" if model_type else "; add the model_type if you know it"
  raise UserError(f"unknown architecture {said}; time_jax reads {known}{hint}.")
