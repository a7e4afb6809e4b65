"""The training step in PyTorch that `bench compare` measures against.

The models are transformers' own with their default attention. The teacher runs
without dropout and without a graph.
"""

import contextlib
import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from ml_collections import ConfigDict

from time_jax.bench.peers import torch_device
from time_jax.bench.peers.torch_relations import relation_kl

Projections = Mapping[str, torch.Tensor]
_PROJECTIONS = ("query", "key", "value")


def relation_loss(
  teacher: Projections, student: Projections, mask: torch.Tensor, num_heads: int
) -> torch.Tensor:
  """Computes the loss of the Q-Q, K-K and V-V relations, a mean over rows.

  Args:
    teacher: "query", "key" and "value", each [B, T, Dt].
    student: likewise, each [B, T, Ds].
    mask: 1 for a token and 0 for padding, [B, T].
    num_heads: number of relation heads R, a divisor of all widths.
  """
  losses = [
    relation_kl(teacher[name], student[name], mask, num_heads)
    for name in _PROJECTIONS
  ]
  return torch.stack(losses).sum() / len(mask)


class Baseline:
  """Teacher, student, loss and optimizer; `step` is one update."""

  def __init__(
    self,
    teacher: Any,
    student: Any,
    *,
    layer: int,
    num_heads: int,
    optimizer: Mapping[str, float],
    bfloat16: bool = False,
  ) -> None:
    """Hooks into both models, which must be on their device already.

    Args:
      teacher: transformers encoder built like BERT.
      student: likewise; its last layer is distilled.
      layer: distilled layer of the teacher, 1-based.
      num_heads: number of relation heads R.
      optimizer: peak_lr, warmup_steps, num_steps, b1, b2, eps, weight_decay
        and clip_norm, as in a recipe.
      bfloat16: whether to compute under autocast.
    """
    self._teacher, self._student = teacher.eval(), student.train()
    self._blocks, self._layer = teacher.encoder.layer, layer
    self._expected = _capture(self._blocks[layer - 1])
    self._captured = _capture(student.encoder.layer[-1])
    self._num_heads = num_heads
    self._bfloat16 = bfloat16
    self._clip_norm = optimizer["clip_norm"] or math.inf  # 0: no clipping.
    self._optimizer = torch.optim.AdamW(
      _decay_groups(student, optimizer["weight_decay"]),
      lr=optimizer["peak_lr"],
      betas=(optimizer["b1"], optimizer["b2"]),
      eps=optimizer["eps"],
      fused=True,
    )
    self._schedule = transformers.get_linear_schedule_with_warmup(
      self._optimizer,
      int(optimizer["warmup_steps"]),
      int(optimizer["num_steps"]),
    )

  @functools.cached_property
  def _compiled_loss(self) -> Any:
    # For fixed shapes: they stay the same from step to step.
    return torch.compile(self._loss, dynamic=False)

  def _loss(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
      self._teacher(input_ids=tokens, attention_mask=mask)
    self._student(input_ids=tokens, attention_mask=mask)
    return relation_loss(self._expected, self._captured, mask, self._num_heads)

  def step(
    self,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    *,
    cut: bool = False,
    compiled: bool = False,
    parts: int = 1,
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """Performs one update.

    Args:
      tokens: token ids, [B, T].
      mask: 1 for a token and 0 for padding, [B, T].
      cut: whether the teacher ends with its distilled layer; as published it
        runs to its last one.
      compiled: whether forward pass and loss are built by torch.compile.
      parts: number of micro-batches, whose gradients are accumulated.

    Returns:
      The loss, and the norm of the gradient before clipping.
    """
    layers = self._blocks[: self._layer] if cut else self._blocks
    self._teacher.encoder.layer = layers
    autocast: Any = contextlib.nullcontext()
    if self._bfloat16:
      autocast = torch.autocast(tokens.device.type, torch.bfloat16)
    loss_of = self._compiled_loss if compiled else self._loss
    total = torch.zeros((), device=tokens.device)
    for rows, real in zip(tokens.chunk(parts), mask.chunk(parts), strict=True):
      with autocast:
        loss = loss_of(rows, real) * (len(rows) / len(tokens))
      loss.backward()
      total += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(
      self._student.parameters(), self._clip_norm
    )
    self._optimizer.step()
    self._schedule.step()
    self._optimizer.zero_grad(set_to_none=True)
    return total, norm

  def fits(self, *batch: torch.Tensor, **options: Any) -> bool:
    """Performs a step and returns whether the device has the memory for it.

    Args:
      *batch: `tokens` and `mask` of `step`.
      **options: keyword arguments of `step`.
    """
    try:
      self.step(*batch, **options)
      torch_device.wait()
      return True
    except torch.OutOfMemoryError:
      return False
    finally:  # After a step that broke off, these hold its activations.
      self._optimizer.zero_grad(set_to_none=True)
      self._expected.clear()
      self._captured.clear()


def _capture(layer: Any) -> dict[str, torch.Tensor]:
  """Returns a dict that every forward pass fills with a layer's projections."""
  captured: dict[str, torch.Tensor] = {}

  def hook(name: str) -> Any:
    def capture(module: Any, inputs: Any, output: torch.Tensor) -> None:
      del module, inputs
      captured[name] = output

    return capture

  for name in _PROJECTIONS:
    getattr(layer.attention.self, name).register_forward_hook(hook(name))
  return captured


def _decay_groups(student: Any, weight_decay: float) -> list[dict[str, Any]]:
  """Splits parameters as transformers' Trainer: no decay of bias, LayerNorm."""
  groups: dict[float, list[Any]] = {weight_decay: [], 0.0: []}
  for name, parameter in student.named_parameters():
    plain = name.endswith("bias") or "LayerNorm" in name
    groups[0.0 if plain else weight_decay].append(parameter)
  return [{"params": p, "weight_decay": decay} for decay, p in groups.items()]


def random_baseline(config: ConfigDict) -> Baseline:
  """Builds a baseline with random weights, on `torch_device.device()`.

  Args:
    config: recipe whose teacher has the architecture of an XLM-R.
  """
  student = config.student
  bfloat16 = config.train.dtype == "bfloat16"
  torch.manual_seed(config.seed)
  teacher_config = transformers.XLMRobertaConfig(
    **config.teacher.architecture.to_dict()
  )
  student_config = transformers.BertConfig(
    vocab_size=teacher_config.vocab_size,
    num_hidden_layers=student.num_layers,
    hidden_size=student.hidden_size,
    intermediate_size=student.intermediate_size,
    num_attention_heads=student.num_heads,
    max_position_embeddings=student.max_positions,
    hidden_dropout_prob=student.dropout,
    attention_probs_dropout_prob=student.attention_dropout,
    layer_norm_eps=student.layer_norm_eps,
    pad_token_id=teacher_config.pad_token_id,
  )
  with torch_device.device():
    teacher: Any = transformers.XLMRobertaModel(
      teacher_config, add_pooling_layer=False
    )
    small = transformers.BertModel(student_config)
  return Baseline(
    teacher.to(torch.bfloat16) if bfloat16 else teacher,
    small,
    layer=config.teacher.layer,
    num_heads=config.relations.num_heads,
    optimizer=config.train.to_dict(),
    bfloat16=bfloat16,
  )
