"""Lines of annotated text: the bytes of a file, then text with clear errors."""

import gzip
import io
import itertools
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from types import TracebackType

from time_jax.core.errors import UserError
from time_jax.core.storage.text_encoding import check_nul, check_start

_LARGEST = 512 << 20  # bytes, unpacked
_MOST = 10  # problems in a message


class Problems:
  """What is wrong with the lines of a file, raised at its end, or when many.

  `with problems:` notes a UserError and goes on behind it.
  """

  def __init__(self) -> None:
    self.found: list[str] = []

  def __enter__(self) -> None:
    pass

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> bool:
    if not isinstance(error, UserError):
      return False
    self.found.append(str(error))
    if len(self.found) == _MOST:
      self.found.append(f"These are the first {_MOST}.")
      self.raise_them()
    return True

  def raise_them(self) -> None:
    """Raises UserError, if there is anything."""
    if self.found:
      raise UserError(" ".join(self.found)) from None


def read_bytes(path: pathlib.Path, what: str) -> bytes:
  """The content of a file, plain or .gz.

  Args:
    path: of the file.
    what: it should be, for messages.

  Raises:
    UserError: no such file, a damaged one, or one of more than 512 MiB.
  """
  opener = gzip.open if path.suffix == ".gz" else open
  try:
    with opener(path, "rb") as file:
      data = file.read(_LARGEST + 1)
  except FileNotFoundError:
    raise UserError(f"no file at {path}; expected {what}.") from None
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(f"{path} cannot be read: {error}.") from error
  if len(data) > _LARGEST:
    raise UserError(
      f"{path} has more than {_LARGEST:,} bytes; expected {what}, as a file "
      "that is read whole."
    )
  return data


def read_lines(path: pathlib.Path, what: str) -> Iterable[bytes]:
  """The lines of a file, undecoded; see `read_bytes`."""
  return io.BytesIO(read_bytes(path, what))


def decode(
  lines: Iterable[bytes], name: str, what: str, first: int = 1
) -> Iterator[tuple[int, str]]:
  """Lines as (number, text without its end); at last an empty one.

  Args:
    lines: undecoded.
    name: what messages call the file.
    what: was expected, for messages.
    first: number of the first line.

  Raises:
    UserError: bytes that are no UTF-8, or no text; or lines that end otherwise.
  """
  for number, line in enumerate(itertools.chain(lines, [b""]), first):
    if number == 1:
      check_start(line, name)
    if b"\0" in line:
      check_nul(line, f"{name}:{number}")
    try:
      text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
      raise UserError(
        f"{name}:{number}: not UTF-8 at byte {error.start + 1} of the line; "
        f"expected {what} in UTF-8."
      ) from None
    text = text.rstrip("\r\n")
    if "\r" in text:
      raise UserError(
        f"{name}:{number}: a carriage return (\\r) within the line; expected "
        "lines that end with \\n or \\r\\n. Convert line ends first, such as "
        "with `tr '\\r' '\\n'`."
      )
    yield number, text
