"""The manifest of a prepared folder, and its shards as a TFDS dataset.

FOLDER/manifest.json          written last: with it the folder is finished
FOLDER/time_rows/1.0.0/
  time_rows-*.array_record-*  the rows
  *.json                      what TFDS has to know about them
"""

import dataclasses
import hashlib
import json
import os
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds

from time_jax.core import errors
from time_jax.core.storage.atomic_file import from_json, read_json
from time_jax.core.storage.paths import Path
from time_jax.data.tf_example import FEATURES

NAME = "time_rows"
VERSION = "1.0.0"
MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Shard:
  """One finished file of rows.

  Attributes:
    name: file name in the prepared folder.
    block: number of the block of text that it was made from.
    rows: number of rows.
    size: bytes of the file.
    sha256: hash of the file.
  """

  name: str
  block: int
  rows: int
  size: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class SourceFile:
  """A local file of text.

  Attributes:
    path: as given, or as a glob found it.
    size: its bytes when it was read.
  """

  path: str
  size: int


@dataclasses.dataclass(frozen=True)
class SplitManifest:
  """The sources and the contents of one split.

  Attributes:
    sources: the sources of text, as given.
    files: the local files among them; none for TFDS and Hugging Face.
    documents: documents with text that were used.
    empty_documents: documents of whitespace only, left out.
    bad_records: records that could not be read, left out.
    text_bytes: UTF-8 bytes of the documents.
    tokens: tokens in all rows, special ones included, padding excluded.
    rows: number of rows.
    packing_efficiency: share of the places in the rows that hold a token.
    shards: the files.
  """

  sources: tuple[str, ...]
  files: tuple[SourceFile, ...]
  documents: int
  empty_documents: int
  bad_records: int
  text_bytes: int
  tokens: int
  rows: int
  packing_efficiency: float
  shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The content of a prepared folder, as its manifest.json states it.

  Attributes:
    version: version of this format.
    fingerprint: hash of the settings.
    tokenizer_sha256: hash of the tokenizer's JSON text.
    settings: all that decides the content, as plain JSON values.
    splits: the parts, such as train and validation.
  """

  version: int
  fingerprint: str
  tokenizer_sha256: str
  settings: dict[str, Any]
  splits: dict[str, SplitManifest]

  @property
  def content(self) -> str:
    """The hash of the settings and of the hashes of all files."""
    files = {
      name: [shard.sha256 for shard in split.shards]
      for name, split in self.splits.items()
    }
    return fingerprint([self.fingerprint, files])


def fingerprint(settings: Any) -> str:
  """Returns the SHA-256 of JSON values, such as the settings of a manifest.

  Args:
    settings: the values; the order of the fields in an object does not matter.
  """
  plain = json.dumps(settings, sort_keys=True)
  return hashlib.sha256(plain.encode()).hexdigest()


def is_prepared(folder: str | os.PathLike[str]) -> bool:
  """Returns whether `prepare` has finished in this folder."""
  return (Path(folder) / MANIFEST).is_file()


def load_manifest(folder: str | os.PathLike[str]) -> Manifest:
  """Reads the manifest of prepared rows.

  Args:
    folder: a folder in which `prepare` has finished.

  Raises:
    UserError: there is no manifest, or it is damaged.
  """
  path = Path(folder) / MANIFEST
  try:
    values = read_json(path)
    for name, split in values["splits"].items():
      split["sources"] = tuple(map(str, split["sources"]))
      split["files"] = tuple(from_json(SourceFile, f) for f in split["files"])
      split["shards"] = tuple(from_json(Shard, s) for s in split["shards"])
      values["splits"][name] = from_json(SplitManifest, split)
    return from_json(Manifest, values)
  except (OSError, *errors.DAMAGED_JSON) as error:
    raise errors.UserError(
      f"{str(path)!r} is missing or damaged ({error}); expected the manifest "
      "of prepared text; run `prepare` with a new folder"
    ) from error


def shard_folder(folder: str | os.PathLike[str]) -> Path:
  """Returns the folder of the shards inside a prepared folder."""
  return Path(folder) / NAME / VERSION


def features(seq_len: int) -> tfds.features.FeaturesDict:
  """Returns the features of a row, as TFDS has to know them."""
  # TFDS's default is a list of integers, each written on its own.
  row = tfds.features.Tensor(
    shape=(seq_len,), dtype=np.int32, encoding=tfds.features.Encoding.BYTES
  )
  return tfds.features.FeaturesDict(dict.fromkeys(FEATURES, row))


def write_metadata(place: Path, manifest: Manifest) -> None:
  """Writes the files by which TFDS reads a folder of shards as a dataset.

  Args:
    place: the folder of the shards.
    manifest: describes them.
  """
  template = tfds.core.ShardedFileTemplate(
    data_dir=place, dataset_name=NAME, filetype_suffix="array_record"
  )
  splits = [
    tfds.core.SplitInfo(
      name=name,
      shard_lengths=[shard.rows for shard in split.shards],
      num_bytes=sum(shard.size for shard in split.shards),
      filename_template=template.replace(split=name),
    )
    for name, split in manifest.splits.items()
  ]
  tfds.folder_dataset.write_metadata(
    data_dir=place,
    features=features(manifest.settings["seq_len"]),
    split_infos=splits,
    check_data=False,  # The check needs TensorFlow.
  )
