"""One fingerprint for each model, in results of this and of earlier versions.

Earlier versions hashed the record of a run and the step of a checkpoint, and
called that the model. Newer result files also give that former fingerprint,
where only one model can have had it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from time_jax.core.errors import UserError
from time_jax.core.notes import note
from time_jax.report.results import Result, Speed

# The hash of an empty record at step 0, which all imported models shared.
_IMPORTED = hashlib.sha256(json.dumps([{}, 0]).encode()).hexdigest()


def unify(
  results: Sequence[Result], speeds: Sequence[Speed]
) -> tuple[list[Result], list[Speed]]:
  """Replaces former fingerprints by those of today; a note says where.

  Args:
    results: of `finetune`.
    speeds: of `bench inference`.

  Returns:
    Both, in which equal fingerprints mean the same model.

  Raises:
    UserError: a former fingerprint could be that of several models.
  """
  entries: list[Result | Speed] = [*results, *speeds]
  today: dict[str, str] = {}  # former fingerprint -> that of today
  renamed = []
  for former in dict.fromkeys(entry.fingerprint for entry in entries):
    early = [entry for entry in entries if entry.fingerprint == former]
    late = [entry for entry in entries if entry.before == former]
    imports = {entry.place for entry in early if former == _IMPORTED}
    if len(imports) > 1 or len({entry.fingerprint for entry in late}) > 1:
      raise UserError(
        f"{_places([*early, *late])}: an earlier version knew a model by the "
        f"hash {former[:12]}, which several models had, so it cannot be told "
        "what is of one model. Fine-tune or measure again with this version, "
        "into a new --workdir or --out, or give only what is of one model."
      )
    if late:
      today[former] = late[0].fingerprint
      renamed += early
  if renamed:
    note(
      f"{_places(renamed)} know(s) a model by the hash of an earlier version, "
      "which another result says is of the same model; they are joined."
    )

  def current(entry: Result | Speed) -> str:
    return today.get(entry.fingerprint, entry.fingerprint)

  return (
    [dataclasses.replace(r, fingerprint=current(r)) for r in results],
    [dataclasses.replace(s, fingerprint=current(s)) for s in speeds],
  )


def _places(entries: Sequence[Result | Speed]) -> str:
  places = list(dict.fromkeys(str(entry.place) for entry in entries))
  more = f" and {len(places) - 3} more" if len(places) > 3 else ""
  return ", ".join(places[:3]) + more
