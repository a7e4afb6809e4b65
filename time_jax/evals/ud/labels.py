"""Numbers the labels of a treebank's words, and turns numbers into columns."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from time_jax.core.notes import note
from time_jax.evals.ud.conllu import Sentence
from time_jax.evals.ud.edit_scripts import apply_script, script_of

TAGS = ("UPOS", "XPOS", "FEATS", "LEMMA")  # a class for each word
RELATION = "DEPREL"  # a class for each edge
_OPTIONAL = ("XPOS", "FEATS")  # in UD a word may have none of these
NONE = "_"  # what CoNLL-U writes for nothing
ROOT = "root"  # the relation of the word whose head is 0, and of no other
_ANY = "dep"  # UD's relation where none is known

Classes = Mapping[str, Sequence[str]]  # column -> classes, common ones first


def learn(
  sentences: Sequence[Sentence], columns: Sequence[str] = (*TAGS, RELATION)
) -> dict[str, list[str]]:
  """Returns the classes of a training file; for lemmas, edit scripts.

  A column that is empty throughout has no classes and is not predicted.

  Args:
    sentences: the annotated sentences.
    columns: the columns, of which UPOS comes first.
  """
  classes: dict[str, list[str]] = {}
  for column in columns:
    counts: collections.Counter[str] = collections.Counter()
    for sentence in sentences:
      counts.update(filter(None, _classes_of(sentence, column, classes)))
    names = sorted(counts, key=lambda name: (-counts[name], name))
    classes[column] = [] if names == [NONE] else names
  return classes


def _classes_of(sentence: Sentence, column: str, classes: Classes) -> list[str]:
  """Returns the class of each word, "" where it is not annotated.

  Args:
    sentence: an annotated sentence.
    column: name of the column.
    classes: the classes of UPOS, if it has any.
  """
  values = sentence.column(column)
  if column == "LEMMA":
    pairs = zip(sentence.column("FORM"), values, strict=True)
    return [
      "" if lemma == NONE != form else script_of(form, lemma)
      for form, lemma in pairs
    ]
  if column in _OPTIONAL and not classes.get("UPOS"):
    return values
  # That a word has no XPOS is a class; unless it is not annotated at all.
  tags = sentence.column("UPOS") if column in _OPTIONAL else values
  pairs = zip(values, tags, strict=True)
  return ["" if value == tag == NONE else value for value, tag in pairs]


def targets(
  sentence: Sentence, classes: Classes
) -> dict[str, Int[np.ndarray, " words"]]:
  """Returns the number of each word's class, -1 if unknown, and its HEAD."""
  numbers = {}
  for column, names in classes.items():
    if names:
      number = {name: i for i, name in enumerate(names)}
      texts = _classes_of(sentence, column, classes)
      numbers[column] = np.array([number.get(c, -1) for c in texts], np.int32)
  numbers["HEAD"] = np.array(sentence.column("HEAD"), np.int32)
  return numbers


def columns(
  forms: Sequence[str],
  numbers: Mapping[str, Int[np.ndarray, " words"]],
  classes: Classes,
) -> dict[str, list[str]]:
  """Returns the columns of a sentence, from the numbers of its words' classes.

  Args:
    forms: the words.
    numbers: column -> class of each word; HEAD -> its head.
    classes: the classes. A column without classes becomes empty, and so do
      the enhanced graphs (DEPS): what is written is predicted.
  """
  heads = numbers["HEAD"].tolist()  # Python's numbers are faster one by one.
  texts = {"HEAD": [*map(str, heads)], "DEPS": [NONE] * len(forms)}
  for column, names in classes.items():
    if not names:
      texts[column] = texts["DEPS"]
      continue
    values = [names[i] for i in numbers[column].tolist()]
    if column == "LEMMA":
      values = [*map(apply_script, values, forms)]
    if column == RELATION:
      values = [*map(_tied, values, heads)]
    texts[column] = values
  return texts


def is_root(relation: str) -> bool:
  """Returns whether a relation is the root's, with or without a subtype."""
  return relation == ROOT or relation.startswith(f"{ROOT}:")


def _tied(relation: str, head: int) -> str:
  """Returns the relation, or the nearest that UD allows to such a head."""
  if is_root(relation) == (head == 0):
    return relation
  return _ANY if head else ROOT


def note_unknown(
  sentences: Sequence[Sentence],
  classes: Classes,
  learnt_from: str = "the training file",
) -> None:
  """Prints which words can never be right, with the line of the first.

  Args:
    sentences: what is scored.
    classes: those that are learnt.
    learnt_from: where they come from, as the note says it.
  """
  for column in ("UPOS", RELATION):
    places: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
    for sentence in sentences:
      for i, label in enumerate(sentence.column(column)):
        if label not in classes[column] and (classes[column] or label != NONE):
          places[label == NONE].append((label, sentence.place(i)))
    if places[False]:
      label, place = places[False][0]
      note(
        f"{place}: {column} {label!r} is not in {learnt_from}, so it is "
        f"never predicted ({len(places[False])} words with unknown {column} in "
        "this file)."
      )
    if places[True]:
      note(
        f"{places[True][0][1]}: no {column} ({len(places[True])} words of this "
        "file); such words count as wrong."
      )
