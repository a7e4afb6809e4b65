"""The tokenizer: raw text as a model of `finetune split` splits it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from spacy.language import Language
from spacy.scorer import Scorer
from spacy.tokens import Doc, Token
from spacy.vocab import Vocab

from time_jax.evals.split import raw_text
from time_jax.evals.split.passage import Passage, one_line
from time_jax.evals.split.passage import Token as Split
from time_jax.serve import items
from time_jax.spacy_pipeline.exported import Exported

NAME = "time_jax.tokenizer.v1"
WORDS = "ud_words"  # attribute of a token: its words, if they are not itself
if not Token.has_extension(WORDS):
  Token.set_extension(WORDS, default="")  # Matcher takes texts alone.


class Pieces(NamedTuple):
  """What a document of spaCy is made of.

  Attributes:
    words: tokens, and what stands between them beyond a single space.
    spaces: whether a single space follows each.
    starts: whether a sentence begins with it.
    several: number of a token -> its words, if they are not itself.
  """

  words: list[str]
  spaces: list[bool]
  starts: list[bool | int | None]
  several: dict[int, tuple[str, ...]]


def make_pieces(text: str, sentences: Iterable[Sequence[Split]]) -> Pieces:
  """Returns the pieces of a text, which together are the text.

  What stands before the first token belongs to its sentence; what stands after
  a token, to the sentence of that.
  """
  words: list[str] = []
  spaces: list[bool] = []
  starts: list[bool | int | None] = []
  several: dict[int, tuple[str, ...]] = {}

  def add(word: str, begins: bool) -> None:
    words.append(word)
    spaces.append(False)
    starts.append(begins or len(words) == 1)

  def add_between(between: str) -> None:
    if words and between.startswith(" "):
      spaces[-1] = True
      between = between[1:]
    if between:
      add(between, False)

  done = 0
  for tokens in sentences:
    for token in tokens:
      add_between(text[done : token.start])
      # After what stands before it, the first one begins no sentence.
      begins = token is tokens[0] and bool(done)
      surface = text[token.start : token.stop]
      add(surface, begins)
      if token.words != (one_line(surface),):
        several[len(words) - 1] = token.words
      done = token.stop
  add_between(text[done:])
  return Pieces(words, spaces, starts, several)


class Tokenizer(Exported):
  """Makes a document of text: its tokens, and where sentences begin.

  A multiword token such as `du` is one token, of which `token._.ud_words` has
  the words, "de le"; it is empty of others. What stands between tokens beyond
  a single space is a token of its own, as spaCy's tokenizers have it, so that
  no text is lost.
  """

  task = "split"

  def __init__(self, vocab: Vocab, *, int8: bool = False) -> None:
    """Begins without an export; see `Exported`.

    Args:
      vocab: the pipeline's.
      int8: see `Exported`.
    """
    super().__init__(int8=int8)
    self.vocab = vocab

  def __call__(self, text: str) -> Doc:
    """Returns the document of a text; raises InputError if it is none."""
    items.check_unicode(text, "the text")
    pieces = make_pieces(text, raw_text.tokens(text, "text", self._split))
    doc = Doc(
      self.vocab,
      words=pieces.words,
      spaces=pieces.spaces,
      sent_starts=pieces.starts,
    )
    for number, words in pieces.several.items():
      # A text is the same after any way of writing and reading a document.
      doc[number]._.set(WORDS, " ".join(words))
    return doc

  def pipe(self, texts: Iterable[str], **_: Any) -> Iterator[Doc]:
    """Yields the document of each text."""
    yield from map(self, texts)

  def score(self, examples: Iterable[Any], **_: Any) -> dict[str, Any]:
    """Returns spaCy's scores of tokens."""
    return Scorer.score_tokenization(examples)

  def _split(self, passages: Sequence[Passage]) -> list[Passage]:
    texts = [passage.text for passage in passages]
    found = self.opened.split(texts)
    return [*map(Passage, texts, found)]


def make_tokenizer(int8: bool = False) -> Callable[[Language], Tokenizer]:
  """Returns what makes a tokenizer, as spaCy's registry wants it.

  Args:
    int8: see `Exported`.
  """
  return lambda nlp: Tokenizer(nlp.vocab, int8=int8)
