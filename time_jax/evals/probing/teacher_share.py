"""How much of its teacher's hidden states a student holds: no labels needed.

Ridge regression maps each state of the student to states of the teacher, word
by word; what it explains of their variance on other sentences is what of the
teacher is still there, in a form that a linear map can reach.
"""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from time_jax.core.errors import UserError
from time_jax.evals.common.encoders import OpenedEncoder
from time_jax.evals.probing.probe import solve_tuned
from time_jax.evals.probing.word_states import (
  DEV,
  FIT,
  PART,
  TUNE,
  labels_of,
  reader_of,
  rows_of,
)
from time_jax.evals.ud.conllu import Sentence
from time_jax.hf.tokenizer import vocabulary_sha256
from time_jax.starts.least_squares import Moments, squared_error

_LAYERS = 4  # of the teacher that are compared, evenly spaced, the last too
_RANKING = 3  # which of them students are ranked by, from 1


def teacher_layers(count: int) -> list[int]:
  """Returns the layers of a teacher that are compared, from 1.

  >>> teacher_layers(12), teacher_layers(3)
  ([3, 6, 9, 12], [1, 2, 3])

  Args:
    count: layers of the teacher.
  """
  return sorted({-(-i * count // _LAYERS) for i in range(1, _LAYERS + 1)})


def ranking_layer(count: int) -> int:
  """Returns the layer of a teacher by which students are ranked, from 1.

  How much of this layer a student's last state holds ranked 19 students of one
  teacher nearly as their LAS after fine-tuning did; RESULTS.md has the rank
  correlations of this layer and of others. A student that learns the layer
  itself is read too high.

  >>> ranking_layer(12), ranking_layer(24), ranking_layer(1)
  (9, 18, 1)

  Args:
    count: layers of the teacher.
  """
  return -(-_RANKING * count // _LAYERS)


def teacher_share(
  student: OpenedEncoder,
  teacher: OpenedEncoder,
  train: Sequence[Sentence],
  dev: Sequence[Sentence],
  mesh: Mesh,
) -> Float[np.ndarray, "states layers"]:
  """Returns the percent of the teacher's variance that a student explains.

  Args:
    student: the student.
    teacher: an encoder of the same words.
    train: sentences to fit, of which nothing but the words is read.
    dev: sentences to score.
    mesh: devices, which hold the parameters of both.

  Returns:
    A row for each state of the student, the embeddings first, and a column for
    each of `teacher_layers`.

  Raises:
    UserError: the two have different vocabularies, `train` is too small, or
      states are not finite.
  """
  # A student's file may be written otherwise than its teacher's.
  vocabularies = {
    vocabulary_sha256(opened.folder, opened.config.vocab_size)
    for opened in (student, teacher)
  }
  if len(vocabularies) > 1:
    raise UserError(
      f"{student.name} and the teacher {teacher.name} have different "
      "vocabularies; expected the teacher that the student was distilled from."
    )
  layers = teacher_layers(teacher.config.num_layers)
  width, outputs = (o.config.hidden_size for o in (student, teacher))
  sums = [
    [Moments.empty(width, len(layers) * outputs) for _ in (FIT, TUNE, DEV)]
    for _ in range(student.config.num_layers + 1)
  ]
  read, read_teacher = reader_of(student, mesh), reader_of(teacher, mesh)
  nothing = [{}] * (len(train) + len(dev))
  shorter = min(student, teacher, key=lambda opened: opened.longest)
  for row in rows_of(shorter, train, dev, nothing, mesh):
    y_NY = np.concatenate([*read_teacher(row)[layers]], axis=1)
    parts = labels_of(row)[PART]
    for x_ND, of_state in zip(read(row), sums, strict=True):
      for part, moments in zip((FIT, TUNE, DEV), of_state, strict=True):
        moments.add(x_ND[parts == part], y_NY[parts == part])
  return np.array([explained(a, b, c, len(layers)) for a, b, c in sums])


def explained(
  fit: Moments, tuning: Moments, dev: Moments, layers: int = 1
) -> Float[np.ndarray, " layers"]:
  """Returns the percent of each layer's variance in `dev` that is explained.

  Args:
    fit: sums over what each strength of ridge regression is fitted to first;
      the outputs are the states of several layers, one beside the other.
    tuning: sums over what the strengths are compared on.
    dev: sums over what is scored.
    layers: how many layers the outputs are of.

  Returns:
    100 for all of it; below 0 where the mean would be closer.
  """
  missed = squared_error(dev, *solve_tuned(fit, tuning))
  missed, variance = (
    each.reshape(layers, -1).sum(axis=1) for each in (missed, dev.y_scatter)
  )
  # Of one word, there is no variance.
  known = variance > 0
  return np.where(known, 100 * (1 - missed / np.where(known, variance, 1)), 0)


def ranking_share(
  share: Float[np.ndarray, "states layers"], count: int
) -> float:
  """Returns the one number by which students are ranked.

  Args:
    share: result of `teacher_share`.
    count: layers of the teacher.
  """
  return float(share[-1, teacher_layers(count).index(ranking_layer(count))])
