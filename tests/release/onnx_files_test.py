"""ONNX files compute what JAX computes."""

import re

import exporting
import numpy as np
import pytest
from exporting import command

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from time_jax.core.errors import RunError
from time_jax.hf import onnx_graph, torch_encoder
from time_jax.release import checks, onnx_files


@pytest.mark.parametrize("name", exporting.CLASSES)
def test_onnx(capsys, tiny, tmp_path, name):
  source = exporting.random_model(tmp_path / "source", tiny / "teacher")
  run = tmp_path / "run"
  command(capsys, "import", source, f"--workdir={run}")
  flags = f"--class={name}", "--onnx"
  output = command(capsys, "export", f"--workdir={run}", *flags)
  (found,) = re.findall(r"onnxruntime equals JAX within (\S+);", output)
  assert float(found) < 1e-4
  int8 = r"int8: error .*% .* cosine [01]\.\d+ .* on \d+ tokens of text; .* MB"
  assert re.search(int8, output), output
  folder = run / "export"
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
  output = command(capsys, "verify", folder, f"--against={run}")
  assert "7 files as exported" in output
  # Exports of before had another name, which is read on.
  old = folder / "onnx" / "model_int8.onnx"
  (folder / "onnx" / "model_quantized.onnx").rename(old)
  record = folder / "time_jax.json"
  record.write_text(record.read_text().replace("_quantized", "_int8"))
  found = checks.CHECKS[0][1](checks.Opened(folder, None, False))
  assert found == "7 files as exported (SHA-256)"
  old.write_bytes(b"damaged")
  with pytest.raises(RunError, match="model_int8.onnx was changed after"):
    checks.CHECKS[0][1](checks.Opened(folder, None, False))


def test_weights_that_one_file_cannot_take(capsys, monkeypatch, tiny, tmp_path):
  monkeypatch.setattr(torch_encoder, "installed", lambda: False)
  monkeypatch.setattr(onnx_graph, "_LARGEST", 2**20 + 40_000)
  source = exporting.random_model(tmp_path / "source", tiny / "teacher")
  run = tmp_path / "run"
  command(capsys, "import", source, f"--workdir={run}")
  output = command(capsys, "export", f"--workdir={run}", "--onnx")
  assert "onnxruntime equals JAX within" in output
  folder = run / "export" / "onnx"
  names = "model.onnx", "model_quantized.onnx"
  for name in names:
    weights = folder / f"{name}.data"
    assert weights.stat().st_mode & 0o777 == 0o644
    size = sum((folder / name).stat().st_size for name in (name, weights.name))
    assert f"{size / 1e6:,.1f} MB" in output
  assert len(list(folder.iterdir())) == 4
