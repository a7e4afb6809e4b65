"""Variants of DeBERTa that the golden vectors leave out, against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from time_jax.core.arrays import make_batch
from time_jax.hf import load

SIZES = dict(
  vocab_size=60,
  hidden_size=24,
  num_hidden_layers=2,
  num_attention_heads=3,
  intermediate_size=32,
  max_position_embeddings=40,
  relative_attention=True,
  position_buckets=8,
  position_biased_input=False,
  type_vocab_size=0,
  norm_rel_ebd="layer_norm",
  share_att_key=True,
  pos_att_type=["p2c", "c2p"],
)


@pytest.mark.parametrize(
  "change",
  [
    {"share_att_key": False},
    {"share_att_key": False, "pos_att_type": ["c2p"]},
    {"share_att_key": False, "pos_att_type": ["p2c"]},
    {"pos_att_type": "c2p"},
    {"norm_rel_ebd": "none"},
    {"conv_kernel_size": 5, "conv_act": "tanh"},
    {"max_relative_positions": 20},
  ],
  ids=str,
)
def test_hidden_states(tmp_path, mesh, change):
  torch.manual_seed(0)
  config = transformers.DebertaV2Config(**SIZES | change)
  model = transformers.DebertaV2Model(config).eval()
  for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.2)
  model.save_pretrained(tmp_path)
  tokens = np.random.default_rng(0).integers(60, size=(2, 30))
  mask = (np.arange(30) < np.array([[30], [11]])).astype(np.int64)
  with torch.no_grad():
    expected = model(
      input_ids=torch.tensor(tokens),
      attention_mask=torch.tensor(mask),
      output_hidden_states=True,
    ).hidden_states
  encoder, params = load.load_encoder(
    tmp_path, dtype=jnp.dtype("float32"), mesh=mesh
  )
  batch = make_batch(tokens, mask)
  states = jax.jit(
    lambda params: encoder.apply(
      {"params": params}, batch, method="hidden_states"
    )
  )(params)
  for ours, theirs in zip(states, expected, strict=True):
    np.testing.assert_allclose(
      ours[mask > 0], theirs.numpy()[mask > 0], atol=1e-4, rtol=0
    )
