"""The teacher's tokenizer, which becomes the student's."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tokenizers

from time_jax.core.errors import UserError, first_line
from time_jax.core.notes import note
from time_jax.core.storage import atomic_file, json_file
from time_jax.core.storage.paths import Path, list_files
from time_jax.data.tokenizing import TokenizerSpec
from time_jax.hf import files

_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_KINDS = tuple(f"{name}_token" for name in _SPECIAL)
# Text that no tokenizer knows completely: letters of rare scripts, all signs
# of ASCII, and a word longer than WordPiece takes.
_STRANGE = " ".join(
  [
    *map(chr, (0x10000, 0x1032F, 0x10400, 0x12000, 0x13080, 0x16800, 0x1400)),
    *map(chr, range(ord("!"), ord("~") + 1)),
    "x" * 1000,
  ]
)


def load_tokenizer(folder: Path, vocab_size: int) -> TokenizerSpec:
  """Reads a folder's tokenizer, whatever its file format.

  Special tokens past the embedding table are dropped, with a note: some files
  name tokens that their model never had.

  Args:
    folder: a Hugging Face model or tokenizer folder.
    vocab_size: rows of the embedding table that its ids index.

  Raises:
    UserError: there is none, it has no padding or no unknown token, or its
      ordinary tokens do not fit into the table.
  """
  name = _name(folder)
  text, backend = _read(folder, vocab_size)
  tokens = _configured(folder)
  if "pad_token" not in tokens:
    tokens = open_tokenizer(folder).special_tokens_map
  pad = _with_ids(tokens, backend, name).get("pad_token")
  if pad is None:
    raise UserError(
      f"{name} has no padding token within the {vocab_size} rows of the token "
      "table; add pad_token to its tokenizer_config.json."
    )
  return TokenizerSpec(text, backend.token_to_id(pad), vocab_size, name)


def load_alone(folder: Path) -> TokenizerSpec:
  """Reads a tokenizer that may lie apart from its model, as in a workdir.

  The table's size comes from the model's config.json where there is one; else
  the table has a row for every token.

  Args:
    folder: a Hugging Face model or tokenizer folder, or a workdir.

  Raises:
    UserError: see `load_tokenizer`.
  """
  folder = folder_of(folder)
  path = folder / "config.json"
  size = json_file.read_json_if_there(path).get("vocab_size")
  if size is None:
    size = 1 + max(open_tokenizer(folder).get_vocab().values())
  if not isinstance(size, int):
    raise UserError(f"{path}: vocab_size is {size!r}, expected a whole number.")
  return load_tokenizer(folder, size)


def folder_of(folder: Path) -> Path:
  """Returns where a tokenizer lies: in a workdir, in a folder of its own."""
  if not has_tokenizer(folder) and has_tokenizer(folder / "tokenizer"):
    return folder / "tokenizer"
  return folder


def has_tokenizer(folder: Path) -> bool:
  """Returns whether a folder holds a tokenizer of any format."""
  names = ("tokenizer.json", "*.model", "vocab.*")
  return any(list_files(folder, name) for name in names)


def encoder(spec: TokenizerSpec) -> Callable[[str], list[int]]:
  """Returns a function from a text to its ids, special tokens included."""
  backend = tokenizers.Tokenizer.from_str(spec.backend)
  backend.no_padding()
  backend.no_truncation()
  return lambda text: backend.encode(text).ids


def save_tokenizer(
  folder: Path, out: Path, max_length: int, vocab_size: int
) -> None:
  """Writes the tokenizer that `load_tokenizer` reads for transformers.

  It is written as a PreTrainedTokenizerFast, which takes tokenizer.json as it
  is. Other classes build parts of it anew, differently in every version; see
  `tokenizer_class` for where that makes no difference.

  Args:
    folder: where the tokenizer is.
    out: folder to write it to, which is made if need be.
    max_length: tokens that the student takes at most.
    vocab_size: rows of the embedding table that its ids index.
  """
  backend, tokens = _read_with_special(folder, vocab_size)
  config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": max_length,
    # The student has seen the first token type only, which is the default.
    "model_input_names": ["input_ids", "attention_mask"],
    **tokens,
  }
  splitting = json.loads(backend.to_str())["pre_tokenizer"] or {}
  if "add_prefix_space" in splitting:  # Else transformers 4.x makes it false.
    config["add_prefix_space"] = splitting["add_prefix_space"]
  out.mkdir(parents=True, exist_ok=True)
  backend.save(str(out / "tokenizer.json"))
  atomic_file.write_json(
    out / "tokenizer_config.json", config, ensure_ascii=False
  )
  atomic_file.write_json(  # fastembed before 0.9 asks for it.
    out / "special_tokens_map.json",
    _with_flags(tokens, backend),
    ensure_ascii=False,
  )


def _with_flags(
  tokens: Mapping[str, str], backend: tokenizers.Tokenizer
) -> dict[str, Any]:
  """Returns tokens as special_tokens_map.json has them, with their flags.

  Programs that read the file add its tokens to the tokenizer once more. With
  other flags they would change what it does with the spaces around them.
  """
  flags: dict[str, Any] = {}
  for token in backend.get_added_tokens_decoder().values():
    flags[token.content] = dict(sorted(token.__getstate__().items()))
    del flags[token.content]["special"]
  return {kind: flags.get(token, token) for kind, token in tokens.items()}


def vocabulary_sha256(
  folder: Path, vocab_size: int, texts: Sequence[str] = ()
) -> str:
  """Returns a hash of all tokens and their ids, whatever the file's format.

  Args:
    folder: a Hugging Face model or tokenizer folder.
    vocab_size: rows of the embedding table.
    texts: texts whose ids are hashed as well.
  """
  _, backend = _read(folder, vocab_size)
  content: list[Any] = sorted(backend.get_vocab().items())
  content += [backend.encode(text).ids for text in texts]
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def special_ids(folder: Path, vocab_size: int) -> dict[str, int]:
  """Returns the ids that a model's config.json names: pad, bos and eos.

  Args:
    folder: a Hugging Face model or tokenizer folder.
    vocab_size: rows of the embedding table; ids past it are left out.
  """
  backend, tokens = _read_with_special(folder, vocab_size)
  named = {
    "pad_token_id": tokens.get("pad_token"),
    "bos_token_id": tokens.get("bos_token", tokens.get("cls_token")),
    "eos_token_id": tokens.get("eos_token", tokens.get("sep_token")),
  }
  return {k: backend.token_to_id(token) for k, token in named.items() if token}


def special_tokens(folder: Path) -> set[str]:
  """Returns all tokens that are added to a tokenizer, or special in it."""
  tokenizer = open_tokenizer(folder)
  return {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}


def open_tokenizer(folder: Path) -> Any:
  """Opens a folder's tokenizer as transformers' AutoTokenizer.

  Raises:
    UserError: there is none, or none that can be used.
  """
  if not has_tokenizer(folder):
    raise UserError(
      f"{folder} has no tokenizer; expected tokenizer.json, a SentencePiece "
      "model or vocab.txt beside the weights."
    )
  files.check_names(folder)
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
    # One of transformers' goes on with the names of all its architectures.
    reason = first_line(error).partition(", or contain one of")[0]
    raise UserError(
      f"no usable tokenizer in {folder}: {reason.rstrip('.')}. Expected "
      "tokenizer.json, or a SentencePiece or WordPiece model that transformers "
      "can convert."
    ) from error
  _check_unknown(tokenizer.backend_tokenizer, _name(folder))
  return tokenizer


def round_trips(tokenizer: Any, texts: Iterable[str]) -> list[str]:
  """Returns the texts whose ids are the same after decoding and encoding.

  Args:
    tokenizer: a tokenizer of transformers.
    texts: the texts to try.
  """

  def encode(text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]

  return [t for t in texts if encode(tokenizer.decode(encode(t))) == encode(t)]


def _name(folder: Path) -> str:
  return f"the tokenizer in {folder}"


def _read_with_special(
  folder: Path, vocab_size: int
) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
  """Returns the tokenizer, and kind ("pad_token") -> token of those it has."""
  _, backend = _read(folder, vocab_size)
  tokens = open_tokenizer(folder).special_tokens_map
  return backend, _with_ids(tokens, backend, _name(folder))


def _read(folder: Path, vocab_size: int) -> tuple[str, tokenizers.Tokenizer]:
  """Returns a tokenizer as JSON and as an object, without tokens past a table.

  The file is taken as it is: what transformers makes of it may change from
  version to version, and with it the hash. Nor does it take seconds to import.
  """
  file, name = folder / "tokenizer.json", _name(folder)
  in_file = file.exists()
  converted = ""
  if in_file:
    json_file.check_size(file)
  else:
    converted = open_tokenizer(folder).backend_tokenizer.to_str()
  try:
    text = file.read_text(encoding="utf-8") if in_file else converted
    backend = tokenizers.Tokenizer.from_str(text)
    content = json.loads(text)  # It is more particular than the library.
  except Exception as error:  # The library raises nothing narrower.
    raise UserError(f"{name} is damaged: tokenizer.json: {error}.") from error
  _check_unknown(backend, name)
  if in_file:
    _compare_prefix_space(folder, content)
  backend.no_padding()
  backend.no_truncation()
  added = content.get("added_tokens") or []
  past = _past_the_table(added, backend, vocab_size, name)
  if not past:
    return text, backend
  _note_dropped(name, past)
  content["added_tokens"] = [t for t in added if t["content"] not in past]
  text = json.dumps(content, ensure_ascii=False)
  return text, tokenizers.Tokenizer.from_str(text)


def _check_unknown(backend: tokenizers.Tokenizer, name: str) -> None:
  """Refuses a tokenizer that fails at a text that it does not know.

  Byte-level ones need no unknown token, most others do. Whether it is missed
  shows where something unknown is read.

  Raises:
    UserError: it has no unknown token and needs one.
  """
  try:
    backend.encode(_STRANGE)
  except Exception as error:  # The library raises nothing narrower.
    kind = type(backend.model).__name__
    raise UserError(
      f"{name} has no unknown token, and what its {kind} model does not know "
      f"it cannot read ({str(error).rstrip('.')}); expected one in its "
      "vocabulary, named as unk_token (unk_id of Unigram) in tokenizer.json: "
      "add it, or use the tokenizer that the model was trained with."
    ) from error
  except BaseException as error:
    # Where its code in Rust panics, such as at a template of tokens that are
    # not there, the library raises what it derives from no Exception.
    if type(error).__name__ != "PanicException":
      raise
    raise UserError(f"{name} is damaged: tokenizer.json: {error}.") from error


def _compare_prefix_space(folder: Path, content: Mapping[str, Any]) -> None:
  """Notes where two files differ in whether a space is put before a text."""
  path = folder / "tokenizer_config.json"
  configured = json_file.read_json_if_there(path).get("add_prefix_space")
  splitting = content.get("pre_tokenizer") or {}
  steps = [splitting, *(splitting.get("pretokenizers") or [])]
  counts = {s["add_prefix_space"] for s in steps if "add_prefix_space" in s}
  if configured is not None and counts and counts != {configured}:
    note(
      f"{path} has add_prefix_space={configured}, tokenizer.json "
      f"{counts.pop()}, which counts here; transformers may follow the other: "
      "make them the same."
    )


def _past_the_table(
  added: list[dict[str, Any]],
  backend: tokenizers.Tokenizer,
  vocab_size: int,
  name: str,
) -> set[str]:
  """Returns the special tokens without a row.

  Raises:
    UserError: other tokens have no row either.
  """
  vocabulary = backend.get_vocab(with_added_tokens=False)
  past = {t["content"] for t in added if t["id"] >= vocab_size}
  needed = {t for t, i in vocabulary.items() if i >= vocab_size}
  needed |= {t["content"] for t in added if not t["special"]} & past
  # What surrounds a text or a pair of texts cannot be done without either.
  needed |= set(backend.encode("", "").tokens) & past
  if needed:
    raise UserError(
      f"{name} does not belong to this model: {len(needed)} of its tokens, "
      f"such as {min(needed)!r}, have ids past the {vocab_size} rows of the "
      "token table; use the tokenizer that the model was trained with."
    )
  return past


def _with_ids(
  tokens: Mapping[str, Any], backend: tokenizers.Tokenizer, name: str
) -> dict[str, str]:
  """Returns kind, such as "pad_token" -> token, of those that have an id."""
  named = {kind: str(tokens[kind]) for kind in _KINDS if tokens.get(kind)}
  vocabulary = backend.get_vocab(with_added_tokens=True)
  known = {kind: token for kind, token in named.items() if token in vocabulary}
  if dropped := set(named.values()) - set(known.values()):
    _note_dropped(name, dropped)
  return known


def _note_dropped(name: str, tokens: Iterable[str]) -> None:
  listed = ", ".join(map(repr, sorted(tokens)))
  note(f"{name} names {listed}, which have no row in the token table; dropped.")


def _configured(folder: Path) -> dict[str, str]:
  """Returns kind, such as "pad_token" -> token, as JSON files name it."""
  tokens: dict[str, str] = {}
  for name in ("special_tokens_map.json", "tokenizer_config.json"):
    content = json_file.read_json_if_there(folder / name)
    for kind in _KINDS:
      token = content.get(kind)
      token = token.get("content") if isinstance(token, dict) else token
      if token and isinstance(token, str):
        tokens[kind] = token
  return tokens
