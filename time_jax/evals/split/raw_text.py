"""Raw text as it arrives: bytes in, sentences out."""

import codecs
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from time_jax.core.errors import UserError
from time_jax.core.storage.text_encoding import check_nul, check_start
from time_jax.evals.split.passage import Passage, to_conllu
from time_jax.evals.ud.conllu import Sentence

Split = Callable[[Sequence[Passage]], list[Passage]]

# Characters of a paragraph that are split together. Of a longer one, what
# follows the last sentence that begins in them is read again with the rest.
_TOGETHER = 1 << 16
# An empty line ends a paragraph, once it has begun.
_END = re.compile(r"\S[^\S\n]*\n[^\S\n]*\n\s*(?=\S)")
EXPECTED = "text whose paragraphs end with an empty line"


def sentences(
  arriving: Iterable[bytes], name: str, split: Split
) -> Iterator[list[Sentence]]:
  """Yields the sentences of a text as soon as their paragraphs are complete.

  From what they say of spaces the text can be rebuilt, see `passage`, but for a
  byte order mark. How the bytes arrive does not change what is found.

  Args:
    arriving: blocks of bytes, cut anywhere.
    name: what messages call the input.
    split: finds the sentences of passages.

  Raises:
    UserError: it is not UTF-8.
  """
  for found in passages(_decoded(arriving, name), name, split):
    yield [sentence for passage in found for sentence in to_conllu(passage)]


def passages(
  arriving: Iterable[str], name: str, split: Split
) -> Iterator[list[Passage]]:
  """Yields the passages of a text, of which no sentence has a part of another.

  Their texts, one after the other, are the whole text, but for spaces that
  alone are left at its end.

  Args:
    arriving: parts of the text, cut anywhere.
    name: see `sentences`.
    split: see `sentences`.
  """
  held = ""
  for text in arriving:
    held += text
    while True:
      paragraphs, held = _paragraphs(held)
      if paragraphs:
        yield split([Passage(text, name=name) for text in paragraphs])
      if len(held.lstrip()) < _TOGETHER:
        break
      found, held = _beginning(held, name, split)
      yield [found]
  if held.strip():
    yield split([Passage(held, name=name)])


def _paragraphs(text: str) -> tuple[list[str], str]:
  """Returns the paragraphs that a text begins with, and the rest."""
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


def _decoded(arriving: Iterable[bytes], name: str) -> Iterator[str]:
  decoder = codecs.getincrementaldecoder("utf-8-sig")()
  seen = 0  # bytes before the block
  for block in itertools.chain(filter(None, arriving), [b""]):
    if not seen:
      check_start(block, name)
    check_nul(block, f"{name}, {seen:,} bytes after its start,")
    waiting = len(decoder.getstate()[0])
    try:
      yield decoder.decode(block, final=not block)
    except UnicodeDecodeError as error:
      place = seen - waiting + error.start + 1
      raise UserError(
        f"{name}: not UTF-8 at byte {place:,}; expected text in UTF-8."
      ) from None
    seen += len(block)
