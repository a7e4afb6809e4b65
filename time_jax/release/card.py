"""The model card: templates filled with what the run recorded."""

import importlib.resources
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from time_jax.catalog.languages import find
from time_jax.catalog.tables import read_table
from time_jax.core.display import markdown_table
from time_jax.core.errors import first_line
from time_jax.models.bert import BertConfig
from time_jax.release import provenance
from time_jax.release.options import Options

NOT_STATED = "not stated"
_NOT_RECORDED = "not recorded"
_ROWS = read_table("card_rows.tsv", "time_jax.release")
_DISTILLED = """\
A small text encoder{}, distilled from a larger one with time_jax after TiME
([arXiv 2512.14645](https://arxiv.org/abs/2512.14645)): {}.
It gives vectors for tokens, to be fine-tuned for tagging, parsing, named
entities and the like."""
_RELATIONS = "{} learned the attention relations of one layer of its teacher"
_STATES = "it learned hidden states of its teacher"
_LIMITS = """\
There is no masked-language-model head. Quality on tasks: not stated."""
_NO_POOLER = """\
The pooler is of zeros: it stands for one that was not there."""
_DISTILLED_LIMITS = """\
The loss sees the query, key and value projections of the last layer and all
below them. What follows them in that layer, and the pooler, are as they were
initialised: fine-tune the model, or take an earlier layer. There is no
masked-language-model head. Quality on tasks: not stated."""
_WHOLE_LAST_LIMITS = """\
All layers were distilled; the pooler is as it was initialised: fine-tune the
model. There is no masked-language-model head. Quality on tasks: not stated."""
_WITHOUT_LAST_LIMITS = """\
The layer above the last one of this model, which was distilled with it,
is left out. The pooler is as it was initialised: fine-tune the model. There is
no masked-language-model head. Quality on tasks: not stated."""
_SECTIONS = (
  *("Use", "Limits", "How it was made", "Shape"),
  *("Verified when exported", "Licence"),
)


def render(
  options: Options,
  config: BertConfig,
  facts: Mapping[str, Any],
  checks: Sequence[tuple[str, str]],
  *,
  has_tokenizer: bool = True,
  has_pooler: bool = True,
) -> str:
  """Returns the card of an export.

  Args:
    options: the export's options, complete.
    config: the student's config.
    facts: what `provenance.collect` gathered.
    checks: name and result of each check.
    has_tokenizer: whether there is a tokenizer in the folder.
    has_pooler: whether the pooler is more than zeros.
  """
  licence = options.licence
  return fill(
    "card.md",
    front=_front(facts, licence),
    title=options.name.rstrip("/").rpartition("/")[2] or options.name,
    about=_about(facts),
    usage=_usage(options, config, has_tokenizer),
    limits=_limits(facts, has_pooler),
    made=_made(facts),
    shape=table(
      [
        ("class", options.model_class),
        ("layers", str(config.num_layers)),
        ("hidden size", str(config.hidden_size)),
        ("feed-forward size", str(config.intermediate_size)),
        ("attention heads", str(config.num_heads)),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("positions", str(config.max_positions)),
        ("weights", options.dtype),
      ]
    ),
    checks=table(checks),
    licence=licence_line(licence),
  )


def fill(name: str, **values: str) -> str:
  """Returns the text of a template in this folder, its blanks filled.

  Args:
    name: name of the file.
    **values: what its blanks get, by their names.
  """
  path = importlib.resources.files("time_jax.release").joinpath(name)
  return string.Template(path.read_text(encoding="utf-8")).substitute(values)


def problems(text: str) -> list[str]:
  """Returns what a card lacks that `render` would have written.

  Args:
    text: the card, front matter included.

  Returns:
    A sentence for each part that is missing.
  """
  missing = lacking(text, _SECTIONS)
  for row in _ROWS:
    # Earlier versions knew no other loss, and called it "relation loss".
    pattern = rf"^\| (relation )?{re.escape(row['label'])} \| \S"
    if not row["optional"] and not re.search(pattern, text, re.M):
      missing.append(f"README.md does not say: {row['label']}")
  return missing


def lacking(text: str, sections: Sequence[str]) -> list[str]:
  """Returns what any card lacks, a sentence for each part.

  Args:
    text: the card, front matter included.
    sections: titles of the sections that it should have.
  """
  try:
    front = ModelCard(text).data.to_dict()
  except Exception as error:  # It raises what YAML and its own checks raise.
    reason = first_line(error).rstrip(".")
    return [f"README.md: the front matter cannot be read: {reason}"]
  missing = [
    f"README.md: the front matter lacks {key}"
    for key in ("library_name", "pipeline_tag", "tags")
    if not front.get(key)
  ]
  for title in sections:
    body = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if not body or not body[1].strip():
      missing.append(f"README.md lacks the section {title!r}")
  if re.search(r"\$\w|\bTODO\b|More Information Needed", text):
    missing.append("README.md has places that were not filled")
  return missing


def _front(facts: Mapping[str, Any], licence: str) -> str:
  front = {
    "library_name": "transformers",
    "pipeline_tag": "feature-extraction",
    "tags": ["time_jax", "distillation", "encoder"],
    "language": facts.get("language"),
    "license": licence,
    "base_model": facts.get("base_model"),
    "datasets": facts.get("datasets"),
  }
  known: dict[str, Any] = {key: v for key, v in front.items() if v}
  return ModelCardData(**known).to_yaml()


def _about(facts: Mapping[str, Any]) -> str:
  if "teacher" not in facts:
    origin = facts.get("imported_from", _NOT_RECORDED)
    return f"A text encoder, taken over by time_jax; from: {origin}."
  language = facts.get("language")
  learned = []
  if facts.get("relations") != provenance.NONE:
    on_top = "left_out" in facts
    layer = "a layer on top of it" if on_top else "its last layer"
    learned.append(_RELATIONS.format(layer))
  if "hidden_states" in facts:
    learned.append(_STATES)
  return _DISTILLED.format(
    f" for {find(language).name}" if language else "", ", and ".join(learned)
  )


def _limits(facts: Mapping[str, Any], has_pooler: bool) -> str:
  limits = _DISTILLED_LIMITS if "teacher" in facts else _LIMITS
  if "teacher" in facts and "whole_last_layer" in facts:
    limits = _WHOLE_LAST_LIMITS
  if "teacher" in facts and "left_out" in facts:
    limits = _WITHOUT_LAST_LIMITS
  return limits if has_pooler else f"{limits}\n{_NO_POOLER}"


def _usage(options: Options, config: BertConfig, has_tokenizer: bool) -> str:
  """Returns code blocks that work as they stand, and what to know of them."""
  place = repr(options.name)
  if options.revision:
    place += f", revision={options.revision!r}"
  return fill(
    "card_usage.md" if has_tokenizer else "card_usage_ids.md",
    model_class=options.model_class,
    place=place,
    max_positions=str(config.max_positions),
  ).rstrip()


def _made(facts: Mapping[str, Any]) -> str:
  rows = [
    (row["label"], str(facts.get(row["fact"], _NOT_RECORDED)))
    for row in _ROWS
    if row["fact"] in facts or not row["optional"]
  ]
  versions = facts.get("versions") or {}
  listed = ", ".join(f"{name} {number}" for name, number in versions.items())
  return table([*rows, ("versions", listed or _NOT_RECORDED)])


def licence_line(licence: str) -> str:
  """Returns the sentence on a licence; "": none is stated."""
  if licence:
    return f"{licence}, as stated at export."
  return f"Licence of this model: {NOT_STATED}."


def table(rows: Sequence[tuple[str, str]]) -> str:
  """Returns a table of facts and their values."""
  cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
  return markdown_table([["what", "value"], *cells], align="<")
