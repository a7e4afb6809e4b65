"""The model card of a fine-tuned model: a template filled with its record."""

import itertools
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from time_jax.catalog import languages
from time_jax.core.display import markdown_table, percent
from time_jax.core.errors import UserError
from time_jax.hf import task_classes
from time_jax.hf.task_classes import TaskClass
from time_jax.release import card
from time_jax.release.options import Options

_PIPELINES = {
  "ner": "token-classification",
  "qa": "question-answering",
  "split": "token-classification",
  "ud": "token-classification",
}
_TITLES = {
  "ner": "{} named entities",
  "qa": "{} question answering",
  "split": "{} sentences and words",
  "ud": "{} tags and trees",
}
_ABOUT = {
  "ner": "Finds names in {} text: a text encoder, fine-tuned with time_jax.",
  "qa": "Answers questions about {} text: a text encoder, fine-tuned with "
  "time_jax. It points at the answer in the text.",
  "split": "Splits {} text into sentences, tokens and words, as treebanks of "
  "Universal Dependencies do: a text encoder, fine-tuned with time_jax.",
  "ud": "Tags, lemmatises and parses {} text as Universal Dependencies do: a "
  "text encoder, fine-tuned with time_jax.",
}
_PIPES = {
  "ner": "< text > out.iob2",
  "qa": "< questions.json > answers.jsonl",
  "split": "< text > out.conllu",
  "ud": "< text > out.conllu",
}
TASKS = tuple(_PIPES)
# Of these, transformers has an encoder under another name, or none.
_ENCODERS = {
  "t5": "T5EncoderModel",
  "mt5": "MT5EncoderModel",
  "ltgbert": "",
  "norbert": "",
}
_EXAMPLE = "Marie Curie was born in Warsaw ."
_QUESTION = "Where was Marie Curie born?"
_SECTIONS = ("Use", "Scores", "How it was made", "Licence")
_NOT_MEASURED = "Not measured."


def render(
  description: Mapping[str, Any],
  hf_config: Mapping[str, Any],
  options: Options,
) -> str:
  """Returns the card of a fine-tuned model.

  Args:
    description: content of its task.json.
    hf_config: content of its config.json.
    options: name and revision, by which the card's code loads it, and licence.
  """
  task, language = description["task"], _language(description.get("lang"))
  kind = task_classes.of_config(hf_config)
  licence = options.licence
  title = " ".join(_TITLES[task].format(language).split())
  return card.fill(
    "task_card.md",
    front=_front(description, kind, licence),
    title=title[:1].upper() + title[1:],
    about=" ".join(_ABOUT[task].format(language).split()),
    usage=_usage(description, hf_config, options).rstrip(),
    scores=_scores(description),
    made=_made(description, kind),
    licence=card.licence_line(licence),
  )


def _language(code: str | None) -> str:
  """Returns the name of a language, or the code where it is not known."""
  try:
    return languages.find(code).name if code else ""
  except UserError:
    return str(code)


def _usage(
  description: Mapping[str, Any], hf_config: Mapping[str, Any], options: Options
) -> str:
  task, place = description["task"], repr(options.name)
  revision = f"@{options.revision}" if options.revision else ""
  loaded = place
  if options.revision:
    loaded += f", revision={options.revision!r}"
  if task_classes.of_config(hf_config):
    labels = itertools.chain.from_iterable(description["classes"].values())
    return card.fill(
      f"task_card_{task}.md",
      place=loaded,
      example=repr(_EXAMPLE),
      question=repr(_QUESTION),
      labels=", ".join(labels),
    )
  name = _ENCODERS.get(hf_config.get("model_type", ""), "AutoModel")
  encoder = card.fill("task_card_encoder.md", place=loaded, model_class=name)
  return card.fill(
    "task_card_predict.md",
    place=repr(options.name + revision),
    pipe=_PIPES[task],
    encoder=encoder if name else "",
  )


def problems(text: str) -> list[str]:
  """Returns what a card lacks that `render` would have written.

  Args:
    text: the card, front matter included.

  Returns:
    A sentence for each part that is missing.
  """
  return card.lacking(text, _SECTIONS)


def _front(
  description: Mapping[str, Any], kind: TaskClass | None, licence: str
) -> str:
  front = {
    "library_name": "transformers" if kind else "time_jax",
    "pipeline_tag": _PIPELINES[description["task"]],
    "tags": ["time_jax", description["task"]],
    "language": description.get("lang"),
    "license": licence,
  }
  known: dict[str, Any] = {key: v for key, v in front.items() if v}
  return ModelCardData(**known).to_yaml()


def _scores(description: Mapping[str, Any]) -> str:
  """Returns a table with a row for each file that was scored."""
  scores = description.get("scores")
  if not scores:
    return _NOT_MEASURED
  metrics = [*next(iter(scores.values()))]
  files = description.get("data", {})
  rows = [
    [
      split,
      files.get(split, card.NOT_STATED),
      *map(percent, of_split.values()),
    ]
    for split, of_split in scores.items()
  ]
  table = markdown_table([["split", "file", *metrics], *rows], align="<<>")
  seed = description.get("run", {}).get("seed", card.NOT_STATED)
  return f"In percent, of one run; its seed: {seed}.\n\n{table}"


def _made(description: Mapping[str, Any], kind: TaskClass | None) -> str:
  run = description.get("run", {})
  train = run.get("train", {})
  facts = {
    "encoder": description.get("encoder"),
    "class": kind.name if kind else None,
    "trained on": description.get("data", {}).get("train"),
    "epochs": train.get("epochs"),
    "epoch that is kept": description.get("best_epoch"),
    "batch size": train.get("batch_size"),
    "peak learning rate": train.get("peak_lr"),
    "dropout": train.get("dropout"),
    "seed": run.get("seed"),
  }
  return card.table(
    [(name, str(v)) for name, v in facts.items() if v not in (None, "")]
  )
