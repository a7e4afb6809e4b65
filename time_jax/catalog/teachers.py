"""Teachers that are worth distilling, and how to distil each.

The rows are in teachers.tsv. MiniLMv2 (arXiv 2012.15828) chose layer 19 of the
24 of RoBERTa-large and XLM-R-large and 21 of BERT-large; of 12 layers the last
one is taken. ModernBERT attends to everything in each third layer only (1, 4,
7, ...): of these, the one nearest to 0.79 of the depth. That layer, EuroBERT's,
and those of other families that follow the rule for their depth are a judgement
that nobody has measured for us.

The repositories of HPLT that were seen held their weights as pickles only,
which have to be allowed or converted: the error says how.
"""

import csv
import dataclasses
import functools
import importlib.resources
import re

from time_jax.catalog.languages import Language, find, languages, short_code
from time_jax.core.errors import UserError

# Checkpoints for one language each, by the field of `Language` that completes
# their names.
_PER_LANGUAGE = {"hplt": "hplt_bert", "hplt_v1": "hplt_bert_v1"}


@dataclasses.dataclass(frozen=True)
class Recommendation:
  """A checkpoint, and how to distil it.

  Attributes:
    name: as `teacher=` of configs/time.py takes it.
    path: its id on the Hugging Face hub; {} is the end for a language.
    family: its architecture, as its config.json says.
    num_layers: layers of the encoder.
    width: of the query projection: the hidden size, but for mT5-small.
    key_width: of the key and value projections.
    num_heads: attention heads.
    vocab_size: rows of the token table.
    layer: to distil, counted from 1.
    relation_heads: R; divides its widths and those of the students.
    languages: that it was made for; empty: many, or one checkpoint for each.
    unchecked: fields whose values are from memory.
  """

  name: str
  path: str
  family: str
  num_layers: int
  width: int
  key_width: int
  num_heads: int
  vocab_size: int
  layer: int
  relation_heads: int
  languages: tuple[str, ...]
  unchecked: frozenset[str]


@functools.cache
def teachers() -> dict[str, Recommendation]:
  """All recommended checkpoints, by name."""
  table = importlib.resources.files("time_jax.catalog").joinpath("teachers.tsv")
  lines = table.read_text(encoding="utf-8").splitlines()
  rows = (line for line in lines if not line.startswith("#"))
  found = map(_parse, csv.DictReader(rows, delimiter="\t"))
  return {row.name: row for row in found}


def _parse(row: dict[str, str]) -> Recommendation:
  unchecked = frozenset(name for name, text in row.items() if text[:1] == "~")
  values = {name: text.removeprefix("~") for name, text in row.items()}
  return Recommendation(
    name=values["name"],
    path=values["path"],
    family=values["family"],
    num_layers=int(values["num_layers"]),
    width=int(values["width"]),
    key_width=int(values["key_width"] or values["width"]),
    num_heads=int(values["num_heads"]),
    vocab_size=int(values["vocab_size"]),
    layer=int(values["layer"]),
    relation_heads=int(values["relation_heads"]),
    languages=tuple(values["languages"].split()),
    unchecked=unchecked,
  )


def teachers_of(language: Language) -> dict[str, Recommendation]:
  """The checkpoints for a language, by name; paths name the language.

  Those for many languages are among them: that they have seen this one is not
  said.
  """
  found = {}
  for name, row in teachers().items():
    if column := _PER_LANGUAGE.get(name):
      if end := getattr(language, column):
        found[name] = dataclasses.replace(
          row, path=row.path.format(end), languages=(short_code(language),)
        )
    elif not row.languages or language in map(find, row.languages):
      found[name] = row
  return found


def teacher(name: str, language: Language) -> Recommendation:
  """The checkpoint of this name, for a language.

  Raises:
    UserError: there is none; names those that there are for the language.
  """
  found = teachers_of(language)
  if name in found:
    return found[name]
  there = f"for {language.name} ({short_code(language)}) there are "
  there += f"{', '.join(found)}; others by their folder or hub id"
  if name not in teachers():
    raise UserError(f"unknown teacher {name!r}; {there}.")
  made_for = ", ".join(_made_for(name))
  raise UserError(
    f"no {name} teacher for {language.name} that we know of; {name} is for "
    f"{made_for}; {there}."
  )


def recommended(name: str) -> Recommendation | None:
  """The row for a hub id, which may be of one language; None: there is none."""
  name = name.partition("@")[0]
  for row in teachers().values():
    if re.fullmatch(re.escape(row.path).replace(r"\{\}", ".+"), name):
      return row
  return None


def _made_for(name: str) -> list[str]:
  """Short codes of the languages of a teacher that is not for many."""
  if column := _PER_LANGUAGE.get(name):
    return [short_code(x) for x in languages() if getattr(x, column)]
  return list(teachers()[name].languages)
