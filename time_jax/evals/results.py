"""The result files of `finetune` and `bench inference`, read without JAX."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.errors import UserError
from time_jax.hf import files

SCORES = "scores.json"
SCHEMA = "time_jax.finetune/1"
_SPEEDS = "inference.json"
_SPEED_SCHEMA = "time_jax.bench.inference/1"

Breakdown = dict[str, dict[str, int]]  # class -> what is counted -> words


@dataclasses.dataclass(frozen=True)
class Result:
  """What a workdir of `finetune` found.

  Attributes:
    place: the workdir.
    task: ud, ner or qa.
    lang: ISO code.
    label: of the model.
    fingerprint: which model it is; see `identity`.
    before: by which earlier versions knew it; empty: not known.
    parameters: "all" and "without_embeddings".
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
    """
    total: Breakdown = {}
    for seed in self.seeds:
      path = self.place / f"seed-{seed}" / SCORES
      by = _field(files.read_json(path), "by", path)
      for name, row in by.get(self.split, {}).get(kind, {}).items():
        sums = total.setdefault(name, dict.fromkeys(row, 0))
        for what, number in row.items():
          sums[what] += number
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
    file = _file(path)
    content = files.read_json(file)
    schema = content.get("schema")
    if schema == SCHEMA:
      results.append(_result(content, file))
    elif schema == _SPEED_SCHEMA:
      speeds += _speeds(content, file)
    else:
      raise UserError(
        f"{file} is of schema {schema!r}, expected {SCHEMA!r} or "
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


def _result(content: Mapping[str, Any], file: pathlib.Path) -> Result:
  names = ("task", "lang", "label", "fingerprint", "parameters", "scores")
  return Result(
    place=file.parent,
    seeds=_field(content, "seeds", file),
    hardware=_hardware(content, file),
    before=content.get("fingerprint_before") or "",
    model=content.get("model") or "",
    init=content.get("init") or "",
    **{name: _field(content, name, file) for name in names},
  )


def _speeds(content: Mapping[str, Any], file: pathlib.Path) -> list[Speed]:
  prints = {
    _field(model, "name", file): {
      "fingerprint": _field(model, "fingerprint", file),
      "before": model.get("fingerprint_before") or "",
    }
    for model in _field(content, "models", file)
  }
  return [
    Speed(
      place=file,
      **_field(prints, _field(row, "model", file), file),
      engine=_field(row, "engine", file),
      batch_size=_field(row, "batch_size", file),
      milliseconds=1000 * _field(row, "latency_s", file)["p50"],
      joules=(row.get("energy") or {}).get("joules_per_sentence"),
      hardware=_hardware(content, file),
    )
    for row in _field(content, "rows", file)
  ]


def _hardware(content: Mapping[str, Any], file: pathlib.Path) -> str:
  found = _field(content, "hardware", file)
  return f"{found['n_devices']} x {found['kind']}"


def _field(content: Mapping[str, Any], name: str, file: pathlib.Path) -> Any:
  if name not in content:
    raise UserError(
      f"{file} lacks {name!r}; run the command that wrote it again."
    )
  return content[name]
