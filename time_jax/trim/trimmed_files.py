"""Writing the files of a tokenizer that knows only some of its tokens.

Every form that the folder has is written again, with the same ids: the
tokenizer.json, which is added where it was missing; vocab.txt, or vocab.json
with merges.txt; the SentencePiece model; and the configs beside them, where
they name ids. A form that says something else than tokenizer.json is left out.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from time_jax.core.errors import RunError
from time_jax.core.storage import atomic_file
from time_jax.hf import files
from time_jax.trim.merges import pair_of
from time_jax.trim.sentencepiece_file import SentencePieceFile
from time_jax.trim.vocabulary import Vocabulary


def write_tokenizer(
  folder: pathlib.Path,
  out: pathlib.Path,
  vocabulary: Vocabulary,
  old_ids: Sequence[int],
) -> list[str]:
  """Writes them.

  Args:
    folder: of the whole tokenizer.
    out: folder, exists.
    vocabulary: the whole tokenizer.
    old_ids: the tokens that are kept, see `Vocabulary.cut`.

  Returns:
    Names of the files that are left out.

  Raises:
    RunError: the ids of what was written are not the ones expected.
  """
  new = {old: i for i, old in enumerate(old_ids)}
  ids = {vocabulary.tokens[old]: i for old, i in new.items()}
  content = vocabulary.cut(old_ids)
  text = atomic_file.as_json(content, ensure_ascii=False)
  _write_text(out / "tokenizer.json", text)
  found = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
  if found.get_vocab(with_added_tokens=True) != ids:
    raise RunError(
      f"the tokenizer in {folder} gets other ids than expected when trimmed; "
      "please report it with its tokenizer.json."
    )
  _write_configs(folder, out, ids, new)
  left = _write_plain(folder, out, vocabulary, content["model"])
  for path in sorted(folder.glob("*.model")):
    model = SentencePieceFile.read(path)
    if model and _one_distance(model.places(), vocabulary):
      (out / path.name).write_bytes(model.cut(ids))
    else:
      left.append(path.name)
  return left


def outside_of_text(
  folder: pathlib.Path, vocabulary: Vocabulary, names: set[str]
) -> set[int]:
  """Ids that stay because files beside tokenizer.json give them a meaning.

  Args:
    folder: of the tokenizer.
    vocabulary: the whole tokenizer.
    names: the special tokens that its configs name.
  """
  for path in folder.glob("*.model"):
    model = SentencePieceFile.read(path)
    if model and _one_distance(model.places(), vocabulary):
      names = names | set(model.others())
      ordinary = set(model.places())
      names |= set(vocabulary.tokens.values()) - ordinary
  for name in ("config.json", "generation_config.json"):
    if (folder / name).exists():
      content = files.read_json(folder / name)
      names = names | {
        vocabulary.tokens.get(i, "") for i in _ids_in(content).values()
      }
  return {i for i, token in vocabulary.tokens.items() if token in names}


def write_config(
  folder: pathlib.Path, out: pathlib.Path, old_ids: Sequence[int]
) -> None:
  """Writes config.json and generation_config.json with the new ids."""
  new = {old: i for i, old in enumerate(old_ids)}
  for name in ("config.json", "generation_config.json"):
    if not (folder / name).exists():
      continue
    content = files.read_json(folder / name)
    for key, value in content.items():
      if key.endswith("_token_id"):
        content[key] = _renumbered(value, new)
    if "vocab_size" in content:
      content["vocab_size"] = len(old_ids)
    _write_json(out / name, content)


def _renumbered(value: Any, new: Mapping[int, int]) -> Any:
  if isinstance(value, list):
    return [new[i] for i in value if i in new]
  # Not every id in a config is one: -1, or an id past the table, is none.
  return new.get(value)


def _ids_in(content: Mapping[str, Any]) -> dict[str, int]:
  named: dict[str, int] = {}
  for key, value in content.items():
    if key.endswith("_token_id") and value is not None:
      listed = value if isinstance(value, list) else [value]
      named |= {f"{key}.{n}": i for n, i in enumerate(listed)}
  return named


def _write_configs(
  folder: pathlib.Path,
  out: pathlib.Path,
  ids: Mapping[str, int],
  new: Mapping[int, int],
) -> None:
  if (folder / "special_tokens_map.json").exists():
    content = files.read_json(folder / "special_tokens_map.json")
    _write_json(out / "special_tokens_map.json", content)
  if (folder / "added_tokens.json").exists():
    content = files.read_json(folder / "added_tokens.json")
    known = {token: ids[token] for token in content if token in ids}
    _write_json(out / "added_tokens.json", known)
  if (folder / "tokenizer_config.json").exists():
    content = files.read_json(folder / "tokenizer_config.json")
    added = content.get("added_tokens_decoder")
    if added:
      content["added_tokens_decoder"] = {
        str(new[int(i)]): token for i, token in added.items() if int(i) in new
      }
    _write_json(out / "tokenizer_config.json", content)


def _write_plain(
  folder: pathlib.Path,
  out: pathlib.Path,
  vocabulary: Vocabulary,
  model: Mapping[str, Any],
) -> list[str]:
  """vocab.txt, vocab.json and merges.txt; returns what is left out."""
  left = []
  known = {token: i for i, token in vocabulary.tokens.items()}
  path = folder / "vocab.txt"
  if path.exists():
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if vocabulary.kind == "WordPiece" and _says(dict(_numbered(lines)), known):
      tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
      _write_text(out / path.name, "".join(f"{token}\n" for token in tokens))
    else:
      left.append(path.name)
  path, merges = folder / "vocab.json", folder / "merges.txt"
  if path.exists() or merges.exists():
    if (
      vocabulary.kind == "BPE"
      and path.exists()
      and _says(files.read_json(path), known)
    ):
      _write_text(out / path.name, atomic_file.as_json(model["vocab"]))
      pairs = "".join(f"{' '.join(pair_of(m))}\n" for m in model["merges"])
      _write_text(out / merges.name, f"#version: 0.2\n{pairs}")
    else:
      left += [p.name for p in (path, merges) if p.exists()]
  return left


def _numbered(lines: Sequence[str]) -> list[tuple[str, int]]:
  return [(line, i) for i, line in enumerate(lines)]


def _says(found: Mapping[str, Any], known: Mapping[str, int]) -> bool:
  return all(known.get(token) == i for token, i in found.items())


def _one_distance(places: Mapping[str, int], vocabulary: Vocabulary) -> bool:
  """Whether ids follow from a SentencePiece model's by one and the same sum."""
  ids = {token: i for i, token in vocabulary.tokens.items()}
  distances = {ids.get(piece, -(10**9)) - i for piece, i in places.items()}
  return len(distances) == 1


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  text = atomic_file.as_json(content, indent=2, ensure_ascii=False)
  _write_text(path, text + "\n")


def _write_text(path: pathlib.Path, text: str) -> None:
  path.write_text(text, encoding="utf-8")
