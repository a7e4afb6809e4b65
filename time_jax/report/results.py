"""The result files of `finetune` and `bench inference`, read without JAX."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.catalog import languages
from time_jax.core.errors import UserError
from time_jax.core.storage import json_file
from time_jax.report import per_item
from time_jax.report.per_item import PerItem

SCORES_FILE = "scores.json"
SCHEMA = "time_jax.finetune/1"
_PREDICTED = "predicted"  # In what `score` writes of another program.
_SPEEDS = "inference.json"
_SPEED_SCHEMA = "time_jax.bench.inference/1"

# Column of a report -> (task, metric), in the paper's order.
COLUMNS = {
  "UPOS": ("ud", "UPOS"),
  "UFeats": ("ud", "UFeats"),
  "Lemmas": ("ud", "Lemmas"),
  "UAS": ("ud", "UAS"),
  "LAS": ("ud", "LAS"),
  "NER F1": ("ner", "F1"),
  "QA F1": ("qa", "F1"),
}
_SPLIT = {"Tokens": "Tokens", "Sentences": "Sentences", "Words": "Words"}
# Task that begins with raw text -> column of a report -> metric. These columns
# stand apart: a program that finds words itself is scored on other words than
# one that is given them, and has no sentences in common with others.
FROM_TEXT = {
  "split": _SPLIT,
  "raw": _SPLIT
  | {
    "raw UPOS": "UPOS",
    "raw UFeats": "UFeats",
    "raw lemmas": "Lemmas",
    "raw UAS": "UAS",
    "raw LAS": "LAS",
  },
}
PAPER = ("UPOS", "Lemmas", "LAS", "NER F1", "QA F1")  # what it averages
# Kind of breakdown -> what is counted.
_COUNTS = {
  "feats": ("gold", "predicted", "right"),
  "upos": ("words", "UPOS", "UFeats", "Lemmas", "UAS", "LAS"),
}
_LATER = "UAS"  # Files of earlier versions do not count it.
_KINDS = {
  str: "text",
  int: "a whole number",
  float: "a number",
  list: "a list",
  dict: "an object",
}

Breakdown = dict[str, dict[str, int]]  # class -> what is counted -> words


def metrics_of(task: str) -> list[str]:
  """Returns the metrics of a task that reports show; none if it is unknown."""
  if task in FROM_TEXT:
    return [*FROM_TEXT[task].values()]
  return [metric for of, metric in COLUMNS.values() if of == task]


@dataclasses.dataclass(frozen=True)
class Result:
  """The scores in a workdir of `finetune`.

  Attributes:
    place: the workdir.
    task: ud, ner, qa, split or raw.
    lang: the shortest ISO code of the language.
    label: what reports call the model.
    fingerprint: hash of the model.
    before: its hash in earlier versions; "" if not known.
    parameters: "all" -> number of parameters of the encoder; empty if not
      known.
    scores: split -> metric -> mean and std in percent, and values by seed.
    seeds: one for each run.
    hardware: number and kind of the devices; "" if not known.
    model: path or hub id that was fine-tuned.
    init: "model", or "random" where only its shape was taken.
    files: split -> SHA-256 of its file; empty if not known.
  """

  place: pathlib.Path
  task: str
  lang: str
  label: str
  fingerprint: str
  parameters: Mapping[str, int]
  scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
  seeds: Sequence[int]
  hardware: str
  before: str = ""
  model: str = ""
  init: str = ""
  files: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def split(self) -> str:
    """The split of the scores: test where it was scored, else dev."""
    return "test" if "test" in self.scores else "dev"

  def items(self) -> list[PerItem] | None:
    """Returns what each item adds to the scores on `split`, for every seed.

    Returns:
      None where a seed has no such file, see `per_item.read`.

    Raises:
      UserError: a file is damaged.
    """
    folders = [self.place / f"seed-{seed}" for seed in self.seeds]
    found = [per_item.read(folder, self.split) for folder in folders]
    known = [items for items in found if items is not None]
    return known if len(known) == len(found) else None

  def breakdown(self, kind: str) -> Breakdown:
    """Returns counts on `split` by class, summed over the seeds.

    What the file of a seed does not count, as it is of an earlier version, is
    left out.

    Args:
      kind: "feats" or "upos".

    Raises:
      UserError: a seed's file lacks them.
    """
    total: Breakdown = {}
    for seed in self.seeds:
      file = _File(self.place / f"seed-{seed}" / SCORES_FILE)
      if file.content.get("by", {}) is None:
        continue  # Another program's, of which some metrics are scored.
      for name in file.get(dict, "by", self.split, kind, empty=True):
        sums = total.setdefault(name, dict.fromkeys(_COUNTS[kind], 0))
        counted = file.get(dict, "by", self.split, kind, name, empty=True)
        if _LATER not in counted:
          sums.pop(_LATER, None)
        for what in sums:
          sums[what] += file.get(int, "by", self.split, kind, name, what)
    return total


@dataclasses.dataclass(frozen=True)
class Speed:
  """The latency of an encoder in one engine at one batch size.

  Attributes:
    place: the file with the numbers.
    fingerprint: hash of the model.
    engine: such as "jax".
    batch_size: sentences in a batch.
    milliseconds: median latency of a batch.
    joules: energy of a sentence; None: not measured.
    hardware: number and kind of the devices.
    before: its hash in earlier versions; "" if not known.
  """

  place: pathlib.Path
  fingerprint: str
  engine: str
  batch_size: int
  milliseconds: float
  joules: float | None
  hardware: str
  before: str = ""


def read(
  paths: Sequence[pathlib.Path],
) -> tuple[list[Result], list[Speed]]:
  """Reads result files.

  Args:
    paths: workdirs of `finetune`, folders of `bench inference`, or the JSON
      files of either.

  Raises:
    UserError: a path holds no result, or a torn one.
  """
  results: list[Result] = []
  speeds: list[Speed] = []
  for path in paths:
    file = _File(_file(path))
    schema = file.content.get("schema")
    if schema == SCHEMA:
      results.append(_result(file))
    elif schema == _SPEED_SCHEMA:
      speeds += _speeds(file)
    else:
      raise UserError(
        f"{file.path} is of schema {schema!r}, expected {SCHEMA!r} or "
        f"{_SPEED_SCHEMA!r}; run that command again with this version."
      )
  return results, speeds


def _file(path: pathlib.Path) -> pathlib.Path:
  if path.exists() and not path.is_dir():
    return path
  for name in (SCORES_FILE, _SPEEDS):
    if (path / name).exists():
      return path / name
  raise UserError(
    f"{path} {'holds' if path.exists() else 'does not exist, so it has'} "
    f"neither {SCORES_FILE} nor {_SPEEDS}; expected the --workdir of a "
    "finished `finetune`, or the --out of `bench inference`."
  )


class _File:
  """A JSON file that may be damaged, or of another program."""

  def __init__(self, path: pathlib.Path) -> None:
    self.path, self.content = path, json_file.read_json(path)

  def get(self, kind: type, *names: str | int, empty: bool = False) -> Any:
    """Returns the value at a path of names.

    Args:
      kind: a key of `_KINDS`.
      *names: keys of objects, and indices of lists whose length is known.
      empty: whether the value may be empty.

    Raises:
      UserError: it is not there, or of another kind.
    """
    value: Any = self.content
    place = ""
    for name in names:
      if isinstance(name, int):
        place, value = f"{place}[{name}]", value[name]
      else:
        place = f"{place}.{name}".lstrip(".")
        value = value.get(name) if isinstance(value, dict) else None
      if value is None:
        raise self.damaged(f" lacks {place!r}")
    kinds = (int, float) if kind is float else kind
    if (
      not isinstance(value, kinds)
      or isinstance(value, bool)
      or (isinstance(value, float) and not math.isfinite(value))
    ):
      raise self.damaged(
        f": {place!r} is {value!r:.40}, expected {_KINDS[kind]}"
      )
    if value in ("", [], {}) and not empty:
      raise self.damaged(f" lacks {place!r}: it is empty")
    return value

  def damaged(self, problem: str) -> UserError:
    """Returns an error that names the file, and what to do."""
    return UserError(
      f"{self.path}{problem}; run the command that wrote it again."
    )


def _result(file: _File) -> Result:
  task = file.get(str, "task")
  metrics = metrics_of(task)
  if not metrics:
    known = dict.fromkeys([*(of for of, _ in COLUMNS.values()), *FROM_TEXT])
    raise UserError(
      f"{file.path} is of task {task!r}, expected one of {', '.join(known)}."
    )
  scores = file.get(dict, "scores")
  split = "dev" if "dev" in scores and "test" not in scores else "test"
  of_split = file.get(dict, "scores", split, empty=True)
  if _PREDICTED in file.content:  # Some may not mean the same there.
    metrics = [name for name in metrics if name in of_split] or metrics
  for metric in metrics:
    values = file.get(dict, "scores", split, metric).get("values")
    # A score is undefined where there was nothing to find.
    if not (isinstance(values, list) and None in values):
      for name in ("mean", "std"):
        file.get(float, "scores", split, metric, name)
  return Result(
    place=file.path.parent,
    task=task,
    lang=_language(file.get(str, "lang", empty=True)),
    label=file.get(str, "label"),
    fingerprint=file.get(str, "fingerprint"),
    parameters=_parameters(file),
    scores=scores,
    seeds=[
      file.get(int, "seeds", i) for i in range(len(file.get(list, "seeds")))
    ],
    hardware=_hardware(file),
    before=file.content.get("fingerprint_before") or "",
    model=file.content.get("model") or "",
    init=file.content.get("init") or "",
    files={
      split: file.get(str, "files", split, "sha256")
      for split in file.content.get("files") or {}
    },
  )


def _language(code: str) -> str:
  """Returns one code for a language that recipes may give by several."""
  try:
    return languages.short_code(languages.find(code)) if code else ""
  except UserError:  # The user's own text may be in any language.
    return code


def _speeds(file: _File) -> list[Speed]:
  models: dict[str, tuple[str, str]] = {}
  for i, model in enumerate(file.get(list, "models")):
    name = file.get(str, "models", i, "name")
    fingerprint = file.get(str, "models", i, "fingerprint")
    models[name] = fingerprint, model.get("fingerprint_before") or ""
  speeds = []
  for i, row in enumerate(file.get(list, "rows")):
    name = file.get(str, "rows", i, "model")
    if name not in models:
      raise file.damaged(f" lacks {name!r} among its models")
    joules = None
    if row.get("energy") and file.get(dict, "rows", i, "energy"):
      joules = row["energy"].get("joules_per_sentence")
    if joules is not None:
      file.get(float, "rows", i, "energy", "joules_per_sentence")
    fingerprint, before = models[name]
    speeds.append(
      Speed(
        place=file.path,
        fingerprint=fingerprint,
        engine=file.get(str, "rows", i, "engine"),
        batch_size=file.get(int, "rows", i, "batch_size"),
        milliseconds=1000 * file.get(float, "rows", i, "latency_s", "p50"),
        joules=joules,
        hardware=_hardware(file),
        before=before,
      )
    )
  return speeds


def _parameters(file: _File) -> dict[str, int]:
  """Returns how many the encoder has; nothing for another program."""
  if _PREDICTED in file.content:
    return {}
  return {"all": file.get(int, "parameters", "all")}


def _hardware(file: _File) -> str:
  """Returns number and kind of devices; "" for another program."""
  if _PREDICTED in file.content:
    return ""
  count = file.get(int, "hardware", "n_devices")
  return f"{count} x {file.get(str, 'hardware', 'kind')}"
