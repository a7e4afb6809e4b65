"""Checks that prepared rows are still as they were written."""

import hashlib
import os
from collections.abc import Sequence
from io import BufferedReader

import tensorflow_datasets as tfds
import tqdm

from time_jax.core.errors import UserError, is_inconclusive
from time_jax.core.storage.paths import Path
from time_jax.data import manifest as manifests
from time_jax.data.manifest import Manifest, Shard, shard_folder


def check_rows(
  folder: str | os.PathLike[str],
  manifest: Manifest,
  shards: Sequence[Shard] | None = None,
) -> int:
  """Reads files of a prepared folder and compares them with the manifest.

  Args:
    folder: the folder of the prepared rows.
    manifest: what was written with them.
    shards: the files to read, which may take long; by default all of them.

  Returns:
    The number of bytes in these files.

  Raises:
    UserError: names the files that are missing or have changed.
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
      problems += _shard_problems(place, shard, content=True)
      bar.update(shard.size)
  _raise(place, problems)
  return total


def check_metadata(folder: str | os.PathLike[str], manifest: Manifest) -> None:
  """Compares what TFDS reads of a prepared folder with the manifest.

  Args:
    folder: the folder of the prepared rows.
    manifest: what was written with them.

  Raises:
    UserError: the settings, or the files of TFDS, have changed.
  """
  place = shard_folder(folder)
  _raise(place, _metadata_problems(place, manifest))


def check_sizes(
  folder: str | os.PathLike[str], shards: Sequence[Shard]
) -> None:
  """Compares the sizes of files with those in the manifest.

  Args:
    folder: the folder of the prepared rows.
    shards: the files to look at.

  Raises:
    UserError: names the files that are missing or have another size.
  """
  place = shard_folder(folder)
  _raise(place, [p for s in shards for p in _shard_problems(place, s)])


def _raise(place: Path, problems: list[str]) -> None:
  if problems:
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise UserError(
      f"files in {str(place)!r} are damaged: {'; '.join(problems[:5])}{more}; "
      "expected them as `prepare` wrote them; copy them again, or run "
      "`prepare` with a new folder."
    )


def _metadata_problems(place: Path, manifest: Manifest) -> list[str]:
  problems = []
  if manifest.fingerprint != manifests.fingerprint(manifest.settings):
    problems.append(f"{manifests.MANIFEST} has other settings")
  # What TFDS reads there, compared with what the manifest says of the rows.
  expected = [
    str(tfds.core.FileFormat.ARRAY_RECORD),
    manifests.features(manifest.settings["seq_len"]).to_json(),
    {
      name: [(shard.name, shard.rows) for shard in split.shards]
      for name, split in manifest.splits.items()
    },
  ]
  try:
    info = tfds.builder_from_directory(place).info
    splits = {
      name: list(zip(split.filenames, split.shard_lengths, strict=True))
      for name, split in info.splits.items()
    }
    content = [str(info.file_format), info.features.to_json(), splits]
    problem = "" if content == expected else "has other content"
  except Exception as error:  # TFDS's have no common class.
    if is_inconclusive(error):
      raise
    problem = f"cannot be read ({' '.join(str(error).split())})"
  if problem:
    problems.append(f"dataset_info.json or features.json {problem}")
  return problems


def _shard_problems(
  place: Path, shard: Shard, *, content: bool = False
) -> list[str]:
  """Returns what is wrong with the size, and the content, of a file."""
  try:
    with (place / shard.name).open("rb") as file:
      size = os.fstat(file.fileno()).st_size
      if size != shard.size:
        return [f"{shard.name} has {size:,} bytes instead of {shard.size:,}"]
      if not content or _sha256(file) == shard.sha256:
        return []
  except (OSError, ValueError) as error:  # Or a name that no file can have.
    if is_inconclusive(error):
      raise
    why = getattr(error, "strerror", None) or error
    return [f"{shard.name} cannot be read ({why})"]
  return [f"{shard.name} has other content"]


def _sha256(file: BufferedReader) -> str:
  return hashlib.file_digest(file, "sha256").hexdigest()
