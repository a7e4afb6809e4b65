"""Settings of a run that change at one of its steps, as its config says.

`train.changes = "1200:peak_lr=0.0003;5000:spike=6,clip_norm=0.5"` gives the
steps after step 1200 another peak learning rate, and so on. A run stays a
function of its config: it can be stopped anywhere, and go on from a checkpoint
before a change as well as from one after it.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from time_jax.config.ranges import Range
from time_jax.core.errors import UserError

FIELDS = ("peak_lr", "spike", "max_skipped", "clip_norm")
_FORM = "STEP:FIELD=VALUE,FIELD=VALUE;STEP:FIELD=VALUE"
Changes = dict[int, dict[str, float]]  # after this step -> field -> value


def parse(text: str) -> Changes:
  """Reads `train.changes`.

  Args:
    text: as in the module's example; empty: nothing changes.

  Returns:
    The changes by their steps, in order.

  Raises:
    UserError: it has another form.
  """
  changes: Changes = {}
  try:
    for part in filter(None, text.replace(" ", "").split(";")):
      number, _, values = part.partition(":")
      pairs = [pair.split("=") for pair in values.split(",")]
      new = {name: _number(value) for name, value in pairs}
      if int(number) in changes or len(new) < len(pairs):
        raise ValueError(part)
      changes[int(number)] = new
  except ValueError:
    raise UserError(
      f"train.changes={text!r} cannot be read; expected {_FORM}, each step and "
      "each of its fields once, such as '1200:peak_lr=0.0003'."
    ) from None
  return dict(sorted(changes.items()))


def _number(text: str) -> float:
  try:
    return int(text)
  except ValueError:
    return float(text)


def invalid_changes(
  text: str, num_steps: int, ranges: Mapping[str, Range]
) -> list[str]:
  """Returns a phrase for each mistake in `train.changes`.

  Args:
    text: see `parse`.
    num_steps: number of steps of the run.
    ranges: "train.FIELD" -> allowed numbers.
  """
  try:
    changes = parse(text)
  except UserError as error:
    return [str(error).rstrip(".")]
  wrong = [
    f"train.changes names step {step}, expected 1 to {num_steps - 1}"
    for step in changes
    if not 1 <= step < num_steps
  ]
  for step, values in changes.items():
    for name, value in values.items():
      if name not in FIELDS:
        wrong.append(
          f"train.changes names {name!r}, expected one of {', '.join(FIELDS)}"
        )
      elif value not in ranges[f"train.{name}"]:
        wrong.append(
          f"train.changes has {name}={value!r} after step {step}, expected "
          f"{ranges[f'train.{name}']}"
        )
  return wrong


def at(config: ConfigDict, step: int) -> ConfigDict:
  """Returns the config of the step that follows `step` steps.

  Args:
    config: config of the run; it is not changed.
    step: number of steps before.
  """
  if not config.train.changes:
    return config
  now = ConfigDict(config.to_dict())
  now.train.update(fields_at(config.train, step))
  return now


def fields_at(train: ConfigDict, step: int) -> dict[str, float]:
  """Returns the fields that may change, as they are after `step` steps.

  Args:
    train: the section `train` of a config.
    step: number of steps before.
  """
  now = {name: train[name] for name in FIELDS}
  for first, values in parse(train.changes).items():
    if first <= step:
      now |= values
  return now


def agree(before: str, now: str, step: int) -> bool:
  """Returns whether two values of `train.changes` agree on the first steps.

  Args:
    before: the recorded value.
    now: the value of this start.
    step: number of steps that are done.
  """
  first, second = (
    {s: values for s, values in parse(text).items() if s < step}
    for text in (before, now)
  )
  return first == second


def line(step: int, values: Mapping[str, float]) -> str:
  """Describes a change, such as "after step 4: peak_lr 0.001".

  Args:
    step: the last step before the change.
    values: field -> value from then on.
  """
  new = ", ".join(f"{name} {value:g}" for name, value in values.items())
  return f"after step {step}: {new}"


def added(text: str, step: int, *, prefix: str = "", **values: float) -> str:
  """Returns the flag that adds a change to those of `train.changes`.

  Args:
    text: `train.changes` so far.
    step: the last step before the change.
    prefix: what stands before the field's name, such as "students.xs.".
    **values: field -> value from then on.
  """
  changes = parse(text)
  changes[step] = changes.get(step, {}) | values
  parts = [
    f"{step}:" + ",".join(f"{name}={value!r}" for name, value in new.items())
    for step, new in sorted(changes.items())
  ]
  return f"--config.{prefix}train.changes='{';'.join(parts)}'"


def instead(
  before: Mapping[str, Any],
  now: Mapping[str, Any],
  step: int,
  prefix: str = "",
) -> str:
  """Says how to change fields from a step on, instead of for the whole run.

  Args:
    before: the section `train` of the recorded config.
    now: that of this start.
    step: step of the last checkpoint.
    prefix: see `added`.

  Returns:
    A sentence; empty if none of the fields that may change differs.
  """
  new = {
    n: now[n] for n in FIELDS if n != "max_skipped" and now[n] != before[n]
  }
  if not new:
    return ""
  names = " and ".join(f"{prefix}train.{name}" for name in new)
  return (
    f" To change {names} from here on, leave the old value and add "
    f"{added(now['changes'], step, prefix=prefix, **new)}."
  )


def way_on(
  config: ConfigDict, step: int, prefix: str = "", **more: float
) -> str:
  """Says how to continue a run that ended after too many skipped steps.

  Args:
    config: config of the run.
    step: step of its last checkpoint; 0 if there is none.
    prefix: see `added`.
    **more: what is to change besides the learning rate.
  """
  causes = "look for damaged text or teacher weights."
  if not step:
    return f"Lower {prefix}train.peak_lr, or {causes}"
  half = at(config, step).train.peak_lr / 2
  return (
    "To go on from there with half the learning rate, add "
    f"{added(config.train.changes, step, prefix=prefix, peak_lr=half, **more)} "
    "to the same command; "
    f"spike, max_skipped and clip_norm can be changed so, too. Or {causes}"
  )
