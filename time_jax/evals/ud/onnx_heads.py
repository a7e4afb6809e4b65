"""The programs of `finetune ud` as ONNX graphs; see `heads` and `annotator`."""

from collections.abc import Callable, Sequence

import numpy as np

from time_jax.evals.common import onnx_words
from time_jax.evals.common.onnx_engine import Program
from time_jax.evals.common.onnx_words import ROWS, Words
from time_jax.evals.ud.heads import ParserHeads, Scores
from time_jax.evals.ud.labels import RELATION
from time_jax.evals.ud.pair_logits import TOGETHER
from time_jax.hf.onnx_graph import Graph
from time_jax.hf.onnx_names import ARCS, AS_DEPENDENTS, AS_GOVERNORS, HEADS
from time_jax.models.bert import BertConfig
from time_jax.models.family import Params

# What relations need.
_SCORES = Scores._make([{}, None, AS_DEPENDENTS, AS_GOVERNORS])
_WITH_ROOT = "words with root"


def first_program(
  heads: ParserHeads,
  config: BertConfig,
  params: Params,
  read_words: Callable[..., Words] = onnx_words.read_packed,
) -> Program:
  """Returns the graph of `Annotator.outputs`.

  Args:
    heads: the heads.
    config: the encoder's config.
    params: "encoder" and "heads".
    read_words: adds the inputs and the encoder, see `onnx_words`.
  """
  graph, own = Graph(), params["heads"]
  read = read_words(graph, config, params["encoder"])
  words = onnx_words.mean_tokens(graph, read.states, read.own)
  columns = [name for name, _ in heads.classes if name != RELATION]
  tags = [own[f"tags_{name}"] for name in columns]
  x, y, *mixes = onnx_words.mixes(
    graph,
    words,
    [
      *(own[name]["weights"] for name in ("arc_mix", "relation_mix")),
      *(tag["Mix_0"]["weights"] for tag in tags),
    ],
  )
  for name, tag, mix in zip(columns, tags, mixes, strict=True):
    found = onnx_words.classify(graph, tag, mix, name)
    graph.output(name, found, "int64", ROWS)
  arcs = _log_p(graph, _arcs(graph, heads, own, x), read.segments)
  graph.output(ARCS, arcs, "float", [*ROWS, _WITH_ROOT])
  dependents, governors = _pair(graph, own, y, "relation", "root_relation")
  graph.output(AS_DEPENDENTS, dependents, "float", [*ROWS, heads.relation])
  shape = ["rows", _WITH_ROOT, heads.relation]
  graph.output(AS_GOVERNORS, governors, "float", shape)
  return Program(graph, (_SCORES, {name: name for name in columns}, ARCS))


def relation_program(
  heads: ParserHeads, params: Params, is_root: Sequence[bool]
) -> Program:
  """Returns the graph of `Annotator.relations`.

  Args:
    heads: the heads.
    params: "encoder" and "heads".
    is_root: which relations are those of a head 0.
  """
  graph, own = Graph(), params["heads"]
  wide = heads.relation
  dependents = graph.input(AS_DEPENDENTS, "float", [*ROWS, wide])
  governors = graph.input(AS_GOVERNORS, "float", ["rows", _WITH_ROOT, wide])
  number = graph.input(HEADS, "int64", ROWS)
  chosen = graph.add(
    *("GatherND", governors, graph.add("Unsqueeze", number, [-1])),
    batch_dims=1,
  )
  over = graph.add("Unsqueeze", chosen, [2])
  pairs = np.asarray(own["pairs"])
  groups = []
  # Few relations at a time: of all, the products would be most of the memory.
  for start in range(0, len(pairs), TOGETHER):
    some = pairs[start : start + TOGETHER]
    side_by_side = np.concatenate(some, axis=1)
    kernel = graph.weight(f"pairs.{start}", side_by_side)
    product = graph.add("MatMul", dependents, kernel)
    product = graph.add("Reshape", product, [0, 0, len(some), wide])
    product = graph.add("Mul", product, over)
    groups.append(graph.add("ReduceSum", product, [-1], keepdims=0))
  both = graph.add("Concat", dependents, chosen, axis=-1)
  logits = graph.add(
    *("Add", graph.add("Concat", *groups, axis=-1)),
    graph.dense(own["singles"], both, "singles"),
  )
  # UD ties them: `root` is the relation of a head 0, and of no other.
  roots = graph.weight("roots", np.array(is_root, bool))
  at_root = graph.add("Unsqueeze", graph.add("Equal", number, 0), [-1])
  fits = graph.add("Equal", at_root, roots)
  logits = graph.add("Where", fits, logits, float("-inf"))
  found = graph.add("ArgMax", logits, axis=-1, keepdims=0)
  graph.output(RELATION, found, "int64", ROWS)
  return Program(graph, RELATION)


def _pair(
  graph: Graph, params: Params, x: str, name: str, root: str
) -> tuple[str, str]:
  """Adds words as dependents, and the root and words as governors."""
  dependents, words = (
    onnx_words.gated_layer(graph, params[each], x, each)
    for each in (f"{name}_dependent", f"{name}_governor")
  )
  first = graph.weight(root, np.asarray(params[root])[None, None])
  rows = graph.add("Shape", words, start=0, end=1)
  shape = graph.add("Concat", rows, [1, 1], axis=0)
  first = graph.add("Expand", first, shape)
  return dependents, graph.add("Concat", first, words, axis=1)


def _arcs(graph: Graph, heads: ParserHeads, params: Params, x: str) -> str:
  """Adds the scores of heads (rows, words, words with root)."""
  dependents, governors = _pair(graph, params, x, "arc", "root")
  kernel = graph.weight("arc_kernel", params["arc_kernel"])
  across = graph.add("Transpose", governors, perm=[0, 2, 1])
  arcs = graph.add("MatMul", graph.add("MatMul", dependents, kernel), across)
  bias = graph.dense(params["arc_bias"], governors, "arc_bias")
  bias = graph.add("Transpose", bias, perm=[0, 2, 1])
  return graph.add("Div", graph.add("Add", arcs, bias), heads.arc**0.5)


def _log_p(graph: Graph, arcs: str, segments: str) -> str:
  """Adds log p of heads that are possible; see `heads.possible_heads`."""
  dependents = graph.add("Unsqueeze", segments, [2])
  governors = graph.add("Unsqueeze", segments, [1])
  real = graph.add("Greater", dependents, 0)
  same = graph.add("Equal", dependents, governors)
  numbers = graph.numbers(segments, 1)
  itself = graph.add("Equal", numbers, graph.add("Unsqueeze", numbers, [1]))
  other = graph.add("And", same, graph.add("Not", itself))
  possible = graph.add("Concat", real, graph.add("And", real, other), axis=-1)
  arcs = graph.add("Where", possible, arcs, -1e9)
  return graph.add("Max", graph.add("LogSoftmax", arcs, axis=-1), -1e3)
