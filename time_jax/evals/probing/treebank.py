"""The annotated sentences that a probe is fitted to and scored on."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from time_jax.core.storage.paths import Path
from time_jax.evals.probing import targets
from time_jax.evals.ud import conllu, labels
from time_jax.evals.ud.conllu import Sentence
from time_jax.hf import files

# More words cost more and change the order of encoders little.
_TRAIN_WORDS, _DEV_WORDS = 20_000, 10_000


@dataclasses.dataclass(frozen=True)
class Treebank:
  """The annotated sentences of a probe.

  Attributes:
    train: sentences to fit.
    dev: sentences to score.
    record: path, hash and size of both files, for reports.
  """

  train: Sequence[Sentence]
  dev: Sequence[Sentence]
  record: dict[str, Any]

  @classmethod
  def read(cls, train: Path, dev: Path) -> Self:
    """Reads the first words of two CoNLL-U files, plain or .gz.

    Raises:
      UserError: one of them is missing, or is not CoNLL-U with trees.
    """
    limits = {"train": (train, _TRAIN_WORDS), "dev": (dev, _DEV_WORDS)}
    parts, record = {}, {}
    for name, (path, limit) in limits.items():
      parts[name] = first_words(conllu.read(path), limit)
      record[name] = {
        "path": str(path),
        "sha256": files.sha256(path),
        "sentences": len(parts[name]),
        "words": sum(len(sentence.words) for sentence in parts[name]),
      }
    classes = {"UPOS": [], labels.RELATION: []} | targets.learn(parts["train"])
    read = f"the {record['train']['words']:,} words read of {train}"
    labels.note_unknown(parts["dev"], classes, read)
    return cls(**parts, record=record)


def first_words(sentences: Sequence[Sentence], limit: int) -> list[Sentence]:
  """Returns the first sentences that have so many words together, or all.

  Args:
    sentences: the sentences in order.
    limit: number of words; the sentence that reaches it is the last.
  """
  counts = np.cumsum([len(sentence.words) for sentence in sentences])
  return list(sentences[: int(np.searchsorted(counts, limit)) + 1])
