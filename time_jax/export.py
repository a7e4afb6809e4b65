"""A checkpoint -> a Hugging Face folder that is proven equal to it."""

import importlib.util
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from time_jax import assembly, choose, sharding
from time_jax.arrays import Batch, make_batch
from time_jax.checkpoint import Checkpoints
from time_jax.errors import RunError, UserError
from time_jax.hf import load, save, tokenizer
from time_jax.models.bert import BertConfig, Encoder
from time_jax.models.family import Params, abstract_params

TOLERANCE = 1e-5  # of hidden states in float32


def export(
  workdir: pathlib.Path,
  step: int | None = None,
  out: pathlib.Path | None = None,
) -> int:
  """Writes a student as a `BertModel`, loads it back and compares.

  Args:
    workdir: of a run of `distill`.
    step: the checkpoint; by default the chosen one, else the newest.
    out: the folder to write, replaced if it is an earlier export; by default
      WORKDIR/export.

  Returns:
    The exit code, 0.

  Raises:
    UserError: nothing to export, or `out` holds something else.
    RunError: the folder is not equal to the checkpoint; it is left there.
  """
  config = assembly.read_run(workdir)
  out = out or workdir / "export"
  _check_target(out)
  mesh = sharding.make_mesh()
  shape = assembly.student_config(
    config, assembly.teacher_config(config).vocab_size
  )
  encoder = Encoder(shape, shape.num_layers, jnp.dtype("float32"))
  step, params, record = _restore(workdir, step, encoder, mesh)
  target = out.resolve()
  fresh = target.with_name(f".{target.name}.unfinished")
  replaced = target.with_name(f".{target.name}.replaced")
  try:
    for leftover in (fresh, replaced):
      shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    _write_folder(fresh, workdir, shape, params, {"step": step, **record})
    checks = verify(fresh, encoder, params)
    if target.exists():
      target.replace(replaced)
    fresh.replace(target)
    shutil.rmtree(replaced, ignore_errors=True)
  except OSError as error:
    raise UserError(
      f"cannot write to {out}: {error.strerror or error}; expected a folder "
      "with write permission and free space (see --out)."
    ) from error
  print(f"Exported step {step} to {out}")
  for name, found in checks.items():
    print(f"  {name}: {found}")
  print(
    'Next: python -c "from transformers import AutoModel; '
    f"print(AutoModel.from_pretrained('{out}'))\""
  )
  return 0


def verify(
  folder: pathlib.Path, encoder: Encoder, params: Params
) -> dict[str, str]:
  """Loads a folder back and compares hidden states with the parameters'.

  Always through our own loader; in PyTorch as well where transformers and
  torch are installed. Compared on random tokens of several lengths, padded.

  Args:
    folder: what was written.
    encoder: complete student.
    params: its float32 parameters.

  Returns:
    What was compared -> how equal it was.

  Raises:
    RunError: a key is missing, unexpected or mismatched, or a value is off.
  """
  batch = _probe(encoder.config)
  expected = _hidden_states(encoder, params, batch)
  mesh = sharding.make_mesh()
  again, loaded = load.load_encoder(
    folder, dtype=jnp.dtype("float32"), mesh=mesh
  )
  assert isinstance(again, Encoder)
  checks = {
    "JAX": _compare("JAX", expected, _hidden_states(again, loaded, batch))
  }
  if importlib.util.find_spec("torch") is None:
    checks["PyTorch"] = "not checked: torch is not installed"
  else:
    checks["PyTorch"] = _compare("PyTorch", expected, _in_torch(folder, batch))
  return checks


def _check_target(out: pathlib.Path) -> None:
  earlier = (out / "time_jax.json").exists()
  empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
  if not earlier and not empty:
    raise UserError(
      f"{out} exists and is no earlier export; expected an empty or new "
      "folder (see --out)."
    )


def _restore(
  workdir: pathlib.Path,
  step: int | None,
  encoder: Encoder,
  mesh: jax.sharding.Mesh,
) -> tuple[int, Params, dict[str, Any]]:
  with Checkpoints.read_only(workdir) as checkpoints:
    steps = checkpoints.steps()
    chosen = step if step is not None else choose.read_choice(workdir)
    if not steps:
      raise UserError(f"no finished checkpoint in {workdir}/checkpoints.")
    if chosen is not None and chosen not in steps:
      known = ", ".join(map(str, steps))
      raise UserError(
        f"no checkpoint of step {chosen} in {workdir}; there are: {known}; "
        "give --step, or run `time_jax choose` again."
      )
    chosen = steps[-1] if chosen is None else chosen
    abstract = {"params": sharding.abstract(abstract_params(encoder), mesh)}
    params = checkpoints.restore(chosen, abstract)["params"]
    return chosen, params, checkpoints.metadata(chosen)


def _write_folder(
  folder: pathlib.Path,
  workdir: pathlib.Path,
  shape: BertConfig,
  params: Params,
  record: dict[str, Any],
) -> None:
  ids: dict[str, int] = {}
  source, rows = workdir / "tokenizer", shape.vocab_size
  if source.is_dir():
    ids = tokenizer.special_ids(source, rows)
    tokenizer.save_tokenizer(source, folder, shape.max_positions, rows)
  save.save_bert(folder, shape, params, ids)
  text = json.dumps(record, indent=2) + "\n"
  (folder / "time_jax.json").write_text(text, encoding="utf-8")


def _probe(config: BertConfig) -> Batch:
  random = np.random.default_rng(0)
  longest = min(config.max_positions, 128)
  tokens = random.integers(config.vocab_size, size=(4, longest))
  lengths = np.array([longest, longest // 2, 3, 1])
  return make_batch(tokens, np.arange(longest) < lengths[:, None])


def _hidden_states(
  encoder: Encoder, params: Params, batch: Batch
) -> np.ndarray:
  """Hidden states of all layers at real tokens."""
  run = jax.jit(
    lambda params: encoder.apply(
      {"params": params}, batch, method="hidden_states"
    )
  )
  with jax.default_matmul_precision("highest"):
    states = np.asarray(run(params))
  return states[:, np.asarray(batch.segment_ids) > 0]


def _in_torch(folder: pathlib.Path, batch: Batch) -> np.ndarray:
  import torch
  import transformers

  transformers.logging.set_verbosity_error()
  model, found = transformers.AutoModel.from_pretrained(
    str(folder), output_loading_info=True, local_files_only=True
  )
  wrong = {name: keys for name, keys in found.items() if keys}
  if wrong:
    raise RunError(f"{folder} does not load cleanly in transformers: {wrong}")
  with torch.no_grad():
    states = model.eval()(
      input_ids=torch.tensor(np.asarray(batch.tokens)),
      attention_mask=torch.tensor(np.asarray(batch.segment_ids)),
      output_hidden_states=True,
    ).hidden_states
  real = np.asarray(batch.segment_ids) > 0
  return np.stack([state.numpy() for state in states])[:, real]


def _compare(name: str, expected: np.ndarray, found: np.ndarray) -> str:
  difference = float(np.abs(expected - found).max())
  if not difference <= TOLERANCE:
    raise RunError(
      f"the exported folder gives other hidden states in {name}: difference "
      f"{difference:.2e}, expected at most {TOLERANCE}."
    )
  return f"hidden states equal within {difference:.1e}"
