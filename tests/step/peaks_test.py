"""The table of peak speeds."""

from time_jax.step import peaks


def test_peaks_are_dense_and_have_a_source():
  for name, peak in peaks.PEAKS.items():
    assert peak.source.startswith("https://"), name
    assert peak.float32 is None or peak.float32 <= peak.bfloat16, name
  # Sparse figures, which are twice as high, are what datasheets lead with.
  assert peaks.PEAKS["NVIDIA H200"].bfloat16 == 989
  assert peaks.PEAKS["TPU v5 lite"].bfloat16 == 197
