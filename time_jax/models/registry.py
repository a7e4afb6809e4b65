"""Finds the family of encoders that reads a config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from time_jax.core.errors import UserError
from time_jax.models import bert, deberta, eurobert, ltg_bert, modernbert, t5
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

_GPT_BERT = "GPT-BERT (NorBERT 4) gates its values and weighs its layers"
_HPLT_3 = "; of HPLT take release 2.0 or 1.2, which are LTG-BERT"
# What looks supported and is not, with the reason.
REFUSED = {
  "xlm-roberta-xl": "pre-norm, unlike XLM-R base and large",
  "umt5": "a table of distances in every block, unlike T5 and mT5",
  "deberta": "DeBERTa v1 has other projections than v2 and v3",
  "gptbert": f"{_GPT_BERT}, as the encoders of HPLT 3.0 do{_HPLT_3}",
  "norbert4": _GPT_BERT,
  "nort5": "NorT5, such as the T5 models of HPLT 3.0, has an encoder and a "
  "decoder of its own kind, which is not T5's, and its code is not in "
  f"transformers{_HPLT_3}",
}


def parse_config(hf_config: Mapping[str, Any]) -> tuple[Family, Any]:
  """Returns the family and frozen config that a config.json describes.

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
  """Returns the family of a checkpoint by its config.json.

  Raises:
    UserError: the architecture is not supported, or not known.
  """
  model_type = hf_config.get("model_type")
  names = hf_config.get("architectures") or [_of_own_code(hf_config)]
  # Without a model_type: LtgbertForMaskedLM -> ltgbert.
  name = str(names[0]).lower().partition("for")[0].removesuffix("model")
  name = model_type or name
  if name in FAMILIES:
    return FAMILIES[name]
  described = f"model_type={model_type!r}, architectures={names}"
  known = ", ".join(sorted(FAMILIES))
  if name in REFUSED:
    raise UserError(
      f"{described} is not supported: {REFUSED[name]}; time_jax reads {known}."
    )
  hint = "" if model_type else "; add the model_type if you know it"
  raise UserError(
    f"unknown architecture {described}; time_jax reads {known}{hint}."
  )


def _of_own_code(hf_config: Mapping[str, Any]) -> str:
  """Returns the name of a model that brings its own code, which is not run.

  configuration_nort5.NorT5Config -> NorT5
  """
  auto_map = hf_config.get("auto_map")
  config = auto_map.get("AutoConfig") if isinstance(auto_map, dict) else None
  return str(config or "").rpartition(".")[2].removesuffix("Config")
