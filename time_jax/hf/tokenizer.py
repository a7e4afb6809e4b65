"""The teacher's tokenizer, which becomes the student's."""

import functools
import json
import pathlib
import sys
from typing import Any

import tokenizers

from time_jax.data.tokenizing import TokenizerSpec
from time_jax.errors import UserError
from time_jax.hf import files

_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def load_tokenizer(folder: pathlib.Path, vocab_size: int) -> TokenizerSpec:
  """Reads a folder's tokenizer, whatever its file format.

  Special tokens past the table are dropped, and a note says so: some files
  name tokens that their model never had.

  Args:
    folder: a Hugging Face model or tokenizer folder.
    vocab_size: rows of the embedding table that its ids index.

  Raises:
    UserError: there is none, it has no padding token, or its ordinary tokens
      do not fit into the table.
  """
  name = _name(folder)
  backend = _read(folder, vocab_size)
  pad = _pad_token(folder) or _open(folder).special_tokens_map.get("pad_token")
  pad_id = tokenizers.Tokenizer.from_str(backend).token_to_id(pad or "")
  if pad_id is None:
    raise UserError(
      f"{name} has no padding token within the {vocab_size} rows of the token "
      "table; add pad_token to its tokenizer_config.json."
    )
  return TokenizerSpec(backend, pad_id, vocab_size, name)


def save_tokenizer(
  folder: pathlib.Path, out: pathlib.Path, max_length: int, vocab_size: int
) -> None:
  """Writes the tokenizer that `load_tokenizer` reads for transformers.

  Written as a PreTrainedTokenizerFast, which takes tokenizer.json as it is:
  classes of their own build parts anew, otherwise in every version.

  Args:
    folder: where it is.
    out: where it goes.
    max_length: tokens that the student takes at most.
    vocab_size: rows of the embedding table that its ids index.
  """
  backend = tokenizers.Tokenizer.from_str(_read(folder, vocab_size))
  backend.no_padding()
  backend.no_truncation()
  content = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": max_length,
    # The student has seen the first token type only, which is the default.
    "model_input_names": ["input_ids", "attention_mask"],
    **_special_tokens(folder, backend),
  }
  splitting = json.loads(backend.to_str())["pre_tokenizer"] or {}
  if "add_prefix_space" in splitting:  # Else transformers 4.x makes it false.
    content["add_prefix_space"] = splitting["add_prefix_space"]
  out.mkdir(parents=True, exist_ok=True)
  backend.save(str(out / "tokenizer.json"))
  text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
  (out / "tokenizer_config.json").write_text(text, encoding="utf-8")


def special_ids(folder: pathlib.Path, vocab_size: int) -> dict[str, int]:
  """Ids that a model's config.json names: pad, bos and eos.

  Args:
    folder: a Hugging Face model or tokenizer folder.
    vocab_size: rows of the embedding table; ids past it are left out.
  """
  backend = tokenizers.Tokenizer.from_str(_read(folder, vocab_size))
  tokens = _special_tokens(folder, backend)
  wanted = {
    "pad_token_id": ("pad_token",),
    "bos_token_id": ("bos_token", "cls_token"),
    "eos_token_id": ("eos_token", "sep_token"),
  }
  found = {
    name: next((tokens[kind] for kind in kinds if kind in tokens), None)
    for name, kinds in wanted.items()
  }
  return {
    name: backend.token_to_id(token) for name, token in found.items() if token
  }


def _name(folder: pathlib.Path) -> str:
  return f"the tokenizer in {folder}"


def _read(folder: pathlib.Path, vocab_size: int) -> str:
  """JSON text of the tokenizer, without tokens past the table."""
  file, name = folder / "tokenizer.json", _name(folder)
  if not file.exists():
    return _fit(_open(folder).backend_tokenizer.to_str(), vocab_size, name)
  try:
    # The file as it is: what transformers makes of it may change from version
    # to version, and with it the hash. Nor does it take seconds to import.
    text = file.read_text(encoding="utf-8")
    tokenizers.Tokenizer.from_str(text)
  except Exception as error:  # The library raises nothing narrower.
    raise UserError(f"{name} is damaged: tokenizer.json: {error}.") from error
  return _fit(text, vocab_size, name)


def _fit(text: str, vocab_size: int, name: str) -> str:
  content = json.loads(text)
  tokenizer = tokenizers.Tokenizer.from_str(text)
  tokenizer.no_padding()
  tokenizer.no_truncation()
  vocabulary = tokenizer.get_vocab(with_added_tokens=False)
  ordinary = {t for t, i in vocabulary.items() if i >= vocab_size}
  added = content.get("added_tokens") or []
  past = {t["content"] for t in added if t["id"] >= vocab_size}
  ordinary |= {t["content"] for t in added if not t["special"]} & past
  # What surrounds a text or a pair of texts cannot be done without either.
  ordinary |= {t for t in tokenizer.encode("", "").tokens if t in past}
  if ordinary:
    raise UserError(
      f"{name} does not belong to this model: {len(ordinary)} of its tokens, "
      f"such as {min(ordinary)!r}, have ids past the {vocab_size} rows of the "
      "token table; use the tokenizer that the model was trained with."
    )
  if not past:
    return text
  _note(
    f"{name} names {', '.join(map(repr, sorted(past)))} past the {vocab_size} "
    "rows of the token table; dropped."
  )
  content["added_tokens"] = [t for t in added if t["content"] not in past]
  return json.dumps(content, ensure_ascii=False)


@functools.cache  # Said once.
def _note(text: str) -> None:
  print(f"time_jax: note: {text}", file=sys.stderr)


def _special_tokens(
  folder: pathlib.Path, backend: tokenizers.Tokenizer
) -> dict[str, str]:
  """Kind, such as "pad_token" -> token, of those that have an id."""
  known = _open(folder).special_tokens_map
  tokens = {f"{name}_token": known.get(f"{name}_token") for name in _SPECIAL}
  return {
    kind: str(token)
    for kind, token in tokens.items()
    if token and backend.token_to_id(str(token)) is not None
  }


def _pad_token(folder: pathlib.Path) -> str | None:
  for name in ("tokenizer_config.json", "special_tokens_map.json"):
    if (folder / name).exists():
      token = files.read_json(folder / name).get("pad_token")
      token = token.get("content") if isinstance(token, dict) else token
      if token:
        return token
  return None


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
  except Exception as error:
    reason = str(error).strip().split("\n")[0].rstrip(".")
    raise UserError(
      f"no usable tokenizer in {folder}: {reason}. Expected tokenizer.json, or "
      "a SentencePiece or WordPiece model that transformers can convert."
    ) from error
  return tokenizer
