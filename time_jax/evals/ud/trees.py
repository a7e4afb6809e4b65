"""Finds the best dependency tree with exactly one root."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Heads(NamedTuple):
  """Heads of the words of a batch, 0 for the root.

  Attributes:
    in_row: each head by its number in the row, from 1.
    in_chunk: each head by its number in its chunk, from 1.
  """

  in_row: Int[np.ndarray, "B W"]
  in_chunk: Int[np.ndarray, "B W"]


def best_tree(scores: Float[np.ndarray, "n n+1"]) -> Int[np.ndarray, " n"]:
  """Returns the maximum spanning tree among those with a single root.

  This is the algorithm of Chu and Liu ("On the Shortest Arborescence of a
  Directed Graph", Scientia Sinica, 1965) and Edmonds ("Optimum Branchings",
  Journal of Research of the NBS, 1967): every word takes its best head, and
  words in a cycle become one, until there is no cycle. Of equally good trees,
  equal scores always give the same one.

  Stanojevic and Cohen ("A Root of a Problem", EMNLP 2021) get one root without
  a search for each: they take the same large amount from every score of the
  root, which leaves the order of the trees with one root as it is and puts all
  others below them. So is it here, but without the amount, which would round
  the scores: words take their best heads among words, and only the one that
  gains most by it takes the root instead. No tree with one root can have a
  higher score than that, so it is the best one if it is a tree.

  Args:
    scores: the score of head j for word i + 1 in [i, j]; j = 0 is the root.
      There is at least one word.

  Returns:
    The head of each word, 0 for the root.

  Raises:
    ValueError: a score is infinite or not a number.
  """
  if not np.isfinite(scores).all():
    raise ValueError("scores of heads are infinite or not numbers")
  search = _Search(scores)
  while cycles := search.find_cycles():
    for cycle in cycles:
      search.contract(cycle)
  return search.heads()


class _Search:
  """Words and contracted cycles, and what is the best edge into each.

  Both are called nodes. A word has its index, and a cycle that of one of its
  members; the others are gone. The edge from word j to word i has the number
  `i * count + j`.

  Attributes:
    count: the number of words.
    weights: the score of the best edge from node j to node i in [i, j], -inf
      if there is none. For an edge into a cycle, this is what it adds to the
      score of the tree: its own score less that of the edge it takes the place
      of. Rows of nodes that are gone mean nothing.
    best: the score of each node's best edge from another node.
    edges_in: that edge.
    gains: what each node gains if it takes the root instead of its best edge;
      -inf for nodes that are gone.
    entries: the word of each node that then takes the root.
    nodes: the node in which each word lies.
    contracted: for each cycle, the earliest first, its nodes, the edges that
      made them a cycle, and `nodes` as it was before.
  """

  def __init__(self, scores: Float[np.ndarray, "n n+1"]) -> None:
    self.count = len(scores)
    self.weights = scores[:, 1:].astype(np.float64, order="C")
    self.weights.reshape(-1)[:: self.count + 1] = -np.inf  # the diagonal
    self.nodes = np.arange(self.count)
    self.entries = self.nodes.copy()
    heads = self.weights.argmax(axis=1)
    self.best = self.weights[self.nodes, heads]
    self.edges_in = self.nodes * self.count + heads
    self.gains = scores[:, 0] - self.best
    self.contracted: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

  @functools.cached_property
  def edges(self) -> Int[np.ndarray, "n n"]:
    """The edge of each of `weights`, which most sentences have no need of."""
    return np.arange(self.count**2).reshape(self.count, self.count)

  def find_cycles(self) -> list[np.ndarray]:
    """Returns the nodes of each cycle in which the best edges lie."""
    top = self.gains.argmax()
    above = self.nodes[self.edges_in % self.count]
    above[top] = top
    ends = above
    for _ in range(self.count.bit_length()):
      ends = ends[ends]  # Twice as far up.
    # From so far down, all nodes of a cycle are reached, and none but them.
    left = set(ends.tolist()) - {int(top)}
    cycles = []
    while left:
      cycle = [min(left)]
      while (node := int(above[cycle[-1]])) != cycle[0]:
        cycle.append(node)
      left.difference_update(cycle)
      cycles.append(np.array(cycle))
    return cycles

  def contract(self, cycle: Int[np.ndarray, " members"]) -> None:
    """Makes one node of a cycle, with the index of its first member."""
    weights, edges = self.weights, self.edges
    self.contracted.append((cycle, self.edges_in[cycle], self.nodes))
    first, gone = cycle[0], cycle[1:]
    every = np.arange(self.count)

    into = weights[cycle] - self.best[cycle, None]
    member = into.argmax(axis=0)
    weights[first] = into[member, every]
    edges[first] = edges[cycle[member], every]

    member = cycle[weights[:, cycle].argmax(axis=1)]
    weights[:, first] = weights[every, member]
    edges[:, first] = edges[every, member]
    weights[:, gone] = weights[first, first] = -np.inf

    # Other nodes keep their best edges, also those that come from the cycle.
    head = weights[first].argmax()
    self.best[first] = weights[first, head]
    self.edges_in[first] = edges[first, head]

    member = cycle[self.gains[cycle].argmax()]
    self.entries[first] = self.entries[member]
    self.gains[first] = self.gains[member] - self.best[first]
    self.gains[gone] = -np.inf

    every[cycle] = first
    self.nodes = every[self.nodes]

  def heads(self) -> Int[np.ndarray, " n"]:
    """Returns the head of each word, where the best edges have no cycle."""
    top = self.gains.argmax()
    chosen = self.edges_in.copy()
    chosen[top] = self.entries[top] * self.count  # The head is put in below.
    for cycle, edges, nodes in reversed(self.contracted):
      entering = chosen[cycle[0]]
      chosen[cycle] = edges
      # The edge from outside takes the place of the one to the same node.
      chosen[nodes[entering // self.count]] = entering
    heads = chosen % self.count + 1
    heads[self.entries[top]] = 0
    return heads.astype(np.int32)


def search_trees(
  arcs: Float[np.ndarray, "B W W+1"], segment_of_word: Int[np.ndarray, "B W"]
) -> Heads:
  """Returns the heads of the best tree of every chunk.

  Args:
    arcs: the score of each head of each word, see `best_tree`; words of
      other chunks are not looked at.
    segment_of_word: see `word_network.WordBatch`.
  """
  in_row, in_chunk = np.zeros((2, *segment_of_word.shape), np.int32)
  for row, segments in enumerate(segment_of_word):
    ends = np.flatnonzero(np.diff(segments, append=-1)) + 1
    start = 0
    for stop in ends[segments[ends - 1] > 0].tolist():
      columns = [0, *range(start + 1, stop + 1)]
      heads = best_tree(arcs[row, start:stop, columns].T.astype(np.float64))
      in_chunk[row, start:stop] = heads
      in_row[row, start:stop] = np.where(heads > 0, heads + start, 0)
      start = stop
  return Heads(in_row, in_chunk)
