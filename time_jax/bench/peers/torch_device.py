"""The device that PyTorch computes on."""

from typing import Any

import numpy as np
import torch
import transformers


def device() -> torch.device:
  """Returns the first GPU, or the CPU.

  A GPU is set to multiply float32 matrices in TF32, as JAX does by default.
  """
  torch.backends.cuda.matmul.allow_tf32 = True  # No effect on a CPU.
  return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_torch(array: np.ndarray) -> torch.Tensor:
  """Returns a tensor on the device; integers become int64, as torch's tokens.

  Args:
    array: integers, float32 or bfloat16.
  """
  if array.dtype.name == "bfloat16":
    exact = torch.from_numpy(array.astype(np.float32))
    return exact.to(device(), torch.bfloat16)
  if array.dtype.kind == "i":
    array = array.astype(np.int64)
  return torch.from_numpy(np.array(array)).to(device())


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
  """Returns the values in float32, on the host."""
  return tensor.float().cpu().numpy()


def wait() -> None:
  """Returns when the device has done all that it was told to."""
  if torch.cuda.is_available():
    torch.cuda.synchronize()


def free_memory() -> None:
  """Returns unused memory to the device and forgets its peak."""
  if torch.cuda.is_available():
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int | None:
  """Returns the peak bytes since `free_memory`; None on a CPU."""
  if not torch.cuda.is_available():
    return None
  return torch.cuda.max_memory_allocated()


def describe() -> dict[str, Any]:
  """Returns versions, threads and the device, for a result."""
  on_gpu = torch.cuda.is_available()
  return {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "torch_threads": torch.get_num_threads(),
    "torch_device": torch.cuda.get_device_name() if on_gpu else "cpu",
    "torch_float32_products": "TF32" if on_gpu else "float32",
  }
