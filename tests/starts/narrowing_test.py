"""A narrow network is found in a wide one."""

import dataclasses

import jax
import numpy as np
import pytest
from hidden_network import (
  SMALL,
  constant_scales,
  hide,
  random_params,
  rotation,
)

from time_jax.core.arrays import make_batch
from time_jax.models import bert
from time_jax.starts import narrowing

WIDE = 32


def make_rows(seed=0, rows=40, length=12):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, SMALL.vocab_size, (rows, length))
  segment_ids = np.ones((rows, length), int)
  segment_ids[:, 7:] = 2
  segment_ids[::3, -2:] = 0
  return make_batch(tokens, segment_ids)


def states(params, shape, rows):
  encoder = bert.Encoder(shape, shape.num_layers)
  found = jax.jit(
    lambda p: encoder.apply({"params": p}, rows, method="hidden_states")
  )(params)
  return np.asarray(found)[:, np.asarray(rows.segment_ids) > 0]


@pytest.mark.parametrize(
  ("num_heads", "units"),
  [(2, 24), (2, 40), (4, 40)],
  ids=["wider heads", "more units", "more heads"],
)
def test_a_network_hidden_in_a_wide_one_is_found(num_heads, units):
  small = constant_scales(random_params(SMALL, 1), 2)
  e = rotation(WIDE, SMALL.hidden_size, 3)
  params, wide = hide(small, SMALL, e, num_heads, units)
  held_out = make_rows(1)
  y = states(params, wide, held_out)
  own = states(small, SMALL, held_out)
  np.testing.assert_allclose(y, own @ e.T, atol=1e-4)  # It is hidden there.
  fresh = random_params(SMALL, 9)
  found = narrowing.narrow(
    params, wide, fresh, SMALL, (1, 2, 3, 4), make_rows(0)
  )
  s = states(found.params, SMALL, held_out)
  np.testing.assert_allclose(s @ found.basis.T, y, atol=1e-4)
  assert found.share > 1 - 1e-6
  assert found.heads == [list(range(num_heads - 2, num_heads))] * 4
  assert found.units == [list(range(units - 24, units))] * 4


def test_a_wider_head_computes_the_same_and_can_learn():
  more_heads = dataclasses.replace(SMALL, num_heads=4)
  params = random_params(more_heads, 1)
  for block in (params["layers"], params["last"]):
    kernel = block["attention_out"]["kernel"]
    kernel[..., :4, :] = kernel[..., 8:12, :] = 0  # Heads that do nothing.
  found = narrowing.narrow(
    params,
    more_heads,
    random_params(SMALL, 9),
    SMALL,
    (1, 2, 3, 4),
    make_rows(),
  )
  assert found.heads == [[1, 3]] * 4
  held_out = make_rows(1)
  np.testing.assert_allclose(
    states(found.params, SMALL, held_out),
    states(params, more_heads, held_out),
    atol=1e-4,
  )
  # Of each product in which a head's other half is, one factor is not zero.
  last = {
    name: found.params["last"][name]["kernel"].any(0)
    for name in ("query", "key", "value")
  }
  assert last["query"].all() and last["value"].all()
  np.testing.assert_array_equal(last["key"], np.arange(16) % 8 < 4)


def test_without_a_fit_layers_are_projected_and_chosen_only():
  shape = dataclasses.replace(SMALL, hidden_size=WIDE, intermediate_size=48)
  params, fresh = random_params(shape, 4), random_params(SMALL, 9)
  found = narrowing.narrow(
    params, shape, fresh, SMALL, (1, 1, 3, 4), make_rows(), strength=1e12
  )
  e = found.basis
  wanted = {
    "ffn_out": params["last"]["ffn_out"]["kernel"][found.units[-1]] @ e,
    "ffn_in": e.T @ params["last"]["ffn_in"]["kernel"][:, found.units[-1]],
  }
  for name, kernel in wanted.items():
    own = found.params["last"][name]["kernel"]
    np.testing.assert_allclose(own, kernel, atol=1e-5)
  fitted = narrowing.narrow(
    params, shape, fresh, SMALL, (1, 1, 3, 4), make_rows()
  )
  own = fitted.params["last"]["ffn_out"]["kernel"]
  assert np.abs(own - wanted["ffn_out"]).max() > 0.01


def test_a_fit_makes_up_for_what_a_projection_loses():
  """On other text, with a bit of everything that is not in the basis."""
  small = constant_scales(random_params(SMALL, 1), 2)
  e = rotation(WIDE, SMALL.hidden_size, 3)
  params, wide = hide(small, SMALL, e, num_heads=4, units=40)
  rng = np.random.default_rng(6)
  params = jax.tree.map(
    lambda x: x + rng.normal(0, 0.05 * x.std(), x.shape).astype(np.float32),
    params,
  )
  layers, held_out = (1, 3), make_rows(1)
  shape = dataclasses.replace(SMALL, num_layers=2)
  missed = {}
  for name, kind, strength in (
    ("fitted", "components", 1e-2),
    ("projected", "components", 1e12),
    ("selected", "selection", 1e12),
  ):
    found = narrowing.narrow(
      params,
      wide,
      random_params(shape, 9),
      shape,
      layers,
      make_rows(0, 200),
      kind,
      strength,
    )
    s = states(found.params, shape, held_out)[-1] @ found.basis.T
    y = states(params, wide, held_out)[3]
    missed[name] = np.square(s - y).sum() / np.square(y - y.mean(0)).sum()
  assert missed["fitted"] < 0.7 * missed["projected"]
  assert missed["projected"] < missed["selected"]
