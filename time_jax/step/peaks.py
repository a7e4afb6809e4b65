"""The peak speed of devices."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Peak:
  """The highest speed of a device, without structured sparsity.

  Attributes:
    bfloat16: TFLOP/s of products of bfloat16 matrices.
    float32: TFLOP/s of products of float32 matrices as JAX computes them by
      default, in bfloat16 on TPU and TF32 on recent GPUs
      (https://docs.jax.dev/en/latest/201/precision.html); None where sources
      disagree.
    source: where the numbers are published.
  """

  bfloat16: float
  float32: float | None
  source: str


_TPU = "https://cloud.google.com/tpu/docs/"
_GPU = (
  "https://github.com/stas00/ml-engineering/blob/master/compute/accelerator"
)
_V5E = Peak(197, 197, _TPU + "v5e")
_V5P = Peak(459, 459, _TPU + "v5p")
_V6E = Peak(918, 918, _TPU + "v6e")
_A100 = Peak(312, 156, _GPU)
# By the device_kind that JAX reports, whole: an H200 NVL is no H200.
PEAKS = {
  "TPU v4": Peak(275, 275, _TPU + "v4"),
  "TPU v5 lite": _V5E,
  "TPU v5e": _V5E,
  "TPU v5": _V5P,
  "TPU v5p": _V5P,
  "TPU v6 lite": _V6E,
  "TPU v6e": _V6E,
  "NVIDIA A100-SXM4-40GB": _A100,
  "NVIDIA A100-SXM4-80GB": _A100,
  "NVIDIA H100 PCIe": Peak(756, 378, _GPU),
  "NVIDIA H100 80GB HBM3": Peak(989, 494.5, _GPU),
  "NVIDIA H200": Peak(989, 494.5, _GPU),
  "NVIDIA B200": Peak(
    2250, None, "https://glennklockwood.com/garden/processors/B200"
  ),
}
