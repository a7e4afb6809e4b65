"""ONNX files compute what JAX computes."""

import re

import numpy as np
import pytest
from exporting import command

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from time_jax.core.display import byte_size
from time_jax.core.errors import RunError
from time_jax.hf import onnx_graph, torch_encoder
from time_jax.release import checks, onnx_files
from time_jax.release.model_folder import ModelFolder


def test_onnx(capsys, imported, tmp_path):
  folder = tmp_path / "export"
  flags = "--class=XLMRobertaModel", "--onnx", f"--out={folder}"
  output = command(capsys, "export", f"--workdir={imported}", *flags)
  (found,) = re.findall(r"onnxruntime equals JAX within (\S+);", output)
  assert float(found) < 1e-4
  int8 = (
    r"int8: (.*)error (.*)% of .* cosine [01]\.\d+ .* tokens of text; .* kB"
  )
  ((warning, error),) = re.findall(int8, output)
  assert ("too rough" in warning) == (float(error) > 10)
  card = (folder / "README.md").read_text()
  assert "onnx/model_quantized.onnx" in card and found in card
  sizes = {p.name: p.stat().st_size for p in (folder / "onnx").iterdir()}
  assert sizes.keys() == {"model.onnx", "model_quantized.onnx"}
  # Both dimensions are free, and padding on either side changes nothing.
  encode = onnx_files.load_onnx(folder / "onnx" / "model.onnx")
  torch = torch_encoder.load_torch(folder, strict=True)
  random = np.random.default_rng(2)
  for rows, length in ((1, 1), (3, 64), (7, 5)):
    tokens = random.integers(1, 153, size=(rows, length))
    mask = np.ones_like(tokens)
    expected = torch(tokens, mask)[-1]
    np.testing.assert_allclose(encode(tokens, mask), expected, atol=1e-4)
    for before, after in ((0, 64 - length), (64 - length, 0)):
      wide = [np.pad(x, ((0, 0), (before, after))) for x in (tokens, mask)]
      padded = encode(*wide)[:, before : before + length]
      np.testing.assert_allclose(padded, expected, atol=1e-4)
  output = command(capsys, "verify", folder, f"--against={imported}")
  assert "7 files as exported" in output
  # Earlier exports had another name, which is still read.
  old = folder / "onnx" / "model_int8.onnx"
  (folder / "onnx" / "model_quantized.onnx").rename(old)
  record = folder / "time_jax.json"
  record.write_text(record.read_text().replace("_quantized", "_int8"))
  found = checks.check_files(ModelFolder(folder))
  assert found == "7 files as exported (SHA-256)"
  old.write_bytes(b"damaged")
  with pytest.raises(RunError, match="model_int8.onnx was changed after"):
    checks.check_files(ModelFolder(folder))


@pytest.mark.usefixtures("without_torch")
def test_weights_that_one_file_cannot_take(
  capsys, imported, monkeypatch, tmp_path
):
  monkeypatch.setattr(onnx_graph, "_LARGEST", 2**20 + 40_000)
  flags = "--onnx", f"--out={tmp_path / 'export'}"
  output = command(capsys, "export", f"--workdir={imported}", *flags)
  assert "onnxruntime equals JAX within" in output
  folder = tmp_path / "export" / "onnx"
  names = "model.onnx", "model_quantized.onnx"
  for name in names:
    weights = folder / f"{name}_data"
    assert weights.stat().st_mode & 0o777 == 0o644
    size = sum((folder / name).stat().st_size for name in (name, weights.name))
    assert byte_size(size) in output
  assert len(list(folder.iterdir())) == 4
