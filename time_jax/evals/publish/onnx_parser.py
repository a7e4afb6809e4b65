"""Writes a model of `finetune ud` as ONNX files, and measures them against JAX.

Between its two graphs stands the search for trees, so that no one graph holds
all of it: the first one tags words and scores their heads, the second one
computes the relations to the heads that were found.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from time_jax.core.display import byte_size
from time_jax.core.storage.paths import Path
from time_jax.evals.common import onnx_words
from time_jax.evals.common.word_network import WordBatch
from time_jax.evals.predict.pipeline import open_network
from time_jax.evals.publish import word_rows
from time_jax.evals.ud import labels, onnx_heads, trees
from time_jax.evals.ud.annotator import Annotator
from time_jax.evals.ud.labels import RELATION
from time_jax.hf import onnx_graph, onnx_int8
from time_jax.hf.onnx_names import (
  ARCS,
  AS_DEPENDENTS,
  AS_GOVERNORS,
  FOLDER,
  HEADS,
  INPUTS,
  INT8,
  PLAIN,
  RELATIONS,
)
from time_jax.models.family import Params
from time_jax.release import onnx_files, probe

_IMPOSSIBLE = -900.0  # log p of heads that cannot be are below it


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
  words = [text.split() for text in probe.TEXTS]
  batch = word_rows.fill(network, words)
  real = np.asarray(batch.segment_of_word) > 0
  expected = _with_jax(network, params, batch)
  same, rough = (_with_onnx(path, network, batch) for path in (plain, int8))
  possible = expected.arcs > _IMPOSSIBLE
  difference = onnx_files.check_equal(
    expected.arcs[possible], same.arcs[possible]
  )
  equal, total = _count(expected, same, real)
  near, _ = _count(expected, rough, real)
  word_rows.check(equal, near, total)
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


def _with_jax(network: Annotator, params: Params, batch: WordBatch) -> _Found:
  scores, classes, arcs = jax.device_get(network.outputs(params, batch))
  found = {**classes}
  if network.classes.get(RELATION):
    heads = _heads(arcs, batch)
    found[RELATION] = network.relations(params, scores, jnp.asarray(heads))
  found = {name: np.asarray(array) for name, array in found.items()}
  return _Found(arcs, found)


def _with_onnx(path: Path, network: Annotator, batch: WordBatch) -> _Found:
  columns = [
    name for name, some in network.classes.items() if some and name != RELATION
  ]
  between = [AS_DEPENDENTS, AS_GOVERNORS]
  inputs = word_rows.inputs(batch)
  arcs, *given = word_rows.run(path, [ARCS, *between, *columns], inputs)
  found = dict(zip(columns, given[len(between) :], strict=True))
  if network.classes.get(RELATION):
    heads = _heads(arcs, batch)
    inputs = dict(
      zip([*between, HEADS], [*given[: len(between)], heads], strict=True)
    )
    second = path.with_name(RELATIONS)
    (found[RELATION],) = word_rows.run(second, [RELATION], inputs)
  return _Found(arcs, found)


def _heads(arcs: np.ndarray, batch: WordBatch) -> np.ndarray:
  return trees.search_trees(arcs, np.asarray(batch.segment_of_word)).in_row


def _count(
  expected: _Found, found: _Found, words: np.ndarray
) -> tuple[int, int]:
  """Returns how many labels of words are equal, and how many there are."""
  equal = [
    expected.classes[name][words] == found.classes[name][words]
    for name in expected.classes
  ]
  return int(np.sum(equal)), int(np.size(equal))
