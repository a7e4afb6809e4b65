"""Always one root, always the best such tree."""

import itertools
import sys

import numpy as np
import pytest

from time_jax.core.errors import UserError
from time_jax.evals.ud import trees

pytest.importorskip("ufal.chu_liu_edmonds")


def is_tree(heads):
  above = [{i} for i in range(len(heads))]
  for i, head in enumerate(heads):
    while head:
      if head - 1 in above[i]:
        return False
      above[i].add(head - 1)
      head = heads[head - 1]
  return True


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_single_root_and_a_tree_for_random_scores(scale):
  random = np.random.default_rng(int(scale * 1000))
  for _ in range(150):
    count = int(random.integers(1, 60))
    scores = random.normal(size=(count, count + 1)) * scale
    scores[:, 0] += random.choice([-50, 0, 50]) * scale
    heads = trees.best_tree(scores)
    assert heads.shape == (count,) and np.sum(heads == 0) == 1
    assert is_tree(heads.tolist())


def test_no_tree_with_one_root_is_better():
  random = np.random.default_rng(0)
  several = 0
  for _ in range(60):
    count = int(random.integers(2, 6))
    scores = random.normal(size=(count, count + 1))
    candidates = [
      heads
      for heads in itertools.product(range(count + 1), repeat=count)
      if is_tree(heads)
    ]
    total = {c: sum(scores[i, h] for i, h in enumerate(c)) for c in candidates}
    free = max(total, key=total.get)
    several += free.count(0) > 1
    best = max((c for c in total if c.count(0) == 1), key=total.get)
    assert tuple(trees.best_tree(scores)) == best
  assert several > 10  # Else the constraint was not tested.


def test_as_good_as_trying_every_root():
  from ufal.chu_liu_edmonds import chu_liu_edmonds

  random = np.random.default_rng(1)
  for _ in range(20):
    count = int(random.integers(2, 25))
    scores = random.normal(size=(count, count + 1))
    found = trees.best_tree(scores)
    totals = []
    for root in range(count):
      matrix = np.full((count + 1, count + 1), np.nan)
      matrix[1:, 1:] = scores[:, 1:]
      np.fill_diagonal(matrix, np.nan)
      matrix[root + 1, 0] = scores[root, 0]
      totals.append(chu_liu_edmonds(matrix)[1])
    ours = sum(scores[i, head] for i, head in enumerate(found))
    assert ours == pytest.approx(max(totals), abs=1e-9)


def searched(scores):
  """The tree as the search alone finds it."""
  from ufal.chu_liu_edmonds import chu_liu_edmonds

  matrix = np.zeros((len(scores) + 1, len(scores) + 1))
  matrix[1:] = scores
  matrix[1:, 0] -= 1 + len(scores) * np.ptp(scores)
  np.fill_diagonal(matrix, np.nan)
  return chu_liu_edmonds(matrix)[0][1:]


def random_tree(random, count):
  order = random.permutation(count)
  heads = np.zeros(count, int)
  for i in range(1, count):
    heads[order[i]] = order[random.integers(i)] + 1
  return heads


def test_what_needs_no_search_is_what_the_search_finds():
  random = np.random.default_rng(2)
  easy = 0
  for trial in range(400):
    count = int(random.integers(1, 40))
    scores = random.normal(size=(count, count + 1))
    heads = random_tree(random, count)
    scores[np.arange(count), heads] += random.choice([0, 2, 6])
    if trial % 4 == 0:
      scores = np.round(scores)  # equally good heads
    found = trees.best_tree(scores)
    assert found.dtype == np.int32
    assert found.tolist() == searched(scores)
    edges = scores.copy()
    edges[np.arange(count), np.arange(count) + 1] = -np.inf
    easy += np.array_equal(edges.argmax(axis=1), heads)
  assert 100 < easy < 300


def test_without_the_package(monkeypatch):
  monkeypatch.setitem(sys.modules, "ufal.chu_liu_edmonds", None)
  for scores in (
    np.zeros((2, 3)),
    np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
  ):
    with pytest.raises(UserError, match=r"pip install -e '.\[eval\]'"):
      trees.best_tree(scores)
