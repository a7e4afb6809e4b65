"""Refuses text files that are not in UTF-8."""

import codecs

from time_jax.core.errors import UserError

HEAD = 4096  # bytes from the start of a file that are enough to tell
# Byte order marks; that of UTF-16 begins that of UTF-32, so it comes later.
_MARKS = (
  (codecs.BOM_UTF32_LE, "UTF-32"),
  (codecs.BOM_UTF32_BE, "UTF-32"),
  (codecs.BOM_UTF16_LE, "UTF-16"),
  (codecs.BOM_UTF16_BE, "UTF-16"),
)


def check_start(start: bytes, name: str) -> None:
  """Refuses a file that begins like UTF-16 or UTF-32, or holds a NUL byte.

  A byte order mark of UTF-8 is accepted, and left for the caller to remove.

  Args:
    start: the first bytes of the file, or all of them.
    name: name of the file, for messages.

  Raises:
    UserError: it is text in another encoding, or no text.
  """
  check_mark(start, name)
  check_nul(start, name)


def check_mark(start: bytes, name: str) -> None:
  """Refuses a file that begins with a byte order mark of UTF-16 or UTF-32.

  Args:
    start: its first four bytes, or more.
    name: name of the file, for messages.

  Raises:
    UserError: it does.
  """
  for mark, encoding in _MARKS:
    if start.startswith(mark):
      raise UserError(
        f"{name} is text in {encoding}, as its first bytes say; expected UTF-8:"
        f" convert it, such as by iconv -f {encoding} -t UTF-8."
      )


def check_nul(data: bytes, name: str) -> None:
  """Refuses bytes with a NUL, which no text has.

  Args:
    data: a file from its start, or a line.
    name: name of the file or the line, for messages.

  Raises:
    UserError: there is a NUL.
  """
  place = data.find(b"\0")
  if place >= 0:
    raise UserError(
      f"{name} holds a NUL at byte {place + 1}, as text in UTF-16 does, or a "
      "file that is no text; expected UTF-8: convert it, or take the NULs out."
    )
