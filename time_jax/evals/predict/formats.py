"""How each task reads and writes, and the class of its network."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from time_jax.evals.common.task import Network
from time_jax.evals.ner import iob
from time_jax.evals.ner.tagger import Tagger
from time_jax.evals.predict import streams
from time_jax.evals.qa import squad
from time_jax.evals.qa.reader import Reader
from time_jax.evals.ud import conllu
from time_jax.evals.ud.annotator import Annotator

_LINES = "or one sentence a line with spaces between its words"


@dataclasses.dataclass(frozen=True)
class Format:
  """How a task reads and writes.

  Attributes:
    items: what it annotates, for the last line.
    read: blocks of the input -> items, as soon as they are complete.
    network: the class of its network.
    to_text: items -> output.
    expects: its input, for messages.
  """

  items: str
  read: Callable[[Iterable[bytes]], Iterator[list[Any]]]
  network: type[Network]
  to_text: Callable[[Sequence[Any]], str]
  expects: str


FORMATS = {
  "ud": Format(
    "sentences",
    lambda blocks: streams.sentences(blocks, streams.ChooseConllu),
    Annotator,
    conllu.to_text,
    f"CoNLL-U, {_LINES}",
  ),
  "ner": Format(
    "sentences",
    lambda blocks: streams.sentences(blocks, streams.ChooseTokens),
    Tagger,
    iob.to_text,
    f"a token a line, {_LINES}",
  ),
  "qa": Format(
    "questions", streams.questions, Reader, squad.to_lines, squad.EXPECTED
  ),
}
