"""What is given to a model, checked: sentences, texts and questions."""

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from time_jax.core.errors import UserError
from time_jax.evals.qa.squad import Question

_LONGEST = 1_000_000  # characters of an item
_SHOWN = 60  # characters of a wrong one in a message
_Item = TypeVar("_Item")
_WORD = re.compile(r"\S+")


class InputError(UserError):
  """An item cannot be read: whoever sent it is to change it."""


class Sentence(NamedTuple):
  """A sentence as words.

  Attributes:
    text: all of it.
    words: its words.
    starts: where each word starts in the text, in characters.
  """

  text: str
  words: list[str]
  starts: list[int]


def read_all(read: Callable[[Any, int], _Item], items: Any) -> list[_Item]:
  """Returns items as what they are to be.

  Args:
    read: such as `sentence`.
    items: a list of them.

  Raises:
    InputError: it is no list, or one of them cannot be read.
  """
  if not isinstance(items, (list, tuple)):
    raise InputError(f"inputs is {_shown(items)}; expected a list of them.")
  return [read(item, number) for number, item in enumerate(items)]


def sentence(item: Any, number: int) -> Sentence:
  """Returns an item as a sentence.

  Args:
    item: a text, whose words stand between spaces; or a list of words.
    number: its number among the items, from 0, for messages.

  Raises:
    InputError: it is neither.
  """
  if isinstance(item, str):
    found = [*_WORD.finditer(text(item, number))]
    words, starts = [m.group() for m in found], [m.start() for m in found]
    return Sentence(item, words, starts)
  if not isinstance(item, (list, tuple)):
    raise _wrong(item, number, "a sentence: a text, or a list of words")
  words = [text(word, number, "a word") for word in item]
  if not all(map(str.strip, words)):
    raise _wrong(item, number, "words that are not empty")
  whole = text(" ".join(words), number)
  lengths = (len(word) + 1 for word in words)
  return Sentence(
    whole, words, [*itertools.accumulate(lengths, initial=0)][:-1]
  )


def question(item: Any, number: int) -> Question:
  """Returns an item as a question.

  Args:
    item: an object with "question" and "context".
    number: see `sentence`.

  Raises:
    InputError: it is none.
  """
  if not isinstance(item, Mapping) or not {"question", "context"} <= {*item}:
    raise _wrong(item, number, 'a question: {"question": ..., "context": ...}')
  asked, context = (
    text(item[name], number, f"{name!r} as a text")
    for name in ("question", "context")
  )
  return Question(str(number), asked, context, (), "inputs")


def text(item: Any, number: int, expected: str = "a text") -> str:
  """Returns an item that is a text.

  Args:
    item: the item, or a part of one.
    number: see `sentence`.
    expected: what it should be, for messages.

  Raises:
    InputError: it is no text, too long, or has half a surrogate pair.
  """
  if not isinstance(item, str):
    raise _wrong(item, number, expected)
  if len(item) > _LONGEST:
    raise InputError(
      f"inputs[{number}] has {len(item):,} characters; expected at most "
      f"{_LONGEST:,}."
    )
  check_unicode(item, f"inputs[{number}]")
  return item


def check_unicode(text: str, name: str) -> None:
  """Refuses a text that has half a surrogate pair.

  Args:
    text: the text.
    name: what messages call it.

  Raises:
    InputError: it has one.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise InputError(
      f"{name}: the character {error.start} of {text[:_SHOWN]!r} is half of a "
      "surrogate pair; expected Unicode text."
    ) from None


def _wrong(item: Any, number: int, expected: str) -> InputError:
  shown = _shown(item)
  return InputError(f"inputs[{number}] is {shown}; expected {expected}.")


def _shown(item: Any) -> str:
  shown = repr(item)
  return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
