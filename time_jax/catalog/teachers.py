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

import dataclasses
import functools
import re
from typing import Any

from time_jax.catalog.languages import Language, find, languages, short_code
from time_jax.catalog.tables import read_table
from time_jax.core.errors import UserError

# Checkpoints for one language each, by the field of `Language` that completes
# their names.
_PER_LANGUAGE = {"hplt": "hplt_bert", "hplt_v1": "hplt_bert_v1"}

# config.json of XLM-R-Large, the paper's main teacher, and its distilled layer.
XLMR_LARGE = {
  "model_type": "xlm-roberta",
  "vocab_size": 250_002,
  "hidden_size": 1024,
  "num_hidden_layers": 24,
  "num_attention_heads": 16,
  "intermediate_size": 4096,
  "max_position_embeddings": 514,
  "type_vocab_size": 1,
  "layer_norm_eps": 1e-5,
  "pad_token_id": 1,
}
XLMR_LARGE_LAYER = 19

# Families whose layers are as those of students are.
LIKE_STUDENTS = frozenset({"bert", "camembert", "roberta", "xlm-roberta"})


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
    copyable: whether a student that is no wider can begin with layers of it.
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
  copyable: bool
  languages: tuple[str, ...]
  unchecked: frozenset[str]


@functools.cache
def teachers() -> dict[str, Recommendation]:
  """Returns all recommended checkpoints, by name."""
  return {row["name"]: _parse(row) for row in read_table("teachers.tsv")}


def _parse(row: dict[str, str]) -> Recommendation:
  # A ~ marks a value that is from memory.
  unchecked = frozenset(name for name, text in row.items() if text[:1] == "~")
  values: dict[str, Any] = {k: v.removeprefix("~") for k, v in row.items()}
  values["key_width"] = values["key_width"] or values["width"]
  values["languages"] = tuple(values["languages"].split())
  for field in dataclasses.fields(Recommendation):
    if field.type is int:
      values[field.name] = int(values[field.name])
  copyable = values["family"] in LIKE_STUDENTS
  return Recommendation(**values, copyable=copyable, unchecked=unchecked)


def teachers_of(language: Language) -> dict[str, Recommendation]:
  """Returns the checkpoints for a language, by name.

  Checkpoints for many languages are among them, whether or not they have seen
  this one: that is not recorded. The paths of those for one language are
  complete.
  """
  found = {}
  for name, row in teachers().items():
    if column := _PER_LANGUAGE.get(name):
      if ending := getattr(language, column):
        found[name] = dataclasses.replace(
          row, path=row.path.format(ending), languages=(short_code(language),)
        )
    elif not row.languages or language in map(find, row.languages):
      found[name] = row
  return found


def teacher(name: str, language: Language) -> Recommendation:
  """Returns the recommended checkpoint of a name for a language.

  Args:
    name: a key of `teachers()`.
    language: the language to distil for.

  Raises:
    UserError: there is none; the message names those for the language.
  """
  known = teachers_of(language)
  if name in known:
    return known[name]
  there = (
    f"for {language.name} ({short_code(language)}) there are "
    f"{', '.join(known)}; others by their folder or hub id"
  )
  if name not in teachers():
    raise UserError(f"unknown teacher {name!r}; {there}.")
  column = _PER_LANGUAGE.get(name)
  made_for = teachers()[name].languages
  if column:
    made_for = [short_code(x) for x in languages() if getattr(x, column)]
  raise UserError(
    f"no {name} teacher for {language.name} that we know of; {name} is for "
    f"{', '.join(made_for)}; {there}."
  )


def recommended(name: str) -> Recommendation | None:
  """Returns the row for a hub id, which may be of one language, or None."""
  name = name.partition("@")[0]
  for row in teachers().values():
    if re.fullmatch(re.escape(row.path).replace(r"\{\}", ".+"), name):
      return row
  return None
