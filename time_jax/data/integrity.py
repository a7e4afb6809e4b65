"""Whether prepared rows are still what was written."""

import hashlib
import os
import pathlib

import tqdm

from time_jax.data.manifest import Manifest, Shard, shard_folder
from time_jax.errors import UserError


def check_shards(folder: str | os.PathLike[str], manifest: Manifest) -> int:
  """Reads every file of rows and compares its hash with the manifest's.

  Args:
    folder: of the prepared rows.
    manifest: that was written with them.

  Returns:
    The bytes that were read.

  Raises:
    UserError: names all files that are missing or have changed.
  """
  place = shard_folder(folder)
  shards = [shard for s in manifest.splits.values() for shard in s.shards]
  total = sum(shard.size for shard in shards)
  problems = []
  with tqdm.tqdm(
    desc="verify", total=total, unit="B", unit_scale=True, disable=None
  ) as bar:
    for shard in shards:
      if why := _problem(place / shard.name, shard):
        problems.append(f"{shard.name} {why}")
      bar.update(shard.size)
  if problems:
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise UserError(
      f"{len(problems)} of {len(shards)} files in {str(place)!r} are damaged: "
      f"{'; '.join(problems[:5])}{more}; expected them as `prepare` wrote "
      "them; copy them again, or run `prepare` with a new folder."
    )
  return total


def _problem(path: pathlib.Path, shard: Shard) -> str:
  """What is wrong with a file; empty if nothing is."""
  try:
    with path.open("rb") as file:
      size = os.fstat(file.fileno()).st_size
      if size != shard.size:
        return f"has {size:,} bytes instead of {shard.size:,}"
      found = hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    return f"cannot be read ({error.strerror or error})"
  return "" if found == shard.sha256 else "has other content"
