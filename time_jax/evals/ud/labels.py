"""What the words of a treebank are labelled with, as numbers and back."""

import collections
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from time_jax.evals.ud.conllu import Sentence
from time_jax.evals.ud.edit_scripts import apply_script, script_of

TAGS = ("UPOS", "XPOS", "FEATS", "LEMMA")  # one class a word
RELATION = "DEPREL"  # one class an edge
_OPTIONAL = ("XPOS", "FEATS")  # in UD a word may have none of these
NONE = "_"  # CoNLL-U's word for nothing
ROOT = "root"  # the relation of the word whose head is 0, and of no other
_ANY = "dep"  # UD's relation where none is known

Vocabulary = Mapping[str, Sequence[str]]  # column -> classes, common ones first


def learn(sentences: Sequence[Sentence]) -> dict[str, list[str]]:
  """The classes of a training file; of lemmas, their edit scripts.

  A column that is empty throughout has no classes: it is not predicted.
  """
  found: dict[str, list[str]] = {}
  for column in (*TAGS, RELATION):
    counts: collections.Counter[str] = collections.Counter()
    for sentence in sentences:
      counts.update(filter(None, _classes(sentence, column, found)))
    names = sorted(counts, key=lambda name: (-counts[name], name))
    found[column] = [] if names == [NONE] else names
  return found


def _classes(
  sentence: Sentence, column: str, vocabulary: Vocabulary
) -> list[str]:
  """The class of every word; empty where there is none to learn.

  Args:
    sentence: annotated, in part at least.
    column: by its name.
    vocabulary: the classes of UPOS, if it has any.
  """
  values = sentence.column(column)
  if column == "LEMMA":
    forms = sentence.column("FORM")
    return [
      "" if lemma == NONE != form else script_of(form, lemma)
      for form, lemma in zip(forms, values, strict=True)
    ]
  if column not in _OPTIONAL:
    return ["" if value == NONE else value for value in values]
  # That a word has none is a class; unless the word is not annotated at all.
  if not vocabulary.get("UPOS"):
    return values
  tags = sentence.column("UPOS")
  return [
    "" if value == tag == NONE else value
    for value, tag in zip(values, tags, strict=True)
  ]


def targets(
  sentence: Sentence, vocabulary: Vocabulary
) -> dict[str, Int[np.ndarray, " words"]]:
  """The numbers of the words' classes, -1 for unknown ones, and the heads."""
  found = {}
  for column, names in vocabulary.items():
    if names:
      number = {name: i for i, name in enumerate(names)}
      classes = _classes(sentence, column, vocabulary)
      found[column] = np.array([number.get(c, -1) for c in classes], np.int32)
  found["HEAD"] = np.array(sentence.column("HEAD"), np.int32)
  return found


def columns(
  forms: Sequence[str],
  numbers: Mapping[str, Int[np.ndarray, " words"]],
  vocabulary: Vocabulary,
) -> dict[str, list[str]]:
  """The columns of a sentence, from the numbers of its words' classes.

  Args:
    forms: of its words.
    numbers: column -> class of every word; HEAD: its head.
    vocabulary: the classes. A column without classes becomes empty, and so
      do the enhanced graphs (DEPS): what is written is predicted.
  """
  found = {
    "HEAD": [str(head) for head in numbers["HEAD"]],
    "DEPS": [NONE] * len(forms),
  }
  for column, names in vocabulary.items():
    if not names:
      found[column] = [NONE] * len(forms)
      continue
    values = [names[i] for i in numbers[column]]
    if column == "LEMMA":
      pairs = zip(values, forms, strict=True)
      values = [apply_script(script, form) for script, form in pairs]
    found[column] = values
  if vocabulary.get(RELATION):
    found[RELATION] = [
      _tied(relation, int(head))
      for relation, head in zip(found[RELATION], numbers["HEAD"], strict=True)
    ]
  return found


def is_root(relation: str) -> bool:
  """Whether a relation is that of the root, with or without a subtype."""
  return relation.partition(":")[0] == ROOT


def _tied(relation: str, head: int) -> str:
  """The relation, or the nearest that UD allows to such a head."""
  if is_root(relation) == (head == 0):
    return relation
  return _ANY if head else ROOT


def note_unknown(sentences: Sequence[Sentence], vocabulary: Vocabulary) -> None:
  """Says which words can never be right, with the line of the first."""
  for column in ("UPOS", RELATION):
    known = {*vocabulary[column], NONE}
    strange = [
      (label, sentence.place(i))
      for sentence in sentences
      for i, label in enumerate(sentence.column(column))
      if label not in known
    ]
    if strange:
      label, place = strange[0]
      print(
        f"time_jax: note: {place}: {column} {label!r} is not in the training "
        f"file, so it is never predicted ({len(strange)} words with unknown "
        f"{column} in this file).",
        file=sys.stderr,
      )
    missing = [
      sentence.place(i)
      for sentence in sentences
      for i, label in enumerate(sentence.column(column))
      if label == NONE and vocabulary[column]
    ]
    if missing:
      print(
        f"time_jax: note: {missing[0]}: no {column} ({len(missing)} words of "
        "this file); such words count as wrong.",
        file=sys.stderr,
      )
