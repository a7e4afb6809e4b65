"""AdamW and its schedule against PyTorch's and transformers'."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers

from time_jax.models import bert
from time_jax.step import optimizer

FLOAT32 = jnp.dtype("float32")
ADAMW = dict(b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.1, clip_norm=1.0)
SHAPES = {
  "embeddings": {
    "word": {"embedding": (7, 4)},
    "norm": {"scale": (4,), "bias": (4,)},
  },
  "layers": {
    "query": {"kernel": (2, 4, 4), "bias": (2, 4)},
    "ffn_norm": {"scale": (2, 4), "bias": (2, 4)},
  },
  "last": {
    "value": {"kernel": (4, 4), "bias": (4,)},
    "ffn_in": {"kernel": (4, 8), "bias": (8,)},
    "ffn_norm": {"scale": (4,), "bias": (4,)},
  },
  "pooler": {"kernel": (4, 4), "bias": (4,)},
}
DECAYED = {
  ("embeddings", "word", "embedding"),
  ("layers", "query", "kernel"),
  ("last", "value", "kernel"),
}
TRAINED = DECAYED | {
  ("embeddings", "norm", "scale"),
  ("embeddings", "norm", "bias"),
  ("layers", "query", "bias"),
  ("layers", "ffn_norm", "scale"),
  ("layers", "ffn_norm", "bias"),
  ("last", "value", "bias"),
}


def flat(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {tuple(key.key for key in path): leaf for path, leaf in leaves}


def random_tree(seed, scale=1.0):
  random = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: jnp.asarray(scale * random.normal(size=shape), FLOAT32),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
  )


@pytest.mark.parametrize(
  ("warmup", "steps"), [(7, 40), (0, 10), (1, 5), (10, 10), (10, 6)]
)
def test_the_schedule_is_that_of_transformers(warmup, steps):
  peak = 3e-4
  adamw = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=peak)
  scheduler = transformers.get_linear_schedule_with_warmup(adamw, warmup, steps)
  expected = []
  for _ in range(steps):
    expected.append(scheduler.get_last_lr()[0])
    adamw.step()
    scheduler.step()
  schedule = jax.jit(
    lambda step: optimizer.warmup_linear_decay(
      step, peak_lr=peak, warmup_steps=warmup, num_steps=steps
    )
  )
  found = [schedule(jnp.asarray(i, jnp.int32)) for i in range(steps)]
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)
  assert (float(found[0]) == 0) == (warmup > 0)
  assert max(found) <= np.float32(peak)


def test_the_rate_ends_at_nothing():
  for step in (20, 21, 1000):
    rate = optimizer.warmup_linear_decay(
      jnp.asarray(step, jnp.int32), peak_lr=1.0, warmup_steps=5, num_steps=20
    )
    assert float(rate) == 0


def torch_run(params, grads, rates):
  """PyTorch's AdamW on the trained parameters; its final values."""
  tensors = {
    path: torch.nn.Parameter(torch.tensor(np.asarray(leaf)))
    for path, leaf in flat(params).items()
    if path in TRAINED
  }
  adamw = torch.optim.AdamW(
    [
      {
        "params": [t for path, t in tensors.items() if path in DECAYED],
        "weight_decay": ADAMW["weight_decay"],
      },
      {
        "params": [t for path, t in tensors.items() if path not in DECAYED],
        "weight_decay": 0.0,
      },
    ],
    betas=(ADAMW["b1"], ADAMW["b2"]),
    eps=ADAMW["eps"],
  )
  for grad, rate in zip(grads, rates, strict=True):
    for path, leaf in flat(grad).items():
      if path in tensors:
        tensors[path].grad = torch.tensor(np.asarray(leaf))
    torch.nn.utils.clip_grad_norm_(tensors.values(), ADAMW["clip_norm"])
    for group in adamw.param_groups:
      group["lr"] = rate
    adamw.step()
  return {path: t.detach().numpy() for path, t in tensors.items()}


def our_run(params, grads, rates):
  tx = optimizer.make_optimizer(bert.FAMILY.feeds_projections, **ADAMW)

  @jax.jit
  def update(params, state, grad, rate):
    direction, state = tx.update(grad, state, params)
    return jax.tree.map(lambda p, d: p - rate * d, params, direction), state

  state = tx.init(params)
  for grad, rate in zip(grads, rates, strict=True):
    params, state = update(params, state, grad, rate)
  return params, state


def test_updates_are_those_of_pytorch():
  # Gradients above the clipping norm and below it; the frozen ones are huge,
  # and must not count in the norm.
  params = random_tree(0)
  grads = [random_tree(i, scale) for i, scale in enumerate((3, 0.01, 1, 0.1))]
  for grad in grads:
    grad["pooler"] = jax.tree.map(lambda x: 100 * x, grad["pooler"])
  rates = [0.0, 1e-2, 3e-2, 2e-2]
  found = flat(our_run(params, grads, rates)[0])
  expected = torch_run(params, grads, rates)
  assert set(expected) == TRAINED
  for path, leaf in found.items():
    if path in TRAINED:
      np.testing.assert_allclose(
        leaf, expected[path], rtol=0, atol=2e-6, err_msg=str(path)
      )
      assert not np.array_equal(leaf, flat(params)[path])
    else:
      np.testing.assert_array_equal(leaf, flat(params)[path], str(path))


def test_only_kernels_and_embeddings_decay():
  tx = optimizer.make_optimizer(bert.FAMILY.feeds_projections, **ADAMW)
  params = random_tree(1)
  zeros = jax.tree.map(jnp.zeros_like, params)
  direction, _ = jax.jit(tx.update)(zeros, tx.init(params), params)
  for path, leaf in flat(direction).items():
    expected = 0.1 * flat(params)[path] if path in DECAYED else 0
    np.testing.assert_allclose(leaf, expected, rtol=1e-6, err_msg=str(path))


def test_frozen_parameters_have_no_moments():
  tx = optimizer.make_optimizer(bert.FAMILY.feeds_projections, **ADAMW)
  params = random_tree(2)
  trained = sum(flat(params)[path].size for path in TRAINED)
  state = tx.init(params)
  moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
  assert moments == 2 * trained < 2 * sum(x.size for x in flat(params).values())


def test_no_clipping_leaves_gradients_as_they_are():
  """And the state has the form that it has with clipping."""
  clipped, free = (
    optimizer.make_optimizer(lambda path: True, **ADAMW | {"clip_norm": norm})
    for norm in (1e9, 0.0)
  )
  params = {"kernel": jnp.asarray([[2.0, -1.0]])}
  grad = {"kernel": jnp.asarray([[30.0, 40.0]])}
  found, expected = (
    tx.update(grad, tx.init(params), params) for tx in (free, clipped)
  )
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_one_update_by_hand():
  """The clipped gradient g = 0.6, 0.8 gives g / (|g| + eps) at first."""
  tx = optimizer.make_optimizer(lambda path: True, **ADAMW)
  params = {"kernel": jnp.asarray([[2.0, -1.0]])}
  grad = {"kernel": jnp.asarray([[30.0, 40.0]])}
  direction, _ = tx.update(grad, tx.init(params), params)
  np.testing.assert_allclose(
    direction["kernel"], [[1 + 0.2, 1 - 0.1]], rtol=1e-5
  )
  assert isinstance(tx, optax.GradientTransformation)
