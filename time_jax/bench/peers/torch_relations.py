"""MiniLMv2's relation loss in PyTorch, in the form in which it is published.

arXiv 2012.15828, equations 5 to 7: logits, relations and divergences of every
relation head are matrices in memory, and autograd keeps what it needs of them.
"""

import torch

from time_jax.bench.peers import torch_device


def relation_kl(
  teacher: torch.Tensor,
  student: torch.Tensor,
  mask: torch.Tensor,
  num_heads: int,
) -> torch.Tensor:
  """Computes the KL divergence of a projection's relation with itself.

  Args:
    teacher: projection of the teacher, [B, T, Dt].
    student: the same projection of the student, [B, T, Ds].
    mask: 1 for a token and 0 for padding, [B, T].
    num_heads: number of relation heads R, a divisor of both widths.

  Returns:
    A scalar: the sum over rows of the mean over heads and real queries.
  """
  keys = mask[:, None, None, :] > 0
  queries = mask[:, None, :].to(torch.float32)
  weight = queries / queries.sum(-1, keepdim=True).clamp(min=1) / num_heads
  with torch.no_grad():
    expected = _log_relation(teacher, keys, num_heads)
  kl = torch.nn.functional.kl_div(
    _log_relation(student, keys, num_heads),
    expected,
    reduction="none",
    log_target=True,
  )
  return (kl.sum(-1) * weight).sum()


def _log_relation(
  x: torch.Tensor, keys: torch.Tensor, num_heads: int
) -> torch.Tensor:
  heads = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
  logits = heads @ heads.transpose(-1, -2) * heads.shape[-1] ** -0.5
  logits = logits.masked_fill(~keys, torch.finfo(logits.dtype).min)
  return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


def value_and_grad(
  teacher: torch.Tensor,
  student: torch.Tensor,
  mask: torch.Tensor,
  num_heads: int,
) -> tuple[torch.Tensor, torch.Tensor]:
  """Returns `relation_kl` and the student's gradient, and waits for both."""
  student = student.detach().requires_grad_()
  value = relation_kl(teacher, student, mask, num_heads)
  value.backward()
  assert student.grad is not None
  torch_device.wait()
  return value.detach(), student.grad
