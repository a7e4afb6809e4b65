"""Names of parameters, ours and those of files."""

import json

import pytest

from time_jax.models import bert, ltg_bert, registry
from time_jax.models.family import abstract_params, vocabulary_tables


@pytest.mark.parametrize(
  ("names", "path", "shape", "expected"),
  [
    (bert, "pooler/bias", [4], ["pooler.dense.bias"]),
    (
      bert,
      "embeddings/word/embedding",
      [9, 4],
      ["embeddings.word_embeddings.weight"],
    ),
    (
      bert,
      "layers/ffn_in/kernel",
      [2, 4, 8],
      [
        "encoder.layer.0.intermediate.dense.weight",
        "encoder.layer.1.intermediate.dense.weight",
      ],
    ),
    (
      bert,
      "last/ffn_norm/scale",
      [4],
      ["encoder.layer.2.output.LayerNorm.weight"],
    ),
    (
      ltg_bert,
      "relative/embedding",
      [7, 4],
      ["embedding.relative_embedding"],
    ),
  ],
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_of_a_key_table_names_all_tensors_of_a_module(
  names, path, shape, expected
):
  assert names.NAMES.names(tuple(path.split("/")), shape, 3) == expected


@pytest.mark.parametrize(
  "name", ["bert", "deberta_v3", "ltgbert", "t5_encoder", "modernbert"]
)
def test_the_word_table_is_known_by_its_logical_axis(golden, name):
  hf_config = json.loads((golden / name / "config.json").read_text())
  family, config = registry.parse_config(hf_config)
  boxed = abstract_params(family.encoder(config, 2))
  (table,) = vocabulary_tables(boxed)
  assert table[-2:] == ("word", "embedding")
