"""What a narrow network takes of a wide one, by formulas and part by part."""

import dataclasses

import jax
import numpy as np
import pytest
from hidden_network import SMALL, random_params

from time_jax.core.arrays import make_batch
from time_jax.models import bert, stepwise
from time_jax.starts import basis, heads, narrowing
from time_jax.starts.calibration import Calibration, normalize

LAYERS = (3, 1)  # not in their order
WIDE = dataclasses.replace(
  SMALL,
  hidden_size=32,
  intermediate_size=48,
  num_heads=4,
  num_token_types=1,
  position_offset=2,
)
NARROW = dataclasses.replace(SMALL, num_layers=2, max_positions=9)


def make_rows(seed=0):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, SMALL.vocab_size, (40, 9))
  segment_ids = np.ones((40, 9), int)
  segment_ids[:, 5:] = 2
  segment_ids[::3, -2:] = 0
  return make_batch(tokens, segment_ids)


ROWS = make_rows()
TEXT = Calibration(ROWS)


def states(params, shape, rows=ROWS):
  """All hidden states [L, B, T, D]."""
  encoder = bert.Encoder(shape, shape.num_layers)
  return np.asarray(
    jax.jit(
      lambda p: encoder.apply({"params": p}, rows, method="hidden_states")
    )(params)
  )


def blocks_of(params):
  whole = stepwise.unstack(params)
  return [*whole["layers"], whole["last"]]


def parts_of(params, shape):
  """What every block computes."""
  pairs = zip(blocks_of(params), states(params, shape), strict=False)
  return [TEXT.parts(bert.Block(shape), own, x) for own, x in pairs]


@pytest.fixture(scope="module")
def wide():
  params = random_params(WIDE, 4)
  for layers in (params["layers"], params["last"]):
    # A unit that is large, and always the same, moves nothing.
    layers["ffn_in"]["kernel"][..., 7] *= 1e-3
    layers["ffn_in"]["bias"][..., 7] = 9
    # Of two of about the same sum, one large weight is more than many small.
    layers["ffn_out"]["kernel"][..., 8:12, :] = 0
    layers["ffn_out"]["kernel"][..., 8:12, 0] = 4
    layers["ffn_out"]["kernel"][..., 12:16, :] = 0.2
  return params


@pytest.fixture(scope="module")
def fresh():
  return random_params(NARROW, 9)


@pytest.fixture(scope="module")
def found(wide, fresh):
  return narrowing.narrow(wide, WIDE, fresh, NARROW, LAYERS, ROWS)


def unit_moment(x):
  x = TEXT.tokens(x)
  return x.T @ x / np.square(x).sum()


def test_the_basis_is_of_all_states_each_as_large_as_the_others(wide, found):
  parts, tables = parts_of(wide, WIDE), wide["embeddings"]
  summed = (
    tables["word"]["embedding"][ROWS.tokens]
    + tables["position"]["embedding"][ROWS.positions + 2]
    + tables["token_type"]["embedding"][0]
  )
  used = [summed, states(wide, WIDE)[0]]
  for layer in LAYERS:
    own = parts[layer - 1]
    used += [own.attended, own.normed, own.fed, own.output]
  moments = [*map(unit_moment, used)]
  e = basis.components(sum(moments), 16)
  np.testing.assert_allclose(found.basis @ found.basis.T, e @ e.T, atol=1e-4)
  share = np.mean([np.trace(e.T @ moment @ e) for moment in moments])
  assert found.share == pytest.approx(share, rel=1e-5)


def test_heads_and_units_are_those_that_move_most(wide, found):
  parts, blocks = parts_of(wide, WIDE), blocks_of(wide)
  for place, layer in enumerate(LAYERS):
    own, params = parts[layer - 1], blocks[layer - 1]
    hidden = TEXT.tokens(own.hidden)
    kernel = params["ffn_out"]["kernel"]
    # What a unit adds to each of the states, about its mean.
    added = [np.outer(hidden[:, i], kernel[i]).var(0).sum() for i in range(48)]
    assert found.units[place] == sorted(np.argsort(added)[-24:].tolist())
    assert 7 not in found.units[place]
    mixed = TEXT.tokens(own.mixed).reshape(-1, 4, 8)
    energies = heads.energies(mixed, params["attention_out"]["kernel"])
    assert found.heads[place] == sorted(np.argsort(energies)[-2:].tolist())


def test_embeddings_are_projected_and_what_is_missing_is_fresh(
  wide, fresh, found
):
  before, after = wide["embeddings"], found.params["embeddings"]
  for name, rows in (("word", slice(None)), ("position", slice(2, 11))):
    np.testing.assert_allclose(
      after[name]["embedding"],
      before[name]["embedding"][rows] @ found.basis,
      atol=1e-5,
    )
  types = after["token_type"]["embedding"]
  np.testing.assert_allclose(
    types[:1], before["token_type"]["embedding"] @ found.basis, atol=1e-5
  )
  own = fresh["embeddings"]["token_type"]["embedding"]
  np.testing.assert_array_equal(types[1:], own[1:])


def test_what_is_unexplained_is_of_the_variance(wide, found):
  s, y = states(found.params, NARROW), states(wide, WIDE) @ found.basis
  for own, layer, said in zip(s, (0, *LAYERS), found.unexplained, strict=True):
    own, wanted = TEXT.tokens(own), TEXT.tokens(y[layer])
    variance = np.square(wanted - wanted.mean(0)).sum()
    missed = np.square(own - wanted).sum() / variance
    assert said == pytest.approx(missed, rel=1e-3)
    assert abs(variance / np.square(wanted).sum() - 1) > 0.05


def slope(x, y, kernel, bias, prior):
  """Returns how far from the least of `least_squares.solve` a layer is."""
  x, y = TEXT.tokens(x), TEXT.tokens(y)
  missed = x @ kernel + bias - y
  centred = x - x.mean(0)
  strength = narrowing.STRENGTH * np.square(centred).sum() / x.shape[1]
  down = centred.T @ missed + strength * (kernel - prior)
  size = np.abs(centred.T @ (y - y.mean(0))).max()
  return max(np.abs(down).max() / size, np.abs(missed.mean(0)).max())


def test_every_layer_is_fitted_on_the_states_of_the_narrow_network(wide, found):
  given, own = parts_of(wide, WIDE), parts_of(found.params, NARROW)
  inputs, e = states(found.params, NARROW), found.basis
  for place, layer in enumerate(LAYERS):
    whole, narrow = given[layer - 1], own[place]
    params, block = blocks_of(wide)[layer - 1], blocks_of(found.params)[place]
    cut = [
      TEXT.tokens(x).reshape(-1, 4, 8)
      for x in (whole.qkv.query, whole.qkv.key, whole.qkv.value)
    ]
    maps = heads.narrow(*cut, found.heads[place], 8)
    units, s = found.units[place], inputs[place]
    by_head = {"query": maps.query, "key": maps.query, "value": maps.value}
    expected = {}
    for name, to in by_head.items():
      prior = e.T @ params[name]["kernel"] @ to
      expected[name] = s, getattr(whole.qkv, name) @ to, prior
    expected["attention_out"] = (
      narrow.mixed,
      whole.attended @ e - s,
      maps.out @ params["attention_out"]["kernel"] @ e,
    )
    expected["ffn_in"] = (
      narrow.normed,
      whole.inner[..., units],
      e.T @ params["ffn_in"]["kernel"][:, units],
    )
    expected["ffn_out"] = (
      narrow.hidden,
      whole.fed @ e - narrow.normed,
      params["ffn_out"]["kernel"][units] @ e,
    )
    for name, (x, y, prior) in expected.items():
      # The input of a later block is known to fewer digits.
      limit = (1e-4, 3e-3)[place]
      kernel, bias = block[name]["kernel"], block[name]["bias"]
      assert slope(x, y, kernel, bias, prior) < limit, name
      if not place:
        assert slope(x, y, kernel, bias, 0 * prior) > 2 * limit, name


def test_padding_says_nothing(wide, fresh, found):
  tokens = np.where(ROWS.segment_ids > 0, ROWS.tokens, 7)
  rows = dataclasses.replace(ROWS, tokens=tokens)
  assert not np.array_equal(tokens, ROWS.tokens)
  other = narrowing.narrow(wide, WIDE, fresh, NARROW, LAYERS, rows)
  np.testing.assert_array_equal(other.basis, found.basis)
  jax.tree.map(np.testing.assert_array_equal, other.params, found.params)


def test_embeddings_are_those_of_the_encoder():
  shape = dataclasses.replace(WIDE, num_token_types=2)
  params = random_params(shape, 3)
  types = np.arange(40 * 9).reshape(40, 9) % 3 % 2
  rows = dataclasses.replace(ROWS, token_types=types.astype(np.int32))
  wanted = states(params, shape, rows)[0]
  tables = params["embeddings"]
  summed = Calibration(rows).embed(tables, shape.position_offset)
  found = normalize(summed, shape.layer_norm_eps) * tables["norm"]["scale"]
  np.testing.assert_allclose(found + tables["norm"]["bias"], wanted, atol=1e-5)


def test_an_epsilon_is_added_to_the_variance():
  x = np.array([[[1.0, 3.0], [5e-3, 7e-3]]])
  (found,) = normalize(x, 1e-6)
  np.testing.assert_allclose(found[0], [-1, 1], atol=1e-5)
  np.testing.assert_allclose(found[1], [-(0.5**0.5), 0.5**0.5], rtol=1e-5)
