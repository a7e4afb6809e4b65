"""A relation loss in PyTorch as it is published, to measure against.

MiniLMv2 (arXiv 2012.15828, equations 5 to 7) word by word, as its public
implementations have it: logits, probabilities and divergences of every
relation head are matrices in memory, and autograd keeps what it needs of them.
"""

import numpy as np
import torch

from time_jax.bench.peers import torch_baseline


def relation_kl(
  teacher: torch.Tensor,
  student: torch.Tensor,
  mask: torch.Tensor,
  num_heads: int,
) -> tuple[torch.Tensor, torch.Tensor]:
  """Relation of a projection with itself: its KL and the student's gradient.

  Args:
    teacher: [B, T, Dt].
    student: [B, T, Ds].
    mask: [B, T], True for tokens.
    num_heads: R.

  Returns:
    The sum over rows of the mean KL of a head and token, and [B, T, Ds].
  """
  student = student.detach().requires_grad_()
  seen = (mask[:, None, :, None] & mask[:, None, None, :]).expand(
    -1, num_heads, -1, -1
  )
  with torch.no_grad():
    expected = torch.softmax(_logits(teacher, seen, num_heads), dim=-1)
  found = torch.log_softmax(_logits(student, seen, num_heads), dim=-1)
  divergence = torch.nn.functional.kl_div(found, expected, reduction="none")
  per_row = (divergence * seen).sum((1, 2, 3)) / (num_heads * mask.sum(1))
  total = per_row.sum()
  total.backward()
  assert student.grad is not None
  torch_baseline.wait()
  return total.detach(), student.grad


def _logits(
  x: torch.Tensor, seen: torch.Tensor, num_heads: int
) -> torch.Tensor:
  heads = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
  logits = heads @ heads.transpose(-1, -2) / heads.shape[-1] ** 0.5
  return logits.float().masked_fill(~seen, torch.finfo(torch.float32).min)


def to_torch(x: np.ndarray) -> torch.Tensor:
  """An array, bfloat16 ones included, on the GPU if there is one."""
  kind = torch.bfloat16 if x.dtype.name == "bfloat16" else None
  wide = x.astype(np.float32) if kind else np.array(x)
  return torch.from_numpy(wide).to(torch_baseline.device(), kind)


def to_numpy(x: torch.Tensor) -> np.ndarray:
  """Its values in float32, on the host."""
  return x.float().cpu().numpy()
