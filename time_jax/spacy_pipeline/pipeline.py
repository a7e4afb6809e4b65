"""Makes a pipeline of exports, as a folder that `spacy.load` opens."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import spacy
import srsly
from spacy.language import Language
from spacy.util import get_lang_class

import time_jax
from time_jax.core.errors import UserError, first_line
from time_jax.core.notes import note
from time_jax.core.storage.atomic_folder import atomic_folder, check_empty
from time_jax.core.storage.paths import Path
from time_jax.serve import folder as folders
from time_jax.serve.folder import VECTORS, Folder
from time_jax.spacy_pipeline import names, tokenizer, trees, vectors

_ANY = "xx"  # spaCy's language for those that it does not know
_AS = {"no": "nb"}  # what spaCy calls a language
_TOGETHER = 128  # documents of a batch of `nlp.pipe`
# Task -> name in the pipeline, where spaCy has one, and factory; in the order
# in which they annotate.
_COMPONENTS = {
  trees.Trees.task: ("parser", "time_ud"),
  names.Names.task: ("ner", "time_ner"),
  vectors.Vectors.task: ("vectors", "time_vectors"),
}
_TASKS = (tokenizer.Tokenizer.task, *_COMPONENTS)
_ABOUT = {
  tokenizer.Tokenizer.task: "words and sentences",
  trees.Trees.task: "tags, lemmas and trees",
  names.Names.task: "names",
  VECTORS: "vectors",
}
_EXAMPLE = "Ada Lovelace wrote it. It works!"


def write(models: Sequence[str], lang: str, out: Path, *, int8: bool) -> int:
  """Writes a pipeline.

  Args:
    models: exports with ONNX files, at most one of each task; without one of
      `split`, spaCy's own tokenizer is used, and sentences end at full stops.
    lang: code of the language, as spaCy or ISO 639 has it.
    out: folder to write.
    int8: whether matrices are in 8 bits.

  Returns:
    The exit code, 0.

  Raises:
    UserError: a folder is no such export, there are two of a task, or `out`
      holds something.
  """
  check_empty(out, "--out")
  opened = _by_task([folders.read(model, int8) for model in models])
  for folder in opened.values():
    folder.files()  # all there?
  nlp = _blank(
    lang, own_tokenizer=tokenizer.Tokenizer.task in opened, int8=int8
  )
  parts: dict[str, Any] = {tokenizer.Tokenizer.task: nlp.tokenizer}
  for task, (name, factory) in _COMPONENTS.items():
    if task in opened:
      parts[task] = nlp.add_pipe(factory, name=name, config={"int8": int8})
  for task, folder in opened.items():
    parts[task].open(folder.path)
  nlp.meta.update(_meta(opened, str(nlp.lang)))
  doc = nlp(_EXAMPLE)
  with atomic_folder(out, "--out", replace=False) as folder:
    nlp.to_disk(folder)
  print(
    f"Wrote {out} ({nlp.lang}): {', '.join(['tokenizer', *nlp.pipe_names])}."
  )
  print(f"Tokens of {_EXAMPLE!r}: {' '.join(t.text for t in doc)}")
  print(f"Next: python -c \"import spacy; print(spacy.load('{out}')('...'))\"")
  return 0


def _by_task(models: Sequence[Folder]) -> dict[str, Folder]:
  """Returns exports by their tasks, checked."""
  found: dict[str, Folder] = {}
  for folder in models:
    if folder.task not in _TASKS:
      raise UserError(
        f"{folder.path} is of task {folder.task!r}, which spaCy has no place "
        f"for; expected {', '.join(_TASKS[:-1])}, or a student's export."
      )
    if folder.task in found:
      raise UserError(
        f"{found[folder.task].path} and {folder.path} are both of task "
        f"{folder.task!r}; expected one of each."
      )
    found[folder.task] = folder
  return found


def _blank(lang: str, *, own_tokenizer: bool, int8: bool) -> Language:
  """Returns a pipeline without components but for what finds sentences."""
  code = _language(lang)
  settings: dict[str, Any] = {"batch_size": _TOGETHER}
  if own_tokenizer:
    settings["tokenizer"] = {"@tokenizers": tokenizer.NAME, "int8": int8}
  try:
    nlp = spacy.blank(code, config={"nlp": settings})
  except ImportError as error:
    raise UserError(
      f"spaCy's tokenizer of {lang!r} cannot be used: {first_line(error)} "
      "Expected what it needs, or a model of `finetune split` in its place."
    ) from error
  if not own_tokenizer:
    nlp.add_pipe("sentencizer")
    note(
      "without a model of `finetune split`, words are those of spaCy's "
      "tokenizer, and treebanks may have others."
    )
  return nlp


def _language(lang: str) -> str:
  """Returns what spaCy calls a language, such as en of en_US.

  Raises:
    UserError: it is no code.
  """
  base = re.fullmatch(r"([a-z]{2,3})([-_]\w+)*", lang.lower())
  if not base:
    raise UserError(
      f"--lang={lang!r:.40}; expected the code of a language, such as fr."
    )
  code = _AS.get(base[1], base[1])
  try:
    get_lang_class(code)
  except ImportError:
    note(f"spaCy has no language {lang!r}; its multi-language class is taken.")
    return _ANY
  return code


def _meta(opened: Mapping[str, Folder], lang: str) -> dict[str, Any]:
  """Returns what meta.json says of the parts."""
  sources = [_source(folder.path) for folder in opened.values()]
  licences = {source["license"] for source in sources}
  return {
    "name": "time",
    "description": f"{lang}: {', '.join(_ABOUT[task] for task in opened)}; "
    f"students of time_jax {time_jax.__version__}.",
    "license": licences.pop() if len(licences) == 1 else "see sources",
    "sources": sources,
    "requirements": [f"time-jax-serve>={time_jax.__version__}"],
  }


def _source(folder: Path) -> dict[str, str]:
  """Returns what the card of an export says of it."""
  card = folder / "README.md"
  text = card.read_text(encoding="utf-8") if card.exists() else ""
  title = next((x[2:] for x in text.split("\n") if x.startswith("# ")), "")
  _, _, front = text.partition("---\n")
  known: Any = srsly.yaml_loads(front.partition("\n---")[0]) or {}
  return {
    "name": title or folder.resolve().name,
    "license": str(known.get("license") or "not stated"),
  }
