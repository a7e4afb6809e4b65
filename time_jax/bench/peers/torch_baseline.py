"""The same training step in PyTorch, which `bench compare` measures against.

Models are transformers' own with their default attention, the loss is
MiniLMv2's as published (arXiv 2012.15828, equations 5 to 7): every relation a
matrix in memory. The teacher runs without dropout and without a graph.
"""

import contextlib
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

Tensors = Mapping[str, torch.Tensor]
_PROJECTIONS = ("query", "key", "value")


def relation_loss(
  teacher: Tensors, student: Tensors, mask: torch.Tensor, num_heads: int
) -> torch.Tensor:
  """Q-Q, K-K and V-V relations: mean over rows of the mean KL per query.

  Args:
    teacher: [B, T, Dt] by name: query, key and value.
    student: [B, T, Ds] likewise.
    mask: [B, T], 1 for a token and 0 for padding.
    num_heads: R, a divisor of all widths.
  """
  keys = mask[:, None, None, :] > 0
  queries = mask[:, None, :].to(torch.float32)
  weight = queries / queries.sum(-1, keepdim=True).clamp(min=1) / num_heads
  total = torch.zeros((), device=mask.device)
  for name in _PROJECTIONS:
    with torch.no_grad():
      expected = _log_relation(teacher[name], keys, num_heads)
    found = _log_relation(student[name], keys, num_heads)
    kl = torch.nn.functional.kl_div(
      found, expected, reduction="none", log_target=True
    )
    total = total + (kl.sum(-1) * weight).sum() / len(mask)
  return total


def _log_relation(
  x: torch.Tensor, keys: torch.Tensor, num_heads: int
) -> torch.Tensor:
  rows, length, width = x.shape
  heads = x.view(rows, length, num_heads, width // num_heads).transpose(1, 2)
  logits = heads @ heads.transpose(-1, -2) * (width // num_heads) ** -0.5
  logits = logits.masked_fill(~keys, torch.finfo(logits.dtype).min)
  return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


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
    """Hooks into both models; they must be on their device already.

    Args:
      teacher: a transformers encoder of BERT's build.
      student: likewise; its last layer is distilled.
      layer: the teacher's distilled layer, 1-based.
      num_heads: R.
      optimizer: peak_lr, warmup_steps, num_steps, b1, b2, eps, weight_decay
        and clip_norm.
      bfloat16: whether to compute under autocast.
    """
    self._teacher, self._student = teacher.eval(), student.train()
    self._blocks, self._layer = teacher.encoder.layer, layer
    self._expected = _capture(self._blocks[layer - 1])
    self._found = _capture(student.encoder.layer[-1])
    self._num_heads = num_heads
    self._bfloat16 = bfloat16
    self._clip_norm = optimizer["clip_norm"] or math.inf  # 0: any.
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
    # Built for the rows it is given: they stay the same from step to step.
    return torch.compile(self._loss, dynamic=False)

  def _loss(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
      self._teacher(input_ids=tokens, attention_mask=mask)
    self._student(input_ids=tokens, attention_mask=mask)
    return relation_loss(self._expected, self._found, mask, self._num_heads)

  def step(
    self,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    *,
    cut: bool = False,
    compiled: bool = False,
    parts: int = 1,
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """One update.

    Args:
      tokens: [B, T].
      mask: [B, T], 1 for a token and 0 for padding.
      cut: whether the teacher ends with its distilled layer; as published it
        runs to its own end.
      compiled: whether forward pass and loss are built by torch.compile.
      parts: of the batch, one after the other, whose gradients add up.

    Returns:
      The loss and the gradient's norm before clipping.
    """
    layers = self._blocks[: self._layer] if cut else self._blocks
    self._teacher.encoder.layer = layers
    wide: Any = contextlib.nullcontext()
    if self._bfloat16:
      wide = torch.autocast(tokens.device.type, torch.bfloat16)
    loss_of = self._compiled_loss if compiled else self._loss
    total = torch.zeros((), device=tokens.device)
    for rows, real in zip(tokens.chunk(parts), mask.chunk(parts), strict=True):
      with wide:
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

  def fits(self, *batch: torch.Tensor, **how: Any) -> bool:
    """Whether the device has the memory for a step, which is done if so.

    Args:
      *batch: as for `step`.
      **how: likewise.
    """
    try:
      self.step(*batch, **how)
      wait()
      return True
    except torch.OutOfMemoryError:
      return False
    finally:  # Of a step that broke off, these hold the activations.
      self._optimizer.zero_grad(set_to_none=True)
      self._expected.clear()
      self._found.clear()


def _capture(layer: Any) -> dict[str, torch.Tensor]:
  """Where a layer's projections will lie after every forward pass."""
  kept: dict[str, torch.Tensor] = {}

  def keep(name: str) -> Any:
    def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
      del module, inputs
      kept[name] = output

    return hook

  for name in _PROJECTIONS:
    getattr(layer.attention.self, name).register_forward_hook(keep(name))
  return kept


def _decay_groups(student: Any, weight_decay: float) -> list[dict[str, Any]]:
  """As transformers' Trainer: biases and LayerNorm are not decayed."""
  named = list(student.named_parameters())
  plain = [p for n, p in named if n.endswith("bias") or "LayerNorm" in n]
  kept = {id(p) for p in plain}
  decayed = [p for _, p in named if id(p) not in kept]
  return [
    {"params": decayed, "weight_decay": weight_decay},
    {"params": plain, "weight_decay": 0.0},
  ]


def random_baseline(
  architecture: Mapping[str, Any],
  student: Mapping[str, Any],
  *,
  layer: int,
  num_heads: int,
  optimizer: Mapping[str, float],
  seed: int,
  bfloat16: bool,
) -> Baseline:
  """A baseline with random weights, on `device()`.

  Args:
    architecture: config.json of an XLM-R teacher.
    student: fields of the student's recipe.
    layer: the distilled one, 1-based.
    num_heads: R.
    optimizer: as for `Baseline`.
    seed: of weights and dropout.
    bfloat16: whether the teacher is kept and all is computed in bfloat16.
  """
  torch.manual_seed(seed)
  wide = transformers.XLMRobertaConfig(**architecture)
  thin = transformers.BertConfig(
    vocab_size=wide.vocab_size,
    num_hidden_layers=student["num_layers"],
    hidden_size=student["hidden_size"],
    intermediate_size=student["intermediate_size"],
    num_attention_heads=student["num_heads"],
    max_position_embeddings=student["max_positions"],
    hidden_dropout_prob=student["dropout"],
    attention_probs_dropout_prob=student["attention_dropout"],
    layer_norm_eps=student["layer_norm_eps"],
    pad_token_id=wide.pad_token_id,
  )
  with device():
    teacher: Any = transformers.XLMRobertaModel(wide, add_pooling_layer=False)
    small = transformers.BertModel(thin)
  return Baseline(
    teacher.to(torch.bfloat16) if bfloat16 else teacher,
    small,
    layer=layer,
    num_heads=num_heads,
    optimizer=optimizer,
    bfloat16=bfloat16,
  )


def device() -> torch.device:
  """The first GPU, set to multiply float32 as JAX does there, or the CPU."""
  torch.backends.cuda.matmul.allow_tf32 = True  # No effect on a CPU.
  return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_device(array: np.ndarray) -> torch.Tensor:
  """An integer array as PyTorch takes its tokens."""
  return torch.from_numpy(np.asarray(array, np.int64)).to(device())


def wait() -> None:
  """Returns when the device has done all that it was told."""
  if torch.cuda.is_available():
    torch.cuda.synchronize()


def empty() -> None:
  """Gives unused memory of the device back and forgets its peak."""
  if torch.cuda.is_available():
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def device_peak() -> int | None:
  """The most bytes of the device that were in use since `empty`."""
  if not torch.cuda.is_available():
    return None
  return torch.cuda.max_memory_allocated()


def describe() -> dict[str, Any]:
  """Versions, threads and the device, for a report."""
  on_gpu = torch.cuda.is_available()
  return {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "torch_threads": torch.get_num_threads(),
    "torch_device": torch.cuda.get_device_name() if on_gpu else "cpu",
    "torch_float32_products": "TF32" if on_gpu else "float32",
  }
