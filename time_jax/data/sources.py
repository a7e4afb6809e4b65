"""Where text comes from: local files, TFDS datasets, Hugging Face datasets.

A source is written as one string, with the text field (`text` if left out)
after the last `#`:

  corpus/*.jsonl.gz#body.en     JSON lines; nested fields are joined by dots
  corpus/part-?.parquet         parquet, one row group in memory at a time
  notes.txt                     documents are separated by blank lines
  tfds:wiki40b/en:1.3.0:train   a TFDS dataset or the folder of one
  hf:wikimedia/wikipedia/20231101.da/*.parquet   files of a dataset repository
  hf:wikimedia/wikipedia:20231101.da:train       its configuration and split

Files may be plain, `.gz` or `.zst`; globs are read in sorted order, so the
stream of documents is the same in every run. Files on the Hugging Face hub are
fetched when reading comes to them: whoever stops early has fetched no more. A
revision after the name, `hf:OWNER/NAME@REVISION/...`, keeps them the same. The
form with a configuration needs the package `datasets`, and streams.
"""

import dataclasses
import importlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from time_jax.core import errors
from time_jax.core.storage.paths import Path, local_path
from time_jax.data import hub, text_files
from time_jax.data.records import BadRecordError, Tally, check_field, text_of

# A TFDS name may carry a version, which is written with the same colon.
_TFDS = re.compile(r"(?P<name>[^:]+(?::\d+\.\d+\.\d+)?)(?::(?P<split>.+))?")
_FIRST = 100  # records that may lack the field before it is taken for wrong
_FIELD = re.compile(r"[\w-]+(\.[\w-]+)*")


@dataclasses.dataclass(frozen=True)
class Source:
  """One place to read documents from.

  Attributes:
    kind: `files`; `tfds`; `hub`, files on the Hugging Face hub; or `hf`, a
      dataset that is streamed from there.
    name: path or glob, TFDS name or folder, Hugging Face repository.
    config: the configuration of a dataset in `hf`, the glob in `hub`.
    split: the split of a dataset; unused for files.
    field: the field with the text; dots lead into nested records.
  """

  kind: str
  name: str
  config: str = ""
  split: str = "train"
  field: str = "text"

  @classmethod
  def parse(cls, text: str) -> "Source":
    """Reads a source from its one-string form (see the module docstring)."""
    place, hash_mark, field = text.rpartition("#")
    if not hash_mark:
      place, field = text, "text"
    kind, _, rest = place.partition(":")
    if not place.strip() or (kind in ("tfds", "hf") and not rest.strip(":")):
      raise errors.UserError(
        f"the text source {text!r} names nothing; expected PATH_OR_GLOB, "
        "tfds:NAME[:SPLIT], hf:OWNER/NAME/GLOB or "
        "hf:NAME[:CONFIG[:SPLIT]], each with an optional #FIELD"
      )
    if not _FIELD.fullmatch(field):
      raise errors.UserError(
        f"the text source {text!r} has the field {field!r}; expected a name "
        "such as #text or #text.en"
      )
    if kind == "tfds":
      match = _TFDS.fullmatch(rest)
      name, split = match.group("name", "split") if match else (rest, None)
      return cls("tfds", name, split=split or "train", field=field)
    if kind == "hf" and rest.partition(":")[0].count("/") > 1:
      owner, name, pattern = rest.split("/", 2)
      return cls("hub", f"{owner}/{name}", pattern, field=field)
    if kind == "hf":
      path, config, split = [*rest.split(":", 2), "", ""][:3]
      return cls("hf", path, config, split or "train", field)
    local_path(place)
    return cls("files", place, field=field)


def local_files(sources: Sequence[Source]) -> list[Path]:
  """Returns the local files of all sources, in the order of reading."""
  return [
    path
    for source in sources
    if source.kind == "files"
    for path in text_files.find_files(source.name)
  ]


def documents(sources: Sequence[Source], tally: Tally) -> Iterator[str]:
  """Streams the documents of all sources, one after the other.

  Files are looked up at once, so that a wrong path, or a field that they do
  not have, is reported before any work is done. Bad records are counted in
  `tally` and skipped.

  Args:
    sources: where to read, in this order.
    tally: counts what is read, and holds the limit of bad records.

  Returns:
    The documents, none of them empty, in an order that never changes.
  """
  streams = [_stream(source, tally) for source in sources]
  names = ", ".join(source.name for source in sources) or "no sources"
  return _non_empty(itertools.chain(*streams), names, tally)


def _stream(source: Source, tally: Tally) -> Iterator[str]:
  """Looks a source up, and returns its documents, which are not read yet."""
  if source.kind == "files":
    files = local_files([source])
    text_files.check_fields(files, source.field)
    return text_files.read_files(files, source.field, tally)
  if source.kind == "hub":
    return _read_hub(source, hub.find_files(source.name, source.config), tally)
  return _read_records(source, tally)


def _read_hub(
  source: Source, paths: Sequence[str], tally: Tally
) -> Iterator[str]:
  for path in paths:
    files = text_files.find_files(str(hub.fetch(source.name, path)))
    if path == paths[0]:
      text_files.check_fields(files, source.field)
    yield from text_files.read_files(files, source.field, tally)


def _non_empty(texts: Iterable[str], names: str, tally: Tally) -> Iterator[str]:
  for text in texts:
    if not text.strip():
      tally.empty_documents += 1
      continue
    tally.documents += 1
    tally.text_bytes += len(text.encode())
    yield text
  if not tally.documents:
    raise errors.UserError(
      f"no text in {names}: {tally.empty_documents} documents of whitespace "
      f"only, {tally.bad_records} bad records; expected text; name others"
    )


def _open_tfds(source: Source) -> Iterable[Any]:
  import tensorflow_datasets as tfds  # Slow, for this kind only.

  if os.path.isdir(source.name):
    builder = tfds.builder_from_directory(source.name)
    return builder.as_data_source(split=source.split)
  return tfds.data_source(source.name, split=source.split)


def _open_hf(source: Source) -> Iterable[Any]:
  try:
    datasets = importlib.import_module("datasets")  # An optional package.
  except ImportError as error:
    raise errors.UserError(
      f"the text source hf:{source.name} needs the package 'datasets', which "
      "is not installed; type: pip install datasets; or name its files: "
      f"hf:{source.name}/GLOB"
    ) from error
  return datasets.load_dataset(
    source.name, source.config or None, split=source.split, streaming=True
  )


def _records(source: Source) -> Iterator[Any]:
  try:
    yield from (_open_tfds if source.kind == "tfds" else _open_hf)(source)
  except errors.UserError:
    raise
  except Exception as error:  # Networks and loading scripts raise anything.
    if source.kind == "hf":
      raise hub.explain(source.name, error) from error
    raise errors.UserError(
      f"cannot read tfds:{source.name}, split {source.split!r}: "
      f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; check "
      "the name and the network, then run again"
    ) from error


def _read_records(source: Source, tally: Tally) -> Iterator[str]:
  where = f"{source.kind}:{source.name}"
  records = _records(source)
  first = check_field(itertools.islice(records, _FIRST), source.field, where)
  for number, record in enumerate(itertools.chain(first, records)):
    try:
      yield text_of(record, source.field)
    except BadRecordError as error:
      tally.bad(f"{where}: record {number}", str(error))
