"""What each item of a file adds to a score, as `finetune` writes it.

The score of a whole file does not tell whether a difference between two models
is more than chance. What each sentence, or question, adds to it does: see
`bootstrap`.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from time_jax.core.errors import UserError
from time_jax.core.storage import atomic_file, json_file

FILE = "per_item.json"  # of a seed: split -> metric -> right and whole


@dataclasses.dataclass(frozen=True)
class Ratios:
  """A score by items: in percent, 100 * sum(right) / sum(whole).

  Attributes:
    right: of every item, what is right: words; answers; for F1 of entities,
      twice those that are found.
    whole: of every item, what could be: words; 1; the right entities and the
      predicted ones.
  """

  right: Sequence[float]
  whole: Sequence[float]


PerItem = Mapping[str, Ratios]  # metric -> what its items are


def write(folder: pathlib.Path, splits: Mapping[str, PerItem]) -> None:
  """Writes the items of a seed.

  Args:
    folder: folder of the seed.
    splits: dev or test -> items.
  """
  content = {
    split: {metric: dataclasses.asdict(own) for metric, own in items.items()}
    for split, items in splits.items()
  }
  short = {"indent": None, "separators": (",", ":")}
  atomic_file.write_json(folder / FILE, content, **short)


def read(folder: pathlib.Path, split: str) -> PerItem | None:
  """Reads what `write` wrote.

  Args:
    folder: folder of the seed.
    split: dev or test.

  Returns:
    None where there is no such file: earlier versions did not write it.

  Raises:
    UserError: the file is damaged.
  """
  path = folder / FILE
  if not path.exists():
    return None
  try:
    found = json_file.read_json(path)[split]
    items = {metric: Ratios(**own) for metric, own in found.items()}
    if all(map(_is_sound, items.values())):
      return items
  except (KeyError, TypeError, AttributeError):
    pass
  raise UserError(
    f"{path} is damaged; expected right and whole for each score of {split}, "
    f"lists of numbers of one length. Delete {folder} and run the same "
    "command again, or delete the file to report without it."
  )


def _is_sound(items: Ratios) -> bool:
  values = [*items.right, *items.whole]
  numbers = all(isinstance(x, int | float) for x in values)
  return len(items.right) == len(items.whole) > 0 and numbers
