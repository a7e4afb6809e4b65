"""What a probe asks of every word: its tag, features, relation and head."""

import collections
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from time_jax.evals.ud import labels
from time_jax.evals.ud.conllu import Sentence
from time_jax.evals.ud.labels import ROOT, Classes

HEADS = "heads"
COLUMNS = ("UPOS", "FEATS", labels.RELATION, HEADS)


def learn(sentences: Sequence[Sentence]) -> dict[str, list[str]]:
  """Returns the classes of a training file, common ones first.

  A column that is empty throughout, such as FEATS in some treebanks, is left
  out.

  Args:
    sentences: the annotated sentences.
  """
  columns = [name for name in COLUMNS if name != HEADS]
  classes = labels.learn(sentences, columns)
  counts = collections.Counter(
    name for sentence in sentences for name in heads_by_tag(sentence)
  )
  heads = sorted(counts, key=lambda name: (-counts[name], name))
  return {name: own for name, own in classes.items() if own} | {HEADS: heads}


def targets(
  sentence: Sentence, classes: Classes
) -> dict[str, Int[np.ndarray, " words"]]:
  """Returns the number of each word's class, -1 for one that is not known.

  Args:
    sentence: an annotated sentence.
    classes: what `learn` returns.
  """
  plain = {name: own for name, own in classes.items() if name != HEADS}
  numbers = labels.targets(sentence, plain)
  del numbers["HEAD"]
  number = {name: i for i, name in enumerate(classes[HEADS])}
  heads = [number.get(name, -1) for name in heads_by_tag(sentence)]
  return numbers | {HEADS: np.array(heads, np.int32)}


def heads_by_tag(sentence: Sentence) -> list[str]:
  """Returns where each word's head is, in terms that recur across sentences.

  The n-th word with the head's part of speech, counted from the word to its
  left (-) or right (+); the root's head is "root". It is the encoding "rel-PoS"
  of Strzyz et al. (arXiv 1902.10505, section 3):

    word    the   old  dog   barks  loudly
    UPOS    DET   ADJ  NOUN  VERB   ADV
    head    dog   dog  barks root   barks
    class  +1NOUN +1NOUN +1VERB root -1VERB

  Args:
    sentence: an annotated sentence.
  """
  tags = sentence.column("UPOS")
  names = []
  for word, head in enumerate(map(int, sentence.column("HEAD")), 1):
    if head == 0:
      names.append(ROOT)
      continue
    tag = tags[head - 1]
    between = tags[word:head] if head > word else tags[head - 1 : word - 1]
    names.append(f"{'+' if head > word else '-'}{between.count(tag)}{tag}")
  return names
