"""The teacher's tokenizer, which becomes the student's."""

import pathlib
from typing import Any

import tokenizers

from time_jax.data.tokenizing import TokenizerSpec
from time_jax.errors import UserError
from time_jax.hf import files


def load_tokenizer(folder: pathlib.Path, vocab_size: int) -> TokenizerSpec:
  """Reads a folder's tokenizer, whatever its file format.

  Args:
    folder: a Hugging Face model or tokenizer folder.
    vocab_size: rows of the embedding table that its ids index.

  Raises:
    UserError: there is none, or it has no padding token.
  """
  name = f"the tokenizer in {folder}"
  file = folder / "tokenizer.json"
  if file.exists() and (pad := _pad_token(folder)):
    # The file as it is: what transformers makes of it may change from version
    # to version, and with it the hash. Nor does it take seconds to import.
    backend = file.read_text(encoding="utf-8")
    pad_id = _token_id(backend, pad, name)
  else:
    converted = _open(folder)
    backend = converted.backend_tokenizer.to_str()
    pad_id = converted.pad_token_id
  if pad_id is None:
    raise UserError(
      f"{name} has no padding token; add pad_token to its "
      "tokenizer_config.json."
    )
  return TokenizerSpec(backend, pad_id, vocab_size, name)


def save_tokenizer(
  folder: pathlib.Path, out: pathlib.Path, max_length: int
) -> None:
  """Writes a folder's tokenizer anew, in the files that transformers loads.

  Args:
    folder: where it is.
    out: where it goes.
    max_length: tokens that the student takes at most.
  """
  tokenizer = _open(folder)
  tokenizer.model_max_length = max_length
  tokenizer.save_pretrained(out)


def special_ids(folder: pathlib.Path) -> dict[str, int]:
  """Ids that a model's config.json names: pad, bos and eos."""
  tokenizer = _open(folder)
  first = tokenizer.bos_token_id, tokenizer.cls_token_id
  last = tokenizer.eos_token_id, tokenizer.sep_token_id
  ids = {
    "pad_token_id": tokenizer.pad_token_id,
    "bos_token_id": next((i for i in first if i is not None), None),
    "eos_token_id": next((i for i in last if i is not None), None),
  }
  return {name: value for name, value in ids.items() if value is not None}


def _pad_token(folder: pathlib.Path) -> str | None:
  for name in ("tokenizer_config.json", "special_tokens_map.json"):
    if (folder / name).exists():
      token = files.read_json(folder / name).get("pad_token")
      token = token.get("content") if isinstance(token, dict) else token
      if token:
        return token
  return None


def _token_id(backend: str, token: str, name: str) -> int | None:
  try:
    return tokenizers.Tokenizer.from_str(backend).token_to_id(token)
  except Exception as error:  # The library raises nothing narrower.
    raise UserError(f"{name} is damaged: tokenizer.json: {error}.") from error


def _open(folder: pathlib.Path) -> Any:
  known = ("tokenizer*", "*.model", "vocab*", "merges.txt")
  if not any(path for name in known for path in folder.glob(name)):
    raise UserError(
      f"{folder} has no tokenizer; expected tokenizer.json, a SentencePiece "
      "model or vocab.txt beside the weights."
    )
  # Imported here: it takes seconds that most commands need not spend.
  import transformers

  transformers.logging.set_verbosity_error()
  try:
    tokenizer = transformers.AutoTokenizer.from_pretrained(
      str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
    )
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
      raise ValueError("its vocabulary is empty")
    # A file may have been saved with its own fixed length in force.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
  except Exception as error:
    reason = str(error).strip().split("\n")[0].rstrip(".")
    raise UserError(
      f"no usable tokenizer in {folder}: {reason}. Expected tokenizer.json, or "
      "a SentencePiece or WordPiece model that transformers can convert."
    ) from error
  return tokenizer
