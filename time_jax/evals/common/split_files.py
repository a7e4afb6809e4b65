"""Finds the annotated files of a split: by path, on the hub, or by name."""

import pathlib
import re

from time_jax.catalog import languages
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import list_files, local_path
from time_jax.data import hub

WIKIANN = "wikiann"  # a source of names, by the language alone
_WIKIANN_FILES = "hf:unimelb-nlp/wikiann/{subset}/{split}-*.parquet"
_HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
# Where Universal Dependencies have another code.
_UD_CODES = {"nb": "no", "nn": "no", "ku": "kmr"}
# Parts of a file's name besides the language and the split.
_PARTS = {
  "ud": {"ud", "conllu"},
  "ner": {"iob2"},
  "qa": {"json"},
  "split": {"ud", "conllu"},
}


def fetch(path: str) -> pathlib.Path:
  """Returns the local file of a split.

  Args:
    path: path of a file, or hf:OWNER/NAME[@REVISION]/PATTERN, a file of a
      dataset on the Hugging Face hub, which is downloaded to its cache.

  Raises:
    UserError: there is no such file on the hub, or there are several.
  """
  if not path.startswith("hf:"):
    return local_path(path)
  owner, name, pattern = (*path.removeprefix("hf:").split("/", 2), "", "")[:3]
  if not pattern:
    raise UserError(
      f"{path}: expected hf:OWNER/NAME/PATTERN, a file of a dataset on the "
      "Hugging Face hub."
    )
  repository = f"{owner}/{name}"
  names = hub.find_files(repository, pattern)
  if len(names) > 1:
    raise UserError(f"{path} means several files: {_listed(names)}; name one.")
  return hub.fetch(repository, names[0])


def resolve(task: str, lang: str, split: str, name: str, source: str) -> str:
  """Returns what `fetch` takes for a split; empty: there is no test file.

  Args:
    task: ud, ner or qa.
    lang: ISO code.
    split: train, dev or test.
    name: the file that the recipe gives, if any.
    source: where files are looked up that the recipe does not give: "wikiann";
      or a folder that holds, at any depth, files by their usual names, such as
      an unpacked release of Universal Dependencies. Of several treebanks the
      usual one of the language is taken.

  Raises:
    UserError: the source has no such file, several of them, or not the
      language.
  """
  if name or not source:
    return name
  if not lang:
    raise UserError(f"data.source={source} needs a language, such as lang=da.")
  language = languages.find(lang)
  if source == WIKIANN:
    if task != "ner" or not language.wikiann:
      raise UserError(
        f"WikiANN has no {task} data in {language.name}; expected finetune ner "
        "and a language that `time_jax languages` shows with it."
      )
    names = {"subset": language.wikiann, "split": _HUB_SPLITS[split]}
    return _WIKIANN_FILES.format(**names)
  path = _find(task, language, split, source)
  if not path and split != "test":
    raise UserError(
      f"data.source={source} has no file of {lang} that is called {split}; "
      f"give one as {split}=FILE."
    )
  return path


def _find(
  task: str, language: languages.Language, split: str, source: str
) -> str:
  """Returns the file of a split in a folder; empty: there is none."""
  folder = local_path(source)
  if not folder.is_dir():
    raise UserError(
      f"data.source={source}: no such folder; expected one, or {WIKIANN}."
    )
  code = language.iso1 or language.iso3
  if task == "ud":
    code = _UD_CODES.get(code, code)
  needed = {code, split} | _PARTS[task]
  paths = {
    path: parts
    for path in list_files(folder)
    if needed <= (parts := set(re.split(r"[._-]", path.name)))
  }
  if task == "ud" and len(paths) > 1:
    usual = language.ud.rpartition("-")[2].lower()
    paths = {p: parts for p, parts in paths.items() if usual in parts} or paths
  if len(paths) > 1:
    raise UserError(
      f"several files of {folder} could be {split}: "
      f"{_listed([path.name for path in paths])}; give one as {split}=FILE."
    )
  return str(next(iter(paths), ""))


def _listed(names: list[str]) -> str:
  more = f" and {len(names) - 5} more" if len(names) > 5 else ""
  return ", ".join(names[:5]) + more
