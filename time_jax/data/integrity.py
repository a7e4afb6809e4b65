"""Whether prepared rows are still what was written."""

import hashlib
import os
import pathlib
from collections.abc import Sequence

import tensorflow_datasets as tfds
import tqdm

from time_jax.core.errors import UserError, is_unseen
from time_jax.data import manifest as manifests
from time_jax.data.manifest import Manifest, Shard, shard_folder


def check_rows(
  folder: str | os.PathLike[str],
  manifest: Manifest,
  shards: Sequence[Shard] | None = None,
) -> int:
  """Reads files of a prepared folder and compares them with the manifest.

  Args:
    folder: of the prepared rows.
    manifest: that was written with them.
    shards: whose files are read, which takes long; by default all.

  Returns:
    The bytes of these files.

  Raises:
    UserError: names all files that are missing or have changed.
  """
  place = shard_folder(folder)
  if shards is None:
    shards = [shard for s in manifest.splits.values() for shard in s.shards]
  total = sum(shard.size for shard in shards)
  problems = _metadata_problems(place, manifest)
  with tqdm.tqdm(
    desc="verify", total=total, unit="B", unit_scale=True, disable=None
  ) as bar:
    for shard in shards:
      if why := _problem(place / shard.name, shard):
        problems.append(f"{shard.name} {why}")
      bar.update(shard.size)
  _raise(place, problems)
  return total


def check_metadata(folder: str | os.PathLike[str], manifest: Manifest) -> None:
  """The same for the small files alone, which is done at once."""
  place = shard_folder(folder)
  _raise(place, _metadata_problems(place, manifest))


def _raise(place: pathlib.Path, problems: list[str]) -> None:
  if problems:
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise UserError(
      f"files in {str(place)!r} are damaged: {'; '.join(problems[:5])}{more}; "
      "expected them as `prepare` wrote them; copy them again, or run "
      "`prepare` with a new folder."
    )


def _metadata_problems(place: pathlib.Path, manifest: Manifest) -> list[str]:
  problems = []
  if manifest.fingerprint != manifests.fingerprint(manifest.settings):
    problems.append(f"{manifests.MANIFEST} has other settings")
  if why := _metadata_problem(place, manifest):
    problems.append(f"dataset_info.json or features.json {why}")
  return problems


def _metadata_problem(place: pathlib.Path, manifest: Manifest) -> str:
  """What is wrong with what TFDS knows of the rows; empty if nothing is."""
  try:
    info = tfds.builder_from_directory(place).info
    known = {
      name: list(zip(split.filenames, split.shard_lengths, strict=True))
      for name, split in info.splits.items()
    }
    found = [str(info.file_format), info.features.to_json(), known]
  except Exception as error:  # TFDS's have no common class.
    if is_unseen(error):
      raise
    return f"cannot be read ({' '.join(str(error).split())})"
  splits = {
    name: [(shard.name, shard.rows) for shard in split.shards]
    for name, split in manifest.splits.items()
  }
  features = manifests.features(manifest.settings["seq_len"]).to_json()
  expected = [str(tfds.core.FileFormat.ARRAY_RECORD), features, splits]
  return "" if found == expected else "has other content"


def _problem(path: pathlib.Path, shard: Shard) -> str:
  """What is wrong with a file; empty if nothing is."""
  try:
    with path.open("rb") as file:
      size = os.fstat(file.fileno()).st_size
      if size != shard.size:
        return f"has {size:,} bytes instead of {shard.size:,}"
      found = hashlib.file_digest(file, "sha256").hexdigest()
  except (OSError, ValueError) as error:  # Or a name that no file can have.
    if is_unseen(error):
      raise
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"
  return "" if found == shard.sha256 else "has other content"
