"""Always one root, always the best such tree."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from time_jax.evals.ud import trees


def is_tree(heads):
  above = [{i} for i in range(len(heads))]
  for i, head in enumerate(heads):
    while head:
      if head - 1 in above[i]:
        return False
      above[i].add(head - 1)
      head = heads[head - 1]
  return True


@functools.cache
def all_trees(count):
  heads = itertools.product(range(count + 1), repeat=count)
  return np.array([h for h in heads if is_tree(h)])


def totals(scores, trees):
  words = np.arange(len(scores))
  return scores[words, trees].astype(np.float64).sum(axis=-1)


def single_rooted(count):
  found = all_trees(count)
  return found[np.sum(found == 0, axis=1) == 1]


def best_from(root, edges):
  """The best tree from a node of a graph, as (dependent, head) pairs.

  This is as slow as it is plain: one cycle at a time, in dictionaries.

  Args:
    root: the node.
    edges: the score of each (dependent, head).
  """
  heads = {}
  for (node, head), score in edges.items():
    if node != root and score > edges.get((node, heads.get(node)), -np.inf):
      heads[node] = head
  cycle = next(filter(None, (cycle_of(node, heads) for node in heads)), None)
  if cycle is None:
    return list(heads.items())
  whole = frozenset(cycle)
  best, real = {}, {}
  for (node, head), score in edges.items():
    pair = whole if node in cycle else node, whole if head in cycle else head
    if node in cycle:
      score -= edges[node, heads[node]]
    if pair[0] != pair[1] and score > best.get(pair, -np.inf):
      best[pair], real[pair] = score, (node, head)
  found = [real[pair] for pair in best_from(root, best)]
  entered = {node for node, _ in found}
  return found + [(n, heads[n]) for n in cycle if n not in entered]


def cycle_of(node, heads):
  seen = [node]
  while (node := heads.get(node)) is not None and node not in seen:
    seen.append(node)
  return node is not None and seen[seen.index(node) :]


def best_of_every_root(scores):
  found = []
  for root in range(1, len(scores) + 1):
    edges = {
      (i, j): scores[i - 1, j]
      for i in range(1, len(scores) + 1)
      for j in range(1, len(scores) + 1)
      if i != j
    }
    tree = dict(best_from(root, edges)) | {root: 0}
    found.append([tree[i] for i in range(1, len(scores) + 1)])
  return max(found, key=lambda heads: totals(scores, heads))


def random_tree(random, count):
  order = random.permutation(count)
  heads = np.zeros(count, int)
  for i in range(1, count):
    heads[order[i]] = order[random.integers(i)] + 1
  return heads


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
    assert heads.dtype == np.int32


def test_no_tree_with_one_root_is_better():
  random = np.random.default_rng(0)
  several = 0
  for _ in range(600):
    count = int(random.integers(1, 7))
    scores = random.normal(size=(count, count + 1))
    scores[:, 0] += random.choice([-2, 0, 2])
    free = all_trees(count)[totals(scores, all_trees(count)).argmax()]
    several += np.sum(free == 0) > 1
    candidates = single_rooted(count)
    best = candidates[totals(scores, candidates).argmax()]
    assert trees.best_tree(scores).tolist() == best.tolist()
  assert several > 100  # Else the constraint was not tested.


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_of_equally_good_trees_it_is_one(data):
  """Few values, or values that lie far apart, in float32 as well."""
  count = data.draw(st.integers(1, 5))
  dtype = data.draw(st.sampled_from([np.float32, np.float64]))
  few, many = st.integers(-2, 2), st.floats(-10_000, 10_000, width=32)
  elements = data.draw(st.sampled_from([few, few.map(lambda x: x / 10), many]))
  scores = data.draw(
    arrays.arrays(dtype, (count, count + 1), elements=elements)
  )
  before = scores.copy()
  heads = trees.best_tree(scores)
  assert heads.tolist() in single_rooted(count).tolist()
  best = totals(scores, single_rooted(count)).max()
  assert totals(scores, heads) == pytest.approx(best, rel=1e-12, abs=1e-9)
  np.testing.assert_array_equal(scores, before)
  np.testing.assert_array_equal(trees.best_tree(scores), heads)


@pytest.mark.parametrize("to_root", [-1e4, 0, 30])
def test_as_good_as_trying_every_root(to_root):
  random = np.random.default_rng(1)
  for trial in range(40):
    count = int(random.integers(2, 25))
    scores = random.normal(size=(count, count + 1))
    if trial % 2:  # Neighbours choose one another: cycles in cycles.
      places = random.permutation(count)
      scores[:, 1:] -= 3 * abs(places[:, None] - places)
    scores[:, 0] += to_root
    expected = best_of_every_root(scores)
    assert trees.best_tree(scores).tolist() == expected
    assert trees.best_tree(scores.astype(np.float32)).tolist() == expected


def test_best_heads_that_are_a_tree_are_the_best_tree():
  random = np.random.default_rng(2)
  for _ in range(100):
    count = int(random.integers(1, 60))
    scores = random.normal(size=(count, count + 1))
    heads = random_tree(random, count)
    scores[np.arange(count), heads] += 20
    assert trees.best_tree(scores).tolist() == heads.tolist()


def test_a_cycle_in_each_cycle_of_a_long_sentence():
  """Words 1 and 2 are a cycle, then 3 is in one with both, and so on."""
  count = 512
  scores = np.full((count, count + 1), -1e6)
  for word in range(2, count + 1):
    scores[word - 1, word - 1] = 0  # The word before is the best head,
    scores[0, word] = -word  # and that of word 1 as near as it can be.
  scores[:-1, 0] = -1e5
  scores[-1, 0] = 0
  order = np.random.default_rng(3).permutation(count)
  place = np.concatenate([[0], order + 1])  # of the root and each word
  mixed = np.empty_like(scores)
  mixed[np.ix_(order, place)] = scores
  expected = np.zeros(count, int)
  expected[order] = place[[count, *range(1, count - 1), 0]]
  assert trees.best_tree(mixed).tolist() == expected.tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(value):
  scores = np.zeros((3, 4), np.float32)
  scores[1, 2] = value
  with pytest.raises(ValueError, match="infinite or not numbers"):
    trees.best_tree(scores)
