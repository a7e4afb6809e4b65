"""The component `time_ud`: tags, features, lemmas and trees."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from spacy.attrs import DEP, HEAD, LEMMA, MORPH, POS, TAG
from spacy.language import Language
from spacy.parts_of_speech import IDS
from spacy.pipeline.dep_parser import parser_score
from spacy.pipeline.lemmatizer import lemmatizer_score
from spacy.pipeline.morphologizer import morphologizer_score
from spacy.pipeline.tagger import tagger_score
from spacy.tokens import Doc
from spacy.vocab import Vocab

from time_jax.evals.ud.labels import RELATION
from time_jax.spacy_pipeline.component import Component, sentences
from time_jax.spacy_pipeline.tokenizer import WORDS

_ATTRIBUTES = (POS, TAG, MORPH, LEMMA, DEP, HEAD)
# Those that documents do not get where the treebank lacks the column.
_COLUMNS = {POS: "UPOS", MORPH: "FEATS", LEMMA: "LEMMA"}
_NOTHING = "_"
_ROOT = "ROOT"
_MASK = (1 << 64) - 1  # attributes are unsigned
Found = Mapping[str, Sequence[Any]]


@Language.factory(
  "time_ud",
  assigns=[
    *("token.pos", "token.tag", "token.morph", "token.lemma"),
    *("token.dep", "token.head", "token.is_sent_start", "doc.sents"),
  ],
  default_config={"int8": False},
  default_score_weights={
    "pos_acc": 0.2,
    "morph_acc": 0.2,
    "lemma_acc": 0.2,
    "dep_uas": 0.2,
    "dep_las": 0.2,
  },
)
def make_trees(nlp: Language, name: str, int8: bool) -> "Trees":
  """Returns the component, without an export; see `Exported`."""
  del nlp
  return Trees(name, int8=int8)


class Trees(Component):
  """Annotates as a model of `finetune ud`, what is one token as spaCy has it.

  A multiword token has the tags, lemmas and features of all its words, and the
  head of that word which is nearest to the root: as `spacy convert
  --merge-subtokens` makes it of a treebank.
  """

  task = "ud"

  @property
  def labels(self) -> tuple[str, ...]:
    """The relations, as `token.dep_` has them."""
    return tuple(sorted(map(_dep, self.classes.get(RELATION, ()))))

  def annotate(self, docs: Sequence[Doc]) -> None:
    """Writes tags, features, lemmas, heads and relations."""
    read = [(sentences(doc), _words_of_tokens(doc)) for doc in docs]
    words = [
      [[*words[i]] for i in tokens] for some, words in read for tokens in some
    ]
    forms = [[form for own in some for form in own] for some in words]
    found = iter(self.opened(forms))
    lacking = {a for a, column in _COLUMNS.items() if not self._has(column)}
    for doc, (some, own) in zip(docs, read, strict=True):
      array = _white_space(doc, self._space)
      for tokens in some:
        counts = [len(own[i]) for i in tokens]
        array[tokens] = _rows(doc.vocab, next(found), counts, tokens)
      known = [i for i, name in enumerate(_ATTRIBUTES) if name not in lacking]
      doc.from_array([_ATTRIBUTES[i] for i in known], array[:, known])

  @property
  def _space(self) -> str:
    """The tag of white space, beside tags of a treebank's own or UPOS."""
    return "_SP" if self._has("XPOS") else "SPACE"

  def _has(self, column: str) -> bool:
    """Returns whether a column of the treebank was learnt."""
    return bool(self.classes.get(column))

  def score(self, examples: Iterable[Any], **_: Any) -> dict[str, Any]:
    """Returns spaCy's scores of all that is annotated."""
    examples = [*examples]
    scores: dict[str, Any] = {}
    for of in (
      tagger_score,
      morphologizer_score,
      lemmatizer_score,
      parser_score,
    ):
      scores |= of(examples)
    return scores


def _words_of_tokens(doc: Doc) -> list[tuple[str, ...]]:
  """Returns the words of each token, whose white space is a single space."""
  several: dict[int, str] = {
    key[2]: value
    for key, value in doc.user_data.items()
    if isinstance(key, tuple) and key[:2] == ("._.", WORDS) and value
  }
  return [
    tuple(several[t.idx].split())
    if t.idx in several
    else (" ".join(t.text.split()),)
    for t in doc
  ]


def _white_space(doc: Doc, tag: str) -> Any:
  """Returns the attributes of tokens as if all were white space.

  They are those of spaCy's own pipelines; each hangs on the token before it.

  Args:
    doc: the document.
    tag: the tag of white space.
  """
  strings = doc.vocab.strings
  own = IDS["SPACE"], strings.add(tag), doc.vocab.morphology.add("")
  first = next((t.i for t in doc if not t.is_space), 0)
  relation = strings.add("dep")
  rows = [
    (*own, t.orth, relation, (1 if t.i < first else -1) & _MASK) for t in doc
  ]
  if rows and not first:
    rows[0] = (*rows[0][:-2], strings.add(_ROOT), 0)
  return np.array(rows, np.uint64).reshape(-1, len(_ATTRIBUTES))


def _rows(
  vocab: Vocab, found: Found, counts: Sequence[int], tokens: Sequence[int]
) -> list[tuple[int, ...]]:
  """Returns the attributes of the tokens of a sentence.

  Args:
    vocab: the pipeline's.
    found: columns of the words, see `serve.parser.Parser`.
    counts: words of each token.
    tokens: the numbers of the tokens in the document.
  """
  add = vocab.strings.add
  owner = np.repeat(tokens, counts).tolist()
  heads = [head - 1 for head in found["head"]]
  lacking = [_NOTHING] * len(heads)
  upos, xpos, feats, lemmas, relations = (
    found.get(name, lacking)
    for name in ("upos", "xpos", "feats", "lemma", "deprel")
  )
  rows, start = [], 0
  for token, count in zip(tokens, counts, strict=True):
    stop = start + count
    chief = start if count == 1 else _chief(heads, start, stop)
    tags = (
      upos[i] if xpos[i] == _NOTHING else xpos[i] for i in range(start, stop)
    )
    head = heads[chief]
    away = owner[head] - token if head >= 0 else 0
    rows.append(
      (
        IDS.get(upos[chief], 0),
        add("_".join(tags)),
        vocab.morphology.add(_union(feats[start:stop])),
        add(" ".join(lemmas[start:stop])),
        add(_ROOT if head < 0 else relations[chief]),
        away & _MASK,
      )
    )
    start = stop
  return rows


def _chief(heads: Sequence[int], start: int, stop: int) -> int:
  """Returns which of some words is nearest to the root, as spaCy merges them.

  Args:
    heads: the head of each word of the sentence, from 0; -1: the root.
    start: the first of the words.
    stop: the one after the last.
  """

  def depth(word: int) -> int:
    steps = 0
    while (word := heads[word]) >= 0:
      steps += 1
    return steps

  outside = (i for i in range(start, stop) if not start <= heads[i] < stop)
  return min(outside, key=depth)


def _union(feats: Sequence[str]) -> str:
  """Returns the features of several words as those of one."""
  if len(feats) == 1:
    return feats[0] if feats[0] != _NOTHING else ""
  values: dict[str, set[str]] = {}
  for feature in (f for some in feats for f in some.split("|")):
    name, _, own = feature.partition("=")
    if own:
      values.setdefault(name, set()).update(own.split(","))
  return "|".join(
    f"{n}={','.join(sorted(v))}" for n, v in sorted(values.items())
  )


def _dep(relation: str) -> str:
  """Returns a relation as spaCy writes it."""
  return _ROOT if relation == "root" else relation
