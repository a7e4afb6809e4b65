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
from time_jax.evals.split import raw_text, treebank
from time_jax.evals.split.splitter import Splitter
from time_jax.evals.ud import conllu
from time_jax.evals.ud.annotator import Annotator

SPLIT = "split"  # the task that begins with raw text
_LINES = "or one sentence a line with spaces between its words"


Read = Callable[[Iterable[bytes]], Iterator[list[Any]]]


@dataclasses.dataclass(frozen=True)
class Format:
  """How a task reads and writes.

  Attributes:
    items: what it annotates, for the last line.
    read: blocks of the input -> items, as soon as they are complete; or parts
      of raw text, which `raw.split` makes items of.
    network: the class of its network.
    to_text: items -> output.
    expects: its input, for messages.
    of_sentence: makes an item of the words of a sentence; None: items are none.
  """

  items: str
  read: Read
  network: type[Network]
  to_text: Callable[[Sequence[Any]], str]
  expects: str
  of_sentence: Callable[[conllu.Sentence], Any] | None = None


FORMATS = {
  "ud": Format(
    "sentences",
    lambda blocks: streams.sentences(blocks, streams.ChooseConllu),
    Annotator,
    conllu.to_text,
    f"CoNLL-U, {_LINES}",
    of_sentence=lambda sentence: sentence,
  ),
  "ner": Format(
    "sentences",
    lambda blocks: streams.sentences(blocks, streams.ChooseTokens),
    Tagger,
    iob.to_text,
    f"a token a line, {_LINES}",
    of_sentence=lambda found: iob.make_sentence(  # Names are of whole tokens.
      [form for form, _, _ in treebank.tokens(found)]
    ),
  ),
  SPLIT: Format(
    "sentences",
    lambda blocks: ([text] for text in raw_text.decoded(blocks, streams.NAME)),
    Splitter,
    conllu.to_text,
    raw_text.EXPECTED,
    of_sentence=lambda sentence: sentence,
  ),
  "qa": Format(
    "questions", streams.questions, Reader, squad.to_lines, squad.EXPECTED
  ),
}
