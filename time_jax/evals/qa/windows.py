"""Cuts questions and contexts into windows of tokens, and finds answers there.

A window is a row that an encoder takes: the question and as much of its
context as fits. A long context is read in several, which overlap.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Int

from time_jax.core.errors import UserError
from time_jax.core.notes import note
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
    question: number of the question.
    tokens: token ids, special ones included.
    token_types: BERT's token types, as the tokenizer gives them.
    first: place of the first token of the context.
    spans: where each token of the context starts and stops, in characters.
    reach: start and stop, in characters, of the text whose tokens all lie in
      this window; characters without a token count as part of it.
  """

  question: int
  tokens: Int[np.ndarray, " t"]
  token_types: Int[np.ndarray, " t"]
  first: int
  spans: Int[np.ndarray, "n 2"]
  reach: tuple[int, int]

  def place_of(self, answer: Answer) -> tuple[int, int] | None:
    """Returns the places of an answer's first and last token.

    Args:
      answer: an answer in the context of this window's question.

    Returns:
      The places in the window; None where the answer is not whole in it, or
      has no token.
    """
    if answer.start < self.reach[0] or answer.stop > self.reach[1]:
      return None
    first, last = self._overlapping(answer)
    return (self.first + first, self.first + last) if first <= last else None

  def touches(self, answer: Answer) -> bool:
    """Returns whether a token of this window holds a part of an answer."""
    first, last = self._overlapping(answer)
    return first <= last

  def _overlapping(self, answer: Answer) -> tuple[int, int]:
    """Returns an answer's first and last token; last < first: it has none."""
    starts, stops = self.spans.T
    first = int(np.searchsorted(stops, answer.start, side="right"))
    return first, int(np.searchsorted(starts, answer.stop, side="left")) - 1

  def answer(self, context: str, first: int, last: int, score: float) -> Answer:
    """Returns the text between two tokens as an answer.

    Args:
      context: the context of this window's question.
      first: place of the answer's first token in the window.
      last: place of its last token.
      score: probability of the answer.

    Returns:
      The answer, without white space at its ends.
    """
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
      num_types: number of token types that the encoder has.
    """
    self._backend = load_backend(spec)
    self._forbidden = forbidden_ids(self._backend)
    self._longest, self._overlap = longest, overlap
    pair = self._backend.encode("a", "a")
    places = [
      np.flatnonzero([s == i for s in pair.sequence_ids]) for i in (0, 1)
    ]
    if not all(map(len, places)) or places[1][0] == places[0][-1] + 1:
      # The tokenizer has no template for pairs, or puts nothing between the
      # two texts: each is then wrapped like a text of its own.
      single = self._backend.encode("a")
      inside = np.flatnonzero([s == 0 for s in single.sequence_ids])
      before, after = single.ids[: inside[0]], single.ids[inside[-1] + 1 :]
      self._around, types = (before, after, after), [0] * 5
    else:
      (a, b), (c, d) = ((some[0], some[-1] + 1) for some in places)
      self._around = pair.ids[:a], pair.ids[b:c], pair.ids[d:]
      types = [pair.type_ids[i] for i in (0, a, c - 1, c, -1)]
    self._types = [kind if kind < num_types else 0 for kind in types]

  def windows(
    self, questions: Sequence[Question], *, skip_long: bool = False
  ) -> list[Window]:
    """Returns the windows of every question, in order.

    Args:
      questions: questions with their contexts.
      skip_long: whether questions that leave no room for their context are
        left out, with a note, instead of being an error.

    Raises:
      UserError: a question is too long.
    """
    asked = [ids for ids, _ in self._encode(q.text.strip() for q in questions)]
    unique = list(dict.fromkeys(question.context for question in questions))
    contexts = dict(zip(unique, self._encode(unique), strict=True))
    windows: list[Window] = []
    for number, question in enumerate(questions):
      try:
        windows += self._windows_of(
          number, question, asked[number], *contexts[question.context]
        )
      except UserError as error:
        if not skip_long:
          raise
        note(f"{error} Its answer is left empty.")
    return windows

  def _encode(
    self, texts: Iterable[str]
  ) -> Iterator[tuple[Int[np.ndarray, " n"], Int[np.ndarray, "n 2"]]]:
    """Yields the ids of texts, without special ones, and their characters."""
    normalizer = self._backend.normalizer
    for text in itertools.chain.from_iterable(batches(texts)):
      ids, spans, start = [], [], 0
      parts = text_parts(text)
      encodings = self._backend.encode_batch(parts, add_special_tokens=False)
      for part, encoding in zip(parts, encodings, strict=True):
        ids += encoding.ids
        spans += [(start + a, start + b) for a, b in encoding.offsets]
        start += len(part)
      tokens = np.array(ids, np.int32)
      kept = ~self._forbidden[tokens]
      places = np.array(spans, np.int32).reshape(-1, 2)[kept]
      yield tokens[kept], whole_characters(text, places, normalizer)

  def _windows_of(
    self,
    number: int,
    question: Question,
    asked: Int[np.ndarray, " q"],
    tokens: Int[np.ndarray, " n"],
    spans: Int[np.ndarray, "n 2"],
  ) -> Iterator[Window]:
    """Yields the windows of a question.

    Args:
      number: number of the question.
      question: the question.
      asked: its token ids.
      tokens: the token ids of its context.
      spans: the characters of these tokens.
    """
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
    # Where a question leaves little room, half of each window must be new.
    stride = max(room - self._overlap, (room + 1) // 2)
    head = [*before, *asked, *middle]
    # The last window is as full as the others: among few tokens each would get
    # a high probability.
    last = max(len(tokens) - room, 0)
    for start in (*range(0, last, stride), last):
      stop = min(start + room, len(tokens))
      lengths = map(len, (before, asked, middle, tokens[start:stop], after))
      reach = [0, len(question.context)]
      if start:
        reach[0] = int(min(spans[start - 1, 1], spans[start, 0]))
      if stop < len(tokens):
        reach[1] = int(max(spans[stop - 1, 1], spans[stop, 0]))
      yield Window(
        number,
        np.array([*head, *tokens[start:stop], *after], np.int32),
        np.repeat(self._types, [*lengths]).astype(np.int32),
        len(head),
        spans[start:stop],
        (reach[0], reach[1]),
      )
