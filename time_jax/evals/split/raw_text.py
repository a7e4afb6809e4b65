"""Raw text as it arrives: bytes in, passages and sentences out."""

import codecs
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from time_jax.core.errors import UserError
from time_jax.core.storage.text_encoding import check_mark
from time_jax.evals.split.passage import Passage, Token, to_conllu
from time_jax.evals.ud.conllu import Sentence

Split = Callable[[Sequence[Passage]], list[Passage]]

# Characters of a paragraph that are split together. Of a longer one, what
# follows the last sentence that begins in them is read again with the rest.
_TOGETHER = 1 << 16
# An empty line ends a paragraph, once it has begun.
_END = re.compile(r"\S[^\S\n]*\n[^\S\n]*\n\s*(?=\S)")
_MARK = "\ufeff"  # the byte order mark
_MARKED = 4  # bytes that have the mark of any encoding
_NOT_UTF8 = ": not UTF-8 at {}; expected text in UTF-8."
_NUL = (
  " holds a NUL at {}, as UTF-16 does, or a file that is no text; expected "
  "UTF-8: convert it, or take the NULs out."
)
EXPECTED = "text whose paragraphs end with an empty line"


def decoded(arriving: Iterable[bytes], name: str) -> Iterator[str]:
  """Yields text as it arrives, without a byte order mark.

  Args:
    arriving: blocks of bytes, cut anywhere.
    name: what messages call the input.

  Raises:
    UserError: it is not UTF-8, or holds a NUL; all text before was yielded.
  """
  decoder = codecs.getincrementaldecoder("utf-8")()
  line, seen = 1, 0  # where the next character stands, bytes before the block
  for block in itertools.chain(_from_start(arriving, name), [b""]):
    start = seen - len(decoder.getstate()[0])
    seen += len(block)
    problem = ""
    try:
      text = decoder.decode(block, final=not block)
    except UnicodeDecodeError as error:
      text, problem = error.object[: error.start].decode(), _NOT_UTF8
    if "\0" in text:
      text, problem = text[: text.index("\0")], _NUL
    if shown := text if start else text.removeprefix(_MARK):
      yield shown
    line += text.count("\n")
    if problem:
      place = f"byte {start + len(text.encode()) + 1:,} of the text"
      raise UserError(f"{name}:{line}{problem.format(place)}")


def sentences(
  arriving: Iterable[str], name: str, split: Split
) -> Iterator[list[Sentence]]:
  """Yields the sentences of a text as soon as their paragraphs are complete.

  From what they say of spaces the text can be rebuilt, see `passage`.

  Args:
    arriving: see `passages`.
    name: see `passages`.
    split: see `passages`.

  Raises:
    UserError: see `passages`.
  """
  for found in passages(arriving, name, split):
    yield [sentence for passage in found for sentence in to_conllu(passage)]


def passages(
  arriving: Iterable[str], name: str, split: Split
) -> Iterator[list[Passage]]:
  """Yields the passages of a text, of which no sentence has a part of another.

  Their texts, one after the other, are the whole text, but for spaces that
  alone are left at its end. How the text arrives does not change what is found.

  Args:
    arriving: parts of the text, cut anywhere.
    name: what messages call the text.
    split: finds the sentences of passages.

  Raises:
    UserError: no more can be read; all text before was split, as if it ended
      there.
  """
  held = ""
  problems: list[UserError] = []
  for text in _until_error(arriving, problems):
    held += text
    while True:
      complete, held = _paragraphs(held)
      for some in _groups(complete):
        yield split([Passage(text, name=name) for text in some])
      if len(held.lstrip()) < _TOGETHER:
        break
      found, held = _beginning(held, name, split)
      yield [found]
  if held.strip():
    yield split([Passage(held, name=name)])
  for problem in problems:
    raise problem


def tokens(text: str, name: str, split: Split) -> Iterator[list[Token]]:
  """Yields the tokens of each sentence of a text, with places in all of it.

  Args:
    text: the text.
    name: see `passages`.
    split: see `passages`.
  """
  start = 0
  for found in passages([text], name, split):
    for passage in found:
      for some in passage.sentences:
        yield [Token(t.start + start, t.stop + start, t.words) for t in some]
      start += len(passage.text)


def _until_error(
  arriving: Iterable[str], problems: list[UserError]
) -> Iterator[str]:
  """Yields what arrives; an error that ends it is added to the problems."""
  try:
    yield from arriving
  except UserError as error:
    problems.append(error)


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
  """Yields paragraphs in groups of so many that results come in good time."""
  group: list[str] = []
  size = 0
  for text in texts:
    if group and size + len(text) > _TOGETHER:
      yield group
      group, size = [], 0
    group.append(text)
    size += len(text)
  if group:
    yield group


def paragraphs(text: str) -> list[str]:
  """Returns the paragraphs that a text begins with, as `passages` has them.

  Args:
    text: the text; after a paragraph that is too long to be split at once, no
      more are returned.
  """
  found, rest = _paragraphs(text)
  short = rest.strip() and len(rest.lstrip()) < _TOGETHER
  return [*found, rest] if short else found


def _paragraphs(text: str) -> tuple[list[str], str]:
  """Returns the paragraphs that are complete, and the rest."""
  found, start = [], 0
  first = _begins(text)
  while end := _END.search(text, first, first + _TOGETHER):
    found.append(text[start : end.end()])
    first = start = end.end()
  return found, text[start:]


def _begins(text: str) -> int:
  """Returns the place of the first character that is no space."""
  return len(text) - len(text.lstrip())


def _beginning(text: str, name: str, split: Split) -> tuple[Passage, str]:
  """Returns the sentences that a long paragraph begins with, and the rest."""
  stop = _begins(text) + _TOGETHER
  (found,) = split([Passage(text[:stop], name=name)])
  some = found.sentences
  if len(some) > 1:
    stop, some = some[-1][0].start, some[:-1]
  return Passage(text[:stop], some, name), text[stop:]


def _from_start(arriving: Iterable[bytes], name: str) -> Iterator[bytes]:
  """Yields blocks, the first one once its encoding can be told."""
  start = b""
  blocks = iter(arriving)
  for block in blocks:
    start += block
    if len(start) >= _MARKED:
      break
  check_mark(start, name)
  yield from filter(None, itertools.chain([start], blocks))
