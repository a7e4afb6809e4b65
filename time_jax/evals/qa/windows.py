"""Questions and their contexts -> windows of tokens, and back to characters.

A window is a row that an encoder takes: the question and as much of its
context as fits. A long context is read in several, which overlap.
"""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Int

from time_jax.core.errors import UserError
from time_jax.data.tokenizing import (
  TokenizerSpec,
  batches,
  forbidden_ids,
  load_backend,
  text_parts,
)
from time_jax.evals.qa.squad import Answer, Question
from time_jax.evals.qa.token_spans import whole_characters


@dataclasses.dataclass(frozen=True)
class Window:
  """A question with consecutive tokens of its context.

  Attributes:
    question: its number.
    tokens: ids, special ones included.
    token_types: of BERT's pairs, as the tokenizer says.
    first: the place of the first token of the context.
    spans: where these tokens start and stop in the context, in characters.
    reach: where the text starts and stops that has all of its tokens in here,
      in characters; what the tokenizer leaves without a token is included.
  """

  question: int
  tokens: Int[np.ndarray, " t"]
  token_types: Int[np.ndarray, " t"]
  first: int
  spans: Int[np.ndarray, "n 2"]
  reach: tuple[int, int]

  def place_of(self, answer: Answer) -> tuple[int, int] | None:
    """The first and last token with any of an answer; None: not all in here."""
    if answer.start < self.reach[0] or answer.stop > self.reach[1]:
      return None
    first, last = self._overlapping(answer)
    return (self.first + first, self.first + last) if first <= last else None

  def touches(self, answer: Answer) -> bool:
    """Whether any token in here has any of an answer."""
    first, last = self._overlapping(answer)
    return first <= last

  def _overlapping(self, answer: Answer) -> tuple[int, int]:
    """The first and last token with any of an answer; none: last < first."""
    starts, stops = self.spans.T
    first = int(np.searchsorted(stops, answer.start, side="right"))
    return first, int(np.searchsorted(starts, answer.stop, side="left")) - 1

  def answer(self, context: str, first: int, last: int, score: float) -> Answer:
    """What stands at these tokens of the row, without spaces at its ends."""
    start = int(self.spans[first - self.first, 0])
    stop = int(self.spans[last - self.first, 1])
    text = context[start:stop].lstrip()
    return Answer(text.rstrip(), stop - len(text), score)


class WindowCutter:
  """Turns questions into windows of at most `longest` tokens."""

  def __init__(
    self, spec: TokenizerSpec, longest: int, overlap: int, num_types: int
  ) -> None:
    """Builds the tokenizer.

    Args:
      spec: the tokenizer.
      longest: tokens of a window at most.
      overlap: tokens of a context that a window shares with the one before.
      num_types: token types that the encoder knows.
    """
    self._backend = load_backend(spec)
    self._forbidden = forbidden_ids(self._backend)
    self._longest, self._overlap = longest, overlap
    pair = self._backend.encode("a", "a")
    places = [
      np.flatnonzero([s == i for s in pair.sequence_ids]) for i in (0, 1)
    ]
    if not all(map(len, places)) or places[1][0] == places[0][-1] + 1:
      # No word on pairs, or nothing between the two: as two texts in a row.
      single = self._backend.encode("a")
      inside = np.flatnonzero([s == 0 for s in single.sequence_ids])
      before, after = single.ids[: inside[0]], single.ids[inside[-1] + 1 :]
      self._around, types = (before, after, after), [0] * 5
    else:
      (a, b), (c, d) = ((some[0], some[-1] + 1) for some in places)
      self._around = pair.ids[:a], pair.ids[b:c], pair.ids[d:]
      types = [pair.type_ids[i] for i in (0, a, c - 1, c, -1)]
    self._types = [kind if kind < num_types else 0 for kind in types]

  def windows(self, questions: Sequence[Question]) -> list[Window]:
    """Cuts every question, in order.

    Raises:
      UserError: a question is too long.
    """
    return [window for some in self._each(questions) for window in some]

  def windows_that_fit(self, questions: Sequence[Question]) -> list[Window]:
    """Cuts every question but those that are too long, which it names."""
    found: list[Window] = []
    for some in self._each(questions):
      try:
        found += list(some)
      except UserError as error:
        print(
          f"time_jax: note: {error} Its answer is left empty.", file=sys.stderr
        )
    return found

  def _each(self, questions: Sequence[Question]) -> Iterator[Iterator[Window]]:
    """The windows of every question, which are cut when they are asked for."""
    texts = [question.text.strip() for question in questions]
    ids = list(self._encode(texts))
    unique = list(dict.fromkeys(question.context for question in questions))
    contexts = dict(zip(unique, self._encode(unique), strict=True))
    for number, question in enumerate(questions):
      asked, context = ids[number][0], contexts[question.context]
      yield self._of(number, question, asked, *context)

  def _encode(
    self, texts: Iterable[str]
  ) -> Iterator[tuple[Int[np.ndarray, " n"], Int[np.ndarray, "n 2"]]]:
    """The ids of texts, without special ones, and their characters."""
    normalizer = self._backend.normalizer
    for some in batches(texts):
      for text in some:
        ids, spans, start = [], [], 0
        parts = text_parts(text)
        for part, encoding in zip(
          parts,
          self._backend.encode_batch(parts, add_special_tokens=False),
          strict=True,
        ):
          ids += encoding.ids
          spans += [(start + a, start + b) for a, b in encoding.offsets]
          start += len(part)
        tokens = np.array(ids, np.int32)
        kept = ~self._forbidden[tokens]
        places = np.array(spans, np.int32).reshape(-1, 2)[kept]
        yield tokens[kept], whole_characters(text, places, normalizer)

  def _of(
    self,
    number: int,
    question: Question,
    asked: Int[np.ndarray, " q"],
    tokens: Int[np.ndarray, " n"],
    spans: Int[np.ndarray, "n 2"],
  ) -> Iterator[Window]:
    before, middle, after = self._around
    special = sum(map(len, self._around))
    room = self._longest - special - len(asked)
    if room < 1:
      raise UserError(
        f"{question.place}: its {len(asked)} tokens leave no room for the "
        f"context in a window of {self._longest}; expected at most "
        f"{self._longest - special - 1}. Shorten it, or train with a larger "
        "data.longest, if the encoder takes it."
      )
    # Where a question leaves little room, half of it must be new.
    stride = max(room - self._overlap, (room + 1) // 2)
    head = np.array([*before, *asked, *middle], np.int32)
    lengths = len(before), len(asked), len(middle)
    start = 0
    while True:
      some = tokens[start : start + room]
      yield Window(
        number,
        np.concatenate([head, some, np.array(after, np.int32)]),
        np.repeat(self._types, (*lengths, len(some), len(after))).astype(
          np.int32
        ),
        len(head),
        spans[start : start + room],
        _reach(spans, start, start + room, len(question.context)),
      )
      if start + room >= len(tokens):
        return
      # The last is as full as the others: between few tokens each is likely.
      start = min(start + stride, len(tokens) - room)


def _reach(
  spans: Int[np.ndarray, "n 2"], start: int, stop: int, length: int
) -> tuple[int, int]:
  """See `Window.reach`, of the tokens from `start` to `stop`.

  Args:
    spans: of all tokens of a context.
    start: the first token of a window.
    stop: the token behind its last one; there may be fewer.
    length: characters of the context.
  """
  first, last = 0, length
  if start:
    first = min(spans[start - 1, 1], spans[start, 0])
  if stop < len(spans):
    last = max(spans[stop - 1, 1], spans[stop, 0])
  return int(first), int(last)
