"""The program of `finetune qa` as an ONNX graph; see `reader`."""

from time_jax.evals.common.onnx_engine import Program
from time_jax.hf.onnx_encoder import packed_states
from time_jax.hf.onnx_graph import Graph
from time_jax.models.bert import BertConfig
from time_jax.models.family import Params

_NEVER = float("-inf")


def first_program(config: BertConfig, params: Params, longest: int) -> Program:
  """Returns the graph of `Reader.outputs`.

  Args:
    config: the encoder's config.
    params: "encoder" and "heads".
    longest: tokens of an answer at most.
  """
  graph = Graph()
  *_, x = packed_states(graph, config, params["encoder"], "token_types")
  known = graph.input("in_context", "bool", ["rows", "tokens"])
  graph.input("targets", "int64", ["rows", 2])  # Nothing reads it.
  logits = graph.dense(params["heads"]["Dense_0"], x, "places")
  logits = graph.add("Transpose", logits, perm=[0, 2, 1])
  place = graph.numbers(known, 1)
  # Place 0 stands for "not in this window".
  possible = graph.add("Or", known, graph.add("Equal", place, 0))
  possible = graph.add("Unsqueeze", possible, [1])
  log_p = graph.add(
    "LogSoftmax", graph.add("Where", possible, logits, -1e9), axis=-1
  )
  first, last = (graph.take(log_p, i, axis=1) for i in (0, 1))

  def over_first(x: str) -> str:
    return graph.add("Unsqueeze", x, [-1])

  def over_last(x: str) -> str:
    return graph.add("Unsqueeze", x, [-2])

  both = graph.add("Add", over_first(first), over_last(last))
  ahead = graph.add("Sub", over_last(place), over_first(place))
  fits = graph.add(
    *("And", graph.add("GreaterOrEqual", ahead, 0)),
    graph.add("Less", ahead, longest),
  )
  inside = graph.add("And", over_first(known), over_last(known))
  valid = graph.add("And", inside, fits)
  flat = graph.add("Flatten", graph.add("Where", valid, both, _NEVER), axis=1)
  best = graph.add("ArgMax", flat, axis=-1, keepdims=0)
  count = graph.add("Squeeze", graph.add("Shape", known, start=1))
  found = {
    "first": graph.add("Div", best, count),
    "last": graph.add("Mod", best, count),
  }
  for name, x in found.items():
    graph.output(name, x, "int64", ["rows"])
  highest = graph.add("ReduceMax", flat, [-1], keepdims=0)
  graph.output("log_p", highest, "float", ["rows"])
  return Program(graph, (*found, "log_p"))
