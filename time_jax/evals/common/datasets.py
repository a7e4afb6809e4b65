"""Where the annotated files of a split lie: a path, the hub, or by name."""

import pathlib
import re

from time_jax.catalog import languages
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import local_path
from time_jax.data import hub

WIKIANN = "wikiann"  # a source of names, by the language alone
_WIKIANN_FILES = "hf:unimelb-nlp/wikiann/{subset}/{split}-*.parquet"
_HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
# Where Universal Dependencies have another code.
_UD_CODES = {"nb": "no", "nn": "no", "ku": "kmr"}
# What a file's name has among its parts, besides the language and the split.
_PARTS = {"ud": {"ud", "conllu"}, "ner": {"iob2"}, "qa": {"json"}}


def fetch(path: str) -> pathlib.Path:
  """The local file of what a split is called.

  Args:
    path: of a file, or hf:OWNER/NAME[@REVISION]/PATTERN, a file of a dataset on
      the Hugging Face hub, which is downloaded to its cache.

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
  found = hub.find_files(repository, pattern)
  if len(found) > 1:
    raise UserError(f"{path} means several files: {_listed(found)}; name one.")
  return hub.fetch(repository, found[0])


def named(task: str, lang: str, split: str, name: str, source: str) -> str:
  """What `fetch` takes for a split; empty: there is no test file.

  Args:
    task: ud, ner or qa.
    lang: ISO code.
    split: train, dev or test.
    name: what the recipe calls the file, if it does.
    source: where to look else, see `find`, if anywhere.

  Raises:
    UserError: the source has no such file, or several.
  """
  if name or not source:
    return name
  found = find(task, lang, split, source)
  if not found and split != "test":
    raise UserError(
      f"data.source={source} has no file of {lang} that is called {split}; "
      f"give one as {split}=FILE."
    )
  return found


def find(task: str, lang: str, split: str, source: str) -> str:
  """What `fetch` takes for a split that is not named; empty: there is none.

  Args:
    task: ud, ner or qa.
    lang: ISO code.
    split: train, dev or test.
    source: "wikiann"; or a folder that holds, at any depth, files by their
      usual names, such as an unpacked release of Universal Dependencies. Of
      several treebanks the usual one of the language is taken.

  Raises:
    UserError: no such language or folder, or several files could be meant.
  """
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
  folder = local_path(source)
  if not folder.is_dir():
    raise UserError(
      f"data.source={source}: no such folder; expected one, or {WIKIANN}."
    )
  code = language.iso1 or language.iso3
  if task == "ud":
    code = _UD_CODES.get(code, code)
  needed = {code, split} | _PARTS[task]
  found = {
    path: parts
    for path in sorted(folder.rglob("*"))
    if needed <= (parts := set(re.split(r"[._-]", path.name)))
  }
  usual = language.ud.rpartition("-")[2].lower()
  if task == "ud" and len(found) > 1:
    found = {p: parts for p, parts in found.items() if usual in parts} or found
  if len(found) > 1:
    raise UserError(
      f"several files of {folder} could be {split}: "
      f"{_listed([path.name for path in found])}; give one as {split}=FILE."
    )
  return str(next(iter(found), ""))


def _listed(names: list[str]) -> str:
  more = f" and {len(names) - 5} more" if len(names) > 5 else ""
  return ", ".join(names[:5]) + more
