"""An export as a part of a spaCy pipeline: opened, written and read with it."""

import os
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import srsly

from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path, delete
from time_jax.serve import folder as folders
from time_jax.serve import model as models


class Exported:
  """An export that spaCy writes and reads as a part of a pipeline.

  The model itself is opened by the first call in each process: spaCy forks
  processes for `n_process`, and onnxruntime's threads do not go with them.

  Attributes:
    task: what it is an export of, see `serve.folder.Folder.task`.
  """

  task: ClassVar[str]

  def __init__(self, *, int8: bool = False) -> None:
    """Begins without an export.

    Args:
      int8: whether matrices are in 8 bits.
    """
    self._int8 = int8
    self._folder: folders.Folder | None = None
    self._process = 0
    self._model: models.Model | None = None

  def open(self, folder: str | os.PathLike[str]) -> Self:
    """Takes an export, and returns the part itself.

    Args:
      folder: what `time-jax export --onnx` wrote.

    Raises:
      UserError: it is no such folder, or of another task.
    """
    # As a place that stays the same wherever the process goes.
    found = folders.read(os.path.realpath(folder), self._int8)
    if found.task != self.task:
      raise UserError(
        f"{folder} is an export of task {found.task!r}; expected one of "
        f"{self.task!r}."
      )
    found.files()  # all there?
    self._folder = found
    self._process = 0
    return self

  @property
  def folder(self) -> folders.Folder:
    """The export.

    Raises:
      UserError: there is none yet.
    """
    if self._folder is None:
      raise UserError(
        f"{type(self).__name__} of a spaCy pipeline has no model; expected a "
        "pipeline that `time-jax spacy` wrote, or open(FOLDER) before."
      )
    return self._folder

  @property
  def classes(self) -> dict[str, list[str]]:
    """The classes of each of its columns; none as long as there is no export.

    spaCy asks for labels before it reads a pipeline's files.
    """
    return self._folder.description.get("classes", {}) if self._folder else {}

  @property
  def opened(self) -> Any:
    """The model, opened in this process."""
    if self._process != os.getpid():
      if not self.folder.path.is_dir():
        raise UserError(
          f"{self.folder.path} is not there any more; expected that the folder "
          "of a pipeline stays where it was loaded from: load it again."
        )
      self._model = models.open_model(self.folder)
      self._process = os.getpid()
    return self._model

  def __getstate__(self) -> dict[str, Any]:
    """Leaves out what belongs to this process."""
    return self.__dict__ | {"_process": 0, "_model": None}

  def to_disk(
    self, path: str | os.PathLike[str], *, exclude: Iterable[str] = ()
  ) -> None:
    """Writes the files of the export, and no others of one before it."""
    del exclude
    folder, contents = Path(os.fspath(path)), self._contents()
    for name in {*folders.NAMES} - {*contents}:
      (folder / name).unlink(missing_ok=True)
    _write(folder, contents)

  def from_disk(
    self, path: str | os.PathLike[str], *, exclude: Iterable[str] = ()
  ) -> Self:
    """Takes the export that `to_disk` wrote, which has to stay there."""
    del exclude
    return self.open(path)

  def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
    """Returns the files of the export."""
    del exclude
    return srsly.msgpack_dumps(self._contents())

  def from_bytes(self, data: bytes, *, exclude: Iterable[str] = ()) -> Self:
    """Takes what `to_bytes` returned, into a temporary folder."""
    del exclude
    folder = Path(tempfile.mkdtemp(prefix="time-jax-"))
    weakref.finalize(self, _delete, folder, os.getpid())
    files: Any = srsly.msgpack_loads(data)
    _write(folder, files)
    return self.open(folder)

  def _contents(self) -> dict[str, bytes]:
    """Returns the files of the export: name -> content."""
    folder = self.folder
    return {n: (folder.path / n).read_bytes() for n in folder.files()}


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
  """Writes files: name -> content."""
  for name, content in contents.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def _delete(folder: Path, process: int) -> None:
  """Deletes a temporary folder, in the process that made it."""
  if os.getpid() == process:
    delete(folder)
