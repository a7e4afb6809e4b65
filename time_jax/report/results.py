"""The result files of `finetune` and `bench inference`, read without JAX."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.catalog import languages
from time_jax.core.errors import UserError
from time_jax.hf import files

SCORES = "scores.json"
SCHEMA = "time_jax.finetune/1"
_SPEEDS = "inference.json"
_SPEED_SCHEMA = "time_jax.bench.inference/1"

# Column of a report -> (task, metric), in the paper's order.
COLUMNS = {
  "UPOS": ("ud", "UPOS"),
  "Lemmas": ("ud", "Lemmas"),
  "LAS": ("ud", "LAS"),
  "NER F1": ("ner", "F1"),
  "QA F1": ("qa", "F1"),
}
# Kind of breakdown -> what is counted.
_COUNTS = {
  "feats": ("gold", "predicted", "right"),
  "upos": ("words", "UPOS", "UFeats", "Lemmas", "LAS"),
}
_KINDS = {
  str: "text",
  int: "a whole number",
  float: "a number",
  list: "a list",
  dict: "an object",
}

Breakdown = dict[str, dict[str, int]]  # class -> what is counted -> words


@dataclasses.dataclass(frozen=True)
class Result:
  """What a workdir of `finetune` found.

  Attributes:
    place: the workdir.
    task: ud, ner or qa.
    lang: the shortest ISO code, however the recipe had it.
    label: of the model.
    fingerprint: which model it is; see `identity`.
    before: by which earlier versions knew it; empty: not known.
    parameters: of the encoder, "all".
    scores: split -> metric -> mean and std in percent, values of the seeds.
    seeds: one run each.
    hardware: kind of device.
    model: the path or hub id that it was opened by.
    init: whether its weights or only its shape were taken.
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

  @property
  def split(self) -> str:
    """Test, where it was scored; else dev."""
    return "test" if "test" in self.scores else "dev"

  def breakdown(self, kind: str) -> Breakdown:
    """Counts of `split`, the sum over the seeds.

    Args:
      kind: "feats" or "upos".

    Raises:
      UserError: a seed's file lacks them.
    """
    total: Breakdown = {}
    for seed in self.seeds:
      file = _File(self.place / f"seed-{seed}" / SCORES)
      for name in file.get(dict, "by", self.split, kind, empty=True):
        sums = total.setdefault(name, dict.fromkeys(_COUNTS[kind], 0))
        for what in sums:
          sums[what] += file.get(int, "by", self.split, kind, name, what)
    return total


@dataclasses.dataclass(frozen=True)
class Speed:
  """How fast an encoder is, in one engine and batch size.

  Attributes:
    place: the file that says so.
    fingerprint: which model it is; see `identity`.
    engine: such as jax.
    batch_size: sentences at a time.
    milliseconds: of a batch, median.
    joules: of a sentence; None: not measured.
    hardware: kind of device.
    before: by which earlier versions knew it; empty: not known.
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
  if not path.is_dir():
    return path
  for name in (SCORES, _SPEEDS):
    if (path / name).exists():
      return path / name
  raise UserError(
    f"{path} holds neither {SCORES} nor {_SPEEDS}; expected the --workdir of a "
    "finished `finetune`, or the --out of `bench inference`."
  )


class _File:
  """A JSON file that somebody may have damaged, or written otherwise."""

  def __init__(self, path: pathlib.Path) -> None:
    self.path, self.content = path, files.read_json(path)

  def get(self, kind: type, *names: str | int, empty: bool = False) -> Any:
    """What stands at a path of names.

    Args:
      kind: a key of `_KINDS`.
      *names: keys of objects, and numbers in lists.
      empty: whether it may be empty.

    Raises:
      UserError: it is not there, or of another kind.
    """
    found: Any = self.content
    place = ""
    for name in names:
      if isinstance(name, int):
        place += f"[{name}]"
        found = found[name]  # Of a list that was there.
      else:
        place += f".{name}" if place else name
        found = found.get(name) if isinstance(found, dict) else None
      if found is None:
        raise UserError(
          f"{self.path} lacks {place!r}; run the command that wrote it again."
        )
    kinds = (int, float) if kind is float else kind
    right = isinstance(found, kinds) and not isinstance(found, bool)
    if not right or (isinstance(found, float) and not math.isfinite(found)):
      raise UserError(
        f"{self.path}: {place!r} is {found!r:.40}, expected {_KINDS[kind]}; "
        "run the command that wrote it again."
      )
    if found in ("", [], {}) and not empty:
      raise UserError(
        f"{self.path} lacks {place!r}: it is empty; run the command that wrote "
        "it again."
      )
    return found


def _result(file: _File) -> Result:
  task = file.get(str, "task")
  metrics = [metric for of, metric in COLUMNS.values() if of == task]
  if not metrics:
    known = ", ".join(dict.fromkeys(of for of, _ in COLUMNS.values()))
    raise UserError(
      f"{file.path} is of task {task!r}, expected one of {known}."
    )
  scores = file.get(dict, "scores")
  split = "dev" if "dev" in scores and "test" not in scores else "test"
  for metric in metrics:
    score = file.get(dict, "scores", split, metric)
    values = score.get("values")
    # Undefined, as F1 is where there is no name to find.
    if not (isinstance(values, list) and None in values):
      for name in ("mean", "std"):
        file.get(float, "scores", split, metric, name)
  seeds = file.get(list, "seeds")
  return Result(
    place=file.path.parent,
    task=task,
    lang=_language(file.get(str, "lang", empty=True)),
    label=file.get(str, "label"),
    fingerprint=file.get(str, "fingerprint"),
    parameters={"all": file.get(int, "parameters", "all")},
    scores=scores,
    seeds=[file.get(int, "seeds", i) for i in range(len(seeds))],
    hardware=_hardware(file),
    before=file.content.get("fingerprint_before") or "",
    model=file.content.get("model") or "",
    init=file.content.get("init") or "",
  )


def _language(code: str) -> str:
  """One code for a language, which recipes may have had by several."""
  try:
    return languages.short_code(languages.find(code)) if code else ""
  except UserError:  # It may have been of a corpus of the user's own.
    return code


def _speeds(file: _File) -> list[Speed]:
  prints = {}
  for i, model in enumerate(file.get(list, "models")):
    name = file.get(str, "models", i, "name")
    fingerprint = file.get(str, "models", i, "fingerprint")
    prints[name] = fingerprint, model.get("fingerprint_before") or ""
  found = []
  for i, row in enumerate(file.get(list, "rows")):
    name = file.get(str, "rows", i, "model")
    if name not in prints:
      raise UserError(
        f"{file.path} lacks {name!r} among its models; run the command that "
        "wrote it again."
      )
    fingerprint, before = prints[name]
    energy = row.get("energy") and file.get(dict, "rows", i, "energy")
    joules = (energy or {}).get("joules_per_sentence")
    if joules is not None:
      file.get(float, "rows", i, "energy", "joules_per_sentence")
    found.append(
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
  return found


def _hardware(file: _File) -> str:
  count = file.get(int, "hardware", "n_devices")
  return f"{count} x {file.get(str, 'hardware', 'kind')}"
