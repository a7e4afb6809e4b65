"""Writing the files of a tokenizer that has only some of its tokens.

Every form that the folder has is written again, with the same ids: the
tokenizer.json, which is added where it was missing; vocab.txt, or vocab.json
with merges.txt; the SentencePiece model; and the configs beside them, where
they name ids. A form that disagrees with tokenizer.json is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tokenizers

from time_jax.core.errors import RunError
from time_jax.core.storage import atomic_file, json_file
from time_jax.core.storage.paths import Path, list_files
from time_jax.trim.sentencepiece_file import SentencePieceFile
from time_jax.trim.vocabulary import Vocabulary

_MODEL_CONFIGS = ("config.json", "generation_config.json")
_TOKENIZER_CONFIGS = (
  *("special_tokens_map.json", "added_tokens.json"),
  "tokenizer_config.json",
)
_PLAIN_FORMS = ("vocab.txt", "vocab.json", "merges.txt")


def write_tokenizer(
  folder: Path, out: Path, vocabulary: Vocabulary, old_ids: Sequence[int]
) -> list[str]:
  """Writes the tokenizer in every form that its folder has, and configs.

  Args:
    folder: folder of the whole tokenizer.
    out: an existing folder.
    vocabulary: the whole tokenizer.
    old_ids: the tokens that are kept, see `Vocabulary.cut`.

  Returns:
    Names of the files that are left out.

  Raises:
    RunError: the ids of what was written are not the ones expected.
  """
  ids = {vocabulary.tokens[old]: i for i, old in enumerate(old_ids)}
  text = atomic_file.as_json(vocabulary.cut(old_ids), ensure_ascii=False)
  atomic_file.write_text(out / "tokenizer.json", text)
  backend = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
  if backend.get_vocab(with_added_tokens=True) != ids:
    raise RunError(
      f"the tokenizer in {folder} gets other ids than expected when trimmed; "
      "please report it with its tokenizer.json."
    )
  _write_configs(folder, out, ids, old_ids)
  left_out = {name for name in _PLAIN_FORMS if (folder / name).exists()}
  if _plain_form_agrees(folder, vocabulary):
    left_out -= {Path(p).name for p in backend.model.save(str(out))}
  for path, model in _sentencepiece_files(folder, vocabulary):
    if model:
      atomic_file.write_bytes(out / path.name, model.cut(ids))
    else:
      left_out.add(path.name)
  return sorted(left_out)


def _sentencepiece_files(
  folder: Path, vocabulary: Vocabulary
) -> Iterator[tuple[Path, SentencePieceFile | None]]:
  """Yields each *.model, and its content if that fits the vocabulary."""
  for path in list_files(folder, "*.model"):
    model = SentencePieceFile.read(path)
    yield path, model if model and model.fits(vocabulary.ids) else None


def named_ids(
  folder: Path, vocabulary: Vocabulary, special: set[str]
) -> set[int]:
  """Returns the ids to which files beside tokenizer.json give a meaning.

  Args:
    folder: the tokenizer's folder.
    vocabulary: the whole tokenizer.
    special: the special tokens that its configs name.
  """
  names = set(special)
  for _, model in _sentencepiece_files(folder, vocabulary):
    if model:
      names |= model.others() | (vocabulary.ids.keys() - model.places().keys())
  named = {vocabulary.ids[name] for name in names if name in vocabulary.ids}
  for name in _MODEL_CONFIGS:
    for key, value in json_file.read_json_if_there(folder / name).items():
      if key.endswith("_token_id"):
        named |= set(value if isinstance(value, list) else [value])
  # Not `&`, which would keep an id as a config has it, such as 5.0.
  return {i for i in vocabulary.tokens if i in named}


def _write_configs(
  folder: Path, out: Path, ids: Mapping[str, int], old_ids: Sequence[int]
) -> None:
  """Writes the configs of model and tokenizer with the new ids."""
  new = {old: i for i, old in enumerate(old_ids)}
  for name in (*_MODEL_CONFIGS, *_TOKENIZER_CONFIGS):
    if not (folder / name).exists():
      continue
    content = json_file.read_json(folder / name)
    if name in _MODEL_CONFIGS:
      _renumber(content, new)
    elif name == "added_tokens.json":
      content = {token: ids[token] for token in content if token in ids}
    elif decoder := content.get("added_tokens_decoder"):
      texts = {str(old): str(i) for old, i in new.items()}
      content["added_tokens_decoder"] = {
        texts[i]: token for i, token in decoder.items() if i in texts
      }
    atomic_file.write_json(out / name, content, ensure_ascii=False)


def _renumber(config: dict[str, Any], new: Mapping[int, int]) -> None:
  """Changes the ids in a model's config, and its number of tokens."""
  for key, value in config.items():
    # Not every id in a config is one: -1, or an id past the table, is none.
    if key.endswith("_token_id") and isinstance(value, list):
      config[key] = [new[i] for i in value if i in new]
    elif key.endswith("_token_id"):
      config[key] = new.get(value)
    elif key == "vocab_size":
      config[key] = len(new)


def _plain_form_agrees(folder: Path, vocabulary: Vocabulary) -> bool:
  """Returns whether vocab.txt or vocab.json has the ids of tokenizer.json."""
  path = folder / {"WordPiece": "vocab.txt"}.get(vocabulary.kind, "vocab.json")
  if vocabulary.kind == "Unigram" or not path.exists():
    return False
  if path.name == "vocab.json":
    places = json_file.read_json(path)
  else:
    text = path.read_text(encoding="utf-8").removesuffix("\n")
    places = {line: i for i, line in enumerate(text.split("\n"))}
  return all(vocabulary.ids.get(token) == i for token, i in places.items())
