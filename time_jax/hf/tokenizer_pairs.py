"""Pairs of texts, such as a question and a context, as tokenizers join them."""

import tokenizers

from time_jax.core.storage import atomic_file, json_file
from time_jax.core.storage.paths import Path
from time_jax.data.tokenizing import TokenizerSpec, load_backend


def separates(spec: TokenizerSpec) -> bool:
  """Returns whether a tokenizer puts a token between the texts of a pair."""
  texts = load_backend(spec).encode("a", "a").sequence_ids
  if 0 not in texts or 1 not in texts:
    return False
  return None in texts[texts.index(0) : texts.index(1)]


def name_token_types(folder: Path, num_types: int) -> None:
  """Lets transformers give the token types of pairs, where they matter.

  Args:
    folder: a tokenizer's folder, as `tokenizer.save_tokenizer` writes it.
    num_types: number of token types that the model has.
  """
  path = folder / "tokenizer.json"
  pair = tokenizers.Tokenizer.from_file(str(path)).encode("a", "a")
  if 0 < max(pair.type_ids, default=0) < num_types:
    path = folder / "tokenizer_config.json"
    content = json_file.read_json(path)
    content["model_input_names"].insert(1, "token_type_ids")
    atomic_file.write_json(path, content, ensure_ascii=False)
