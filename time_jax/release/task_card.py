"""The model card of a fine-tuned model: a template filled with its record."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from time_jax.catalog.languages import find
from time_jax.core.display import markdown_table
from time_jax.hf.task_classes import TaskClass
from time_jax.release import card

_PIPELINES = {
  "ner": "token-classification",
  "qa": "question-answering",
  "ud": "token-classification",
}
_ABOUT = {
  "ud": "Tags, lemmatises and parses{} as Universal Dependencies do: a small "
  "text encoder, fine-tuned with time_jax.",
  "ner": "Finds names{}: a small text encoder, fine-tuned with time_jax.",
  "qa": "Answers questions about a text{}: a small text encoder, fine-tuned "
  "with time_jax. It points at the answer in the text.",
}
_TITLE = {"ner": "Names", "qa": "Questions", "ud": "Tags and trees"}
_EXAMPLE = "Marie Curie was born in Warsaw ."
_QUESTION = "Where was Marie Curie born?"
_SECTIONS = ("Use", "Scores", "How it was made", "Licence")
_NOT_MEASURED = "Not measured."


def render(
  description: Mapping[str, Any],
  kind: TaskClass | None,
  name: str,
  licence: str = "",
) -> str:
  """Returns the card of a fine-tuned model.

  Args:
    description: content of its task.json.
    kind: its class in transformers; None: there is none.
    name: by which the card's code loads it: a folder or a repository.
    licence: its identifier; "": the card says that none is stated.
  """
  task, language = description["task"], description.get("lang")
  of = f" {find(language).name}" if language else ""
  inside = {"ud": f"{of} text"}.get(task, of and f" in{of} text")
  stated = f"Licence of this model: {card.NOT_STATED}."
  return card.fill(
    "task_card.md",
    front=_front(description, kind, licence),
    title=f"{_TITLE[task]}{of and f' of{of}'}",
    about=_ABOUT[task].format(inside),
    usage=card.fill(
      f"task_card_{task}.md" if kind else "task_card_predict.md",
      place=repr(name),
      example=repr(_EXAMPLE),
      question=repr(_QUESTION),
      labels=", ".join(
        label for some in description["classes"].values() for label in some
      ),
    ).rstrip(),
    scores=_scores(description),
    made=_made(description, kind),
    licence=f"{licence}, as stated at export." if licence else stated,
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
      *map(_percent, of_split.values()),
    ]
    for split, of_split in scores.items()
  ]
  table = markdown_table([["split", "file", *metrics], *rows], align="<<>")
  seed = description["run"]["seed"]
  return f"In percent, of one run with the seed {seed}.\n\n{table}"


def _percent(value: float | None) -> str:
  return "undefined" if value is None else f"{value:.2f}"


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
