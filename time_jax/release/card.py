"""The model card: a template, filled with what the run recorded."""

import importlib.resources
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from time_jax.catalog.languages import find
from time_jax.core.display import markdown_table
from time_jax.hf.files import first_line
from time_jax.models.bert import BertConfig
from time_jax.release.options import Options

NOT_STATED = "not stated"
_NOT_RECORDED = "not recorded"
# Key of the facts -> label of its row on the card.
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
# Facts without which the card has no row.
_OPTIONAL = (
  *("imported_from", "trimmed_from", "init_from"),
  *("ema", "changes", "chosen"),
)
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
  template = importlib.resources.files("time_jax.release").joinpath("card.md")
  text = template.read_text(encoding="utf-8")
  return string.Template(text).substitute(
    front=_front(facts, options.licence),
    title=options.name.rstrip("/").rpartition("/")[2] or options.name,
    about=_about(facts),
    usage=_usage(options, config, has_tokenizer),
    limits=_limits(facts, has_pooler),
    made=_made(facts),
    shape=_table(
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
    checks=_table(checks),
    licence=_licence(options.licence),
  )


def problems(text: str) -> list[str]:
  """Returns what a card of ours lacks, a sentence each."""
  lacking = []
  try:
    front = ModelCard(text).data.to_dict()
  except Exception as error:  # It raises what YAML and its own checks raise.
    return [f"README.md: the front matter cannot be read: {first_line(error)}"]
  for key in ("library_name", "pipeline_tag", "tags"):
    if not front.get(key):
      lacking.append(f"README.md: the front matter lacks {key}")
  for title in _SECTIONS:
    body = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if not body or not body[1].strip():
      lacking.append(f"README.md lacks the section {title!r}")
  for key, label in _MADE.items():
    if key not in _OPTIONAL and not _has_row(text, label):
      lacking.append(f"README.md does not say: {label}")
  if re.search(r"\$\w|\bTODO\b|More Information Needed", text):
    lacking.append("README.md has places that were not filled")
  return lacking


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
  known: dict[str, Any] = {key: v for key, v in front.items() if v}
  return ModelCardData(**known).to_yaml()


def _about(facts: Mapping[str, Any]) -> str:
  if "teacher" not in facts:
    origin = facts.get("imported_from", _NOT_RECORDED)
    return f"A text encoder, taken over by time_jax; from: {origin}."
  language = facts.get("language")
  return _DISTILLED.format(f" for {find(language).name}" if language else "")


def _limits(facts: Mapping[str, Any], has_pooler: bool) -> str:
  limits = _DISTILLED_LIMITS if "teacher" in facts else _LIMITS
  return limits if has_pooler else f"{limits}\n{_NO_POOLER}"


def _usage(options: Options, config: BertConfig, has_tokenizer: bool) -> str:
  """Returns code blocks that work as they stand, and what to know of them."""
  model_class, place = options.model_class, repr(options.name)
  if options.revision:
    place += f", revision={options.revision!r}"
  load_model = f"model = {model_class}.from_pretrained({place})"
  blocks = [
    [
      f"from transformers import AutoTokenizer, {model_class}",
      "",
      f"tokenizer = AutoTokenizer.from_pretrained({place})",
      load_model,
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
  remark = f"At most {config.max_positions} tokens."
  if not has_tokenizer:
    blocks = [
      [
        "import torch",
        f"from transformers import {model_class}",
        "",
        load_model,
        "print(model(torch.tensor([[5, 6, 7]])).last_hidden_state)",
      ]
    ]
    remark += " There is no tokenizer: ids only."
  code = ["```python\n" + "\n".join(lines) + "\n```" for lines in blocks]
  return "\n\n".join([*code, remark])


def _made(facts: Mapping[str, Any]) -> str:
  rows = [
    (label, str(facts.get(key, _NOT_RECORDED)))
    for key, label in _MADE.items()
    if key in facts or key not in _OPTIONAL
  ]
  versions = facts.get("versions") or {}
  listed = ", ".join(f"{name} {number}" for name, number in versions.items())
  return _table([*rows, ("versions", listed or _NOT_RECORDED)])


def _table(rows: Sequence[tuple[str, str]]) -> str:
  cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
  return markdown_table([["what", "value"], *cells], align="<")


def _licence(licence: str) -> str:
  stated = (
    f"{licence}, as stated at export."
    if licence
    else f"Licence of this model: {NOT_STATED}."
  )
  return f"{stated} The teacher and the text have their own."
