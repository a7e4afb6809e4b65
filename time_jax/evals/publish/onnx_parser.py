"""Writes a model of `finetune ud` as ONNX files, and measures them against JAX.

Between its two graphs stands the search for trees, so that no one graph holds
all of it: the first one tags words and scores their heads, the second one
computes the relations to the heads that were found.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from time_jax.core.display import byte_size
from time_jax.core.errors import RunError
from time_jax.core.storage.paths import Path
from time_jax.evals.common import onnx_words
from time_jax.evals.common.batches import Shape
from time_jax.evals.common.word_network import WordBatch, WordExamples
from time_jax.evals.predict.pipeline import open_network
from time_jax.evals.ud import labels, onnx_heads, trees
from time_jax.evals.ud.annotator import Annotator
from time_jax.evals.ud.labels import RELATION
from time_jax.hf import onnx_graph, onnx_int8, onnx_session
from time_jax.hf.onnx_names import (
  ARCS,
  AS_DEPENDENTS,
  AS_GOVERNORS,
  FOLDER,
  HEADS,
  INPUTS,
  INT8,
  OWNERS,
  PLAIN,
  RELATIONS,
)
from time_jax.models.family import Params
from time_jax.release import onnx_files, probe

_IMPOSSIBLE = -900.0  # log p of heads that cannot be are below it
_LEAST = 0.5  # share of labels that stay the same in 8 bits
# Share of labels that rounding may change, where the scores of two are near.
_DIFFERENT = 0.05


class _Found(NamedTuple):
  """What is computed of the words of a batch, each (rows, words, ...).

  Attributes:
    arcs: log p of heads.
    classes: column -> class.
  """

  arcs: np.ndarray
  classes: Mapping[str, np.ndarray]


def write_onnx(folder: Path) -> list[tuple[str, str]]:
  """Writes graphs in float32 and one in int8, and compares all with JAX.

  Args:
    folder: a folder with a model of `finetune ud`, which gets them; its encoder
      is of BERT's kinds.

  Returns:
    For each file its name and the finding, in words.

  Raises:
    UserError: onnx or onnxruntime is not installed.
    RunError: the float32 graphs give something else than JAX.
  """
  opened, params = open_network(folder)
  network = cast(Annotator, opened)
  plain, int8 = onnx_files.make_folder(folder)
  relations = plain.with_name(RELATIONS)
  large = onnx_graph.is_large(params)
  read_words = functools.partial(onnx_words.read_sentences, inputs=INPUTS[:2])
  graph, _ = onnx_heads.first_program(
    network.heads, network.opened.config, params, read_words
  )
  graph.save(plain, large=large)
  onnx_int8.write_int8(plain, int8, large=large)
  if names := network.classes.get(RELATION):
    roots = [*map(labels.is_root, names)]
    graph, _ = onnx_heads.relation_program(network.heads, params, roots)
    graph.save(relations, large=False)
  onnx_files.open_to_all(folder)
  return _compared(network, params, plain, int8)


def _compared(
  network: Annotator, params: Params, plain: Path, int8: Path
) -> list[tuple[str, str]]:
  """Returns the findings, for each file.

  Raises:
    RunError: see `write_onnx`.
  """
  batch = _rows(network)
  words = np.asarray(batch.segment_of_word) > 0
  expected = _with_jax(network, params, batch)
  same, rough = (_with_onnx(path, network, batch) for path in (plain, int8))
  possible = expected.arcs > _IMPOSSIBLE
  difference = onnx_files.check_equal(
    expected.arcs[possible], same.arcs[possible]
  )
  equal, total = _count(expected, same, words)
  if equal < (1 - _DIFFERENT) * total:
    raise RunError(
      f"onnxruntime gives {total - equal} of {total} labels otherwise than "
      f"JAX; expected at most {_DIFFERENT:.0%}."
    )
  near, _ = _count(expected, rough, words)
  if near < _LEAST * total:
    raise RunError(
      f"int8: {near} of {total} labels are those of JAX; expected at least "
      f"{_LEAST:.0%}."
    )
  opset = f"opset {onnx_graph.OPSET}"
  found = {
    PLAIN: f"onnxruntime equals JAX within {difference:.1e} (log p of heads), "
    f"{equal} of {total} labels equal; "
    f"{byte_size(onnx_files.size_of(plain))}, {opset}",
    INT8: f"int8: {near} of {total} labels equal; "
    f"{byte_size(onnx_files.size_of(int8))}",
  }
  second = plain.with_name(RELATIONS)
  if second.exists():
    found[RELATIONS] = f"float32; {byte_size(second.stat().st_size)}, {opset}"
  return [(f"{FOLDER}/{name}", text) for name, text in found.items()]


def _rows(network: Annotator) -> WordBatch:
  """Returns a few texts, each in a row of its own."""
  chunks = network.tokenizer.chunks([text.split() for text in probe.TEXTS])
  examples = WordExamples(chunks, network.opened.tokenizer.pad_id)
  size = int(examples.sizes.max()), int(examples.words.max())
  rows = [[i] for i in range(len(chunks))]
  return examples.fill(rows, Shape(len(rows), *size))


def _with_jax(network: Annotator, params: Params, batch: WordBatch) -> _Found:
  scores, classes, arcs = jax.device_get(network.outputs(params, batch))
  found = {**classes}
  if network.classes.get(RELATION):
    heads = _heads(arcs, batch)
    found[RELATION] = network.relations(params, scores, jnp.asarray(heads))
  found = {name: np.asarray(array) for name, array in found.items()}
  return _Found(arcs, found)


def _with_onnx(path: Path, network: Annotator, batch: WordBatch) -> _Found:
  tokens = np.asarray(batch.batch.tokens)
  real = np.asarray(batch.batch.segment_ids) > 0
  inputs = dict(zip(INPUTS, (tokens, real), strict=False))
  inputs |= {OWNERS: np.asarray(batch.word_of_token)}
  columns = [
    name for name, some in network.classes.items() if some and name != RELATION
  ]
  between = [AS_DEPENDENTS, AS_GOVERNORS]
  arcs, *given = _run(path, [ARCS, *between, *columns], inputs)
  found = dict(zip(columns, given[len(between) :], strict=True))
  if network.classes.get(RELATION):
    heads = _heads(arcs, batch)
    inputs = dict(
      zip([*between, HEADS], [*given[: len(between)], heads], strict=True)
    )
    second = path.with_name(RELATIONS)
    (found[RELATION],) = _run(second, [RELATION], inputs)
  return _Found(arcs, found)


def _heads(arcs: np.ndarray, batch: WordBatch) -> np.ndarray:
  return trees.search_trees(arcs, np.asarray(batch.segment_of_word)).in_row


def _run(
  path: Path, outputs: list[str], inputs: Mapping[str, Any]
) -> list[np.ndarray]:
  feeds = {
    name: array if array.dtype == np.float32 else array.astype(np.int64)
    for name, array in inputs.items()
  }
  return onnx_session.open_session(path).run(outputs, feeds)


def _count(
  expected: _Found, found: _Found, words: np.ndarray
) -> tuple[int, int]:
  """Returns how many labels of words are equal, and how many there are."""
  equal = [
    expected.classes[name][words] == found.classes[name][words]
    for name in expected.classes
  ]
  return int(np.sum(equal)), int(np.size(equal))
