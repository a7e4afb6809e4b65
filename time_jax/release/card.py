"""The model card: a template, filled with what the run recorded."""

import importlib.resources
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from time_jax.catalog.languages import find
from time_jax.models.bert import BertConfig

NOT_STATED = "not stated"
_NOT_RECORDED = "not recorded"
# Key of the facts -> how the card calls it.
_MADE = {
  "imported_from": "taken over from",
  "teacher": "teacher",
  "trimmed_from": "teacher's tokens trimmed, from",
  "teacher_layer": "distilled layer of the teacher",
  "teacher_sha256": "teacher's weights (SHA-256)",
  "relation_heads": "relation heads R",
  "relations": "relations",
  "init_from": "first weights from",
  "text_train": "training text",
  "text_validation": "held-out text",
  "text_fingerprint": "prepared text (fingerprint)",
  "tokenizer_sha256": "tokenizer (SHA-256)",
  "step": "steps",
  "planned_steps": "steps of the whole run",
  "batch": "batch",
  "tokens": "tokens read",
  "optimizer": "optimizer",
  "changes": "changed after a step",
  "ema": "weights averaged over the steps, with decay",
  "precision": "precision of the computation",
  "seed": "seed",
  "hardware": "hardware of the session that saved it",
  "loss": "relation loss in training",
  "held_out_loss": "relation loss on held-out text",
  "chosen": "chosen as",
}
_DISTILLED = """\
A small text encoder{}, distilled from a larger one with time_jax after TiME
([arXiv 2512.14645](https://arxiv.org/abs/2512.14645)): its last layer learned
the attention relations of one layer of its teacher. It gives vectors for
tokens, to be fine-tuned for tagging, parsing, named entities and the like."""
_LIMITS = """\
There is no masked-language-model head. Quality on tasks: not stated."""
_NO_POOLER = """\
The pooler is of zeros: it stands for one that was not there."""
_DISTILLED_LIMITS = """\
The loss sees the query, key and value projections of the last layer and all
below them. What follows them in that layer, and the pooler, are as they were
initialised: fine-tune the model, or take an earlier layer. There is no
masked-language-model head. Quality on tasks: not stated."""
# Said only where they are so.
_OPTIONAL = (
  "imported_from",
  "trimmed_from",
  "init_from",
  "ema",
  "changes",
  "chosen",
)
_SECTIONS = (
  "Use",
  "Limits",
  "How it was made",
  "Shape",
  "Verified when exported",
  "Licence",
)


def render(
  *,
  name: str,
  revision: str | None,
  facts: Mapping[str, Any],
  shape: BertConfig,
  model_class: str,
  dtype: str,
  checks: Sequence[tuple[str, str]],
  licence: str,
  with_tokenizer: bool = True,
  with_pooler: bool = True,
) -> str:
  """Fills the template.

  Args:
    name: how users load the model: a folder or a hub id.
    revision: branch of the hub, or None.
    facts: what `provenance.collect` found.
    shape: of the student.
    model_class: as config.json names it.
    dtype: of the weights.
    checks: what was verified, and what was found.
    licence: identifier of the model's licence; empty: not stated.
    with_tokenizer: whether there is one in the folder.
    with_pooler: whether it is more than zeros.
  """
  template = importlib.resources.files("time_jax.release").joinpath("card.md")
  text = template.read_text(encoding="utf-8")
  return string.Template(text).substitute(
    front=_front(facts, licence),
    title=name.rstrip("/").rpartition("/")[2] or name,
    about=_about(facts),
    usage=_usage(name, revision, model_class, shape, with_tokenizer),
    limits=_limits(facts, with_pooler),
    made=_made(facts),
    shape=_table(_shape(shape, model_class, dtype)),
    checks=_table(checks),
    licence=_licence(licence),
  )


def problems(text: str) -> list[str]:
  """What a card of ours lacks."""
  found = []
  try:
    front = ModelCard(text).data.to_dict()
  except Exception as error:  # It raises what YAML and its own checks raise.
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return [f"README.md: the front matter cannot be read: {reason}"]
  for key in ("library_name", "pipeline_tag", "tags"):
    if not front.get(key):
      found.append(f"README.md: the front matter lacks {key}")
  for title in _SECTIONS:
    body = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if not body or not body[1].strip():
      found.append(f"README.md lacks the section {title!r}")
  for key, label in _MADE.items():
    if key not in _OPTIONAL and not _has_row(text, label):
      found.append(f"README.md does not say: {label}")
  if re.search(r"\$\w|\bTODO\b|More Information Needed", text):
    found.append("README.md has places that were not filled")
  return found


def _has_row(text: str, label: str) -> bool:
  return bool(re.search(rf"^\| {re.escape(label)} \| \S", text, re.M))


def _front(facts: Mapping[str, Any], licence: str) -> str:
  front: dict[str, Any] = {
    "library_name": "transformers",
    "pipeline_tag": "feature-extraction",
    "tags": ["time_jax", "distillation", "encoder"],
    "language": facts.get("language"),
    "license": licence,
    "base_model": facts.get("base_model"),
    "datasets": facts.get("datasets"),
  }
  said: dict[str, Any] = {key: v for key, v in front.items() if v}
  return ModelCardData(**said).to_yaml()


def _about(facts: Mapping[str, Any]) -> str:
  if "teacher" not in facts:
    origin = facts.get("imported_from", _NOT_RECORDED)
    return f"A text encoder, taken over by time_jax; from: {origin}."
  language = facts.get("language")
  return _DISTILLED.format(f" for {find(language).name}" if language else "")


def _limits(facts: Mapping[str, Any], with_pooler: bool) -> str:
  limits = _DISTILLED_LIMITS if "teacher" in facts else _LIMITS
  return limits if with_pooler else f"{limits}\n{_NO_POOLER}"


def _usage(
  name: str,
  revision: str | None,
  model_class: str,
  shape: BertConfig,
  with_tokenizer: bool,
) -> str:
  """Code that works as it stands, in blocks."""
  place = f"{name!r}, revision={revision!r}" if revision else repr(name)
  blocks = [
    [
      f"from transformers import AutoTokenizer, {model_class}",
      "",
      f"tokenizer = AutoTokenizer.from_pretrained({place})",
      f"model = {model_class}.from_pretrained({place})",
      'inputs = tokenizer(["Small is fast."], return_tensors="pt")',
      "print(model(**inputs).last_hidden_state)",
    ],
    [
      "from transformers import pipeline",
      "",
      f'encode = pipeline("feature-extraction", model={place})',
      'print(encode("Small is fast."))',
    ],
  ]
  note = f"At most {shape.max_positions} tokens."
  if not with_tokenizer:
    blocks = [
      [
        "import torch",
        f"from transformers import {model_class}",
        "",
        f"model = {model_class}.from_pretrained({place})",
        "print(model(torch.tensor([[5, 6, 7]])).last_hidden_state)",
      ]
    ]
    note += " There is no tokenizer: ids only."
  code = ["```python\n" + "\n".join(lines) + "\n```" for lines in blocks]
  return "\n\n".join([*code, note])


def _made(facts: Mapping[str, Any]) -> str:
  rows = [
    (label, str(facts.get(key, _NOT_RECORDED)))
    for key, label in _MADE.items()
    if key in facts or key not in _OPTIONAL
  ]
  versions = facts.get("versions") or {}
  said = ", ".join(f"{name} {number}" for name, number in versions.items())
  return _table([*rows, ("versions", said or _NOT_RECORDED)])


def _shape(
  shape: BertConfig, model_class: str, dtype: str
) -> list[tuple[str, str]]:
  return [
    ("class", model_class),
    ("layers", str(shape.num_layers)),
    ("hidden size", str(shape.hidden_size)),
    ("feed-forward size", str(shape.intermediate_size)),
    ("attention heads", str(shape.num_heads)),
    ("vocabulary", f"{shape.vocab_size:,}"),
    ("positions", str(shape.max_positions)),
    ("weights", dtype),
  ]


def _table(rows: Sequence[tuple[str, str]]) -> str:
  cells = [tuple(cell.replace("|", r"\|") for cell in row) for row in rows]
  return "\n".join(
    ["| what | value |", "|---|---|", *(f"| {a} | {b} |" for a, b in cells)]
  )


def _licence(licence: str) -> str:
  others = "The teacher and the text have their own."
  if licence:
    return f"{licence}, as stated at export. {others}"
  return f"Licence of this model: {NOT_STATED}. {others}"
