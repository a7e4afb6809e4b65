"""The hidden states of a treebank's words, some words at a time."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from time_jax.core.errors import UserError
from time_jax.evals.common import batches
from time_jax.evals.common.encoders import OpenedEncoder
from time_jax.evals.common.word_layers import mean_tokens
from time_jax.evals.common.word_network import WordBatch, WordExamples
from time_jax.evals.common.word_tokens import WordTokenizer
from time_jax.evals.ud.conllu import Sentence
from time_jax.models.family import Params
from time_jax.parallel import sharding

# Parts of the data: to fit with each strength, to choose the strength by, and
# to score on. The name of a word's part, beside those of its columns.
FIT, TUNE, DEV = range(3)
PART = "part"
_TUNED = 5  # Every so many sentences of the training file, one is to tune.
# Few shapes of rows: each is compiled.
_LENGTHS = (128,)


def rows_of(
  opened: OpenedEncoder,
  train: Sequence[Sentence],
  dev: Sequence[Sentence],
  numbers: Sequence[Mapping[str, Int[np.ndarray, " words"]]],
  mesh: Mesh,
) -> Iterator[WordBatch]:
  """Yields batches on the host, whose targets have the part of every word.

  Args:
    opened: the encoder that will read them.
    train: annotated sentences; the last of them are to tune.
    dev: annotated sentences.
    numbers: of every sentence, more targets of its words.
    mesh: devices that the rows are spread over.

  Raises:
    UserError: `train` is too small.
  """
  if len(train) < _TUNED:
    raise UserError(
      f"{train[0].name} has {len(train)} sentences; expected at least {_TUNED} "
      "to fit a probe with."
    )
  tuned = len(train) // _TUNED
  counts = [len(train) - tuned, tuned, len(dev)]
  parts = np.repeat([FIT, TUNE, DEV], counts)
  buckets = batches.make_buckets(_LENGTHS, opened.longest, mesh)
  tokenizer = WordTokenizer(opened.tokenizer, buckets.lengths[-1])
  forms = [sentence.column("FORM") for sentence in [*train, *dev]]
  chunks = tokenizer.chunks(forms)
  of_chunks = []
  for chunk in chunks:
    words = slice(chunk.start, chunk.start + chunk.num_words)
    own = {k: v[words] for k, v in numbers[chunk.sentence].items()}
    own[PART] = np.full(chunk.num_words, parts[chunk.sentence])
    of_chunks.append(own)
  examples = WordExamples(chunks, opened.tokenizer.pad_id, of_chunks)
  for _, host in batches.in_rows(examples, buckets):
    yield host


def reader_of(
  opened: OpenedEncoder, mesh: Mesh
) -> Callable[[WordBatch], Float[np.ndarray, "L N D"]]:
  """Returns a function that computes all states of the words of a batch.

  Args:
    opened: the encoder.
    mesh: devices, which hold its parameters.

  Raises:
    UserError: by the function: a state is not finite.
  """
  compute = jax.jit(
    functools.partial(_states_of_words, opened),
    out_shardings=NamedSharding(mesh, P()),
  )

  def read(host: WordBatch) -> Float[np.ndarray, "L N D"]:
    with sharding.use_mesh(mesh):
      states = compute(opened.params, batches.place(host, mesh))
    x_LND = np.asarray(states)[:, host.segment_of_word > 0]
    if not np.isfinite(x_LND).all():
      raise UserError(
        f"the hidden states of {opened.name} hold NaN or infinity, so nothing "
        "can be read off them; expected a model with finite weights."
      )
    return x_LND

  return read


def _states_of_words(
  opened: OpenedEncoder, params: Params, batch: WordBatch
) -> Float[Array, "L B W D"]:
  states = opened.hidden_states(params, batch.batch)
  return mean_tokens(
    states, batch.word_of_token, batch.segment_of_word.shape[1]
  )


def labels_of(host: WordBatch) -> dict[str, Int[np.ndarray, " N"]]:
  """Returns the targets of the words of a batch, without what is no word."""
  words = np.asarray(host.segment_of_word) > 0
  return {name: np.asarray(own)[words] for name, own in host.targets.items()}
