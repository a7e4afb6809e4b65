"""Collects what a run recorded of itself, for the card of its student.

Facts that were not recorded are left out rather than computed afterwards: a
reader could take them for measurements.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from time_jax.catalog import languages
from time_jax.checkpoint import layout
from time_jax.config import hidden
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path
from time_jax.data import manifest
from time_jax.hf.lineage import shown_path
from time_jax.run import choose, saved_student
from time_jax.run.run_record import PROJECTION, ROWS, TEXT
from time_jax.run.saved_student import Student
from time_jax.telemetry import history
from time_jax.telemetry.history import METRIC

Facts = dict[str, Any]
NONE = "none"  # of relations that are learnt


def collect(workdir: Path, student: Student) -> Facts:
  """Collects the facts about a student.

  Args:
    workdir: workdir of the run.
    student: one of its checkpoints.

  Returns:
    Facts by name as plain JSON, see card_rows.tsv. If `import` took the student
    over and it was not trained further, the facts are those that came with it.
  """
  imported = student.record.get("imported") or {}
  left_out = {}
  if saved_student.DROP_LAST in student.record:
    left_out["left_out"] = f"layer {student.config.num_layers + 1}, the last"
  if student.step == 0 and imported:
    facts = imported.get("facts") or {"imported_from": imported["from"]}
    return facts | left_out
  run = student.record.get("run") or {}
  facts: Facts = {
    **of_config(run, student.record.get("teacher") or {}),
    **_of_text(workdir, run),
    **_of_metrics(workdir, student.step),
    "hardware": _hardware(student.record.get("hardware") or {}),
    "versions": student.record.get("versions"),
    **left_out,
  }
  if imported:
    facts["imported_from"] = imported["from"]
  return {name: value for name, value in facts.items() if value}


def of_config(run: Mapping[str, Any], known: Mapping[str, str]) -> Facts:
  """Returns the facts that a run's config holds; none where it is unknown.

  Args:
    run: the config, as plain JSON.
    known: what is recorded of the teacher beside its path.
  """
  if "teacher" not in run:
    return {}
  teacher, train = run["teacher"], run["train"]
  clip_norm, own_seed = train["clip_norm"], run["student"].get("seed", -1)
  clipping = f"clipping at {clip_norm:g}" if clip_norm else "no clipping"
  return {
    "language": _language(run["lang"]),
    "teacher": known.get("name") or shown_path(teacher["path"]),
    "trimmed_from": known.get("trimmed_from"),
    "base_model": known.get("hub"),
    "teacher_layer": teacher["layer"],
    "teacher_sha256": run.get("teacher weights (SHA-256)"),
    "relation_heads": run["relations"]["num_heads"],
    "relations": _relations(run["relations"]["weights"]),
    "hidden_states": _hidden(run),
    "whole_last_layer": run["student"]["num_layers"] in dict(_pairs(run)),
    "init_from": shown_path(run["student"].get("init_from") or ""),
    "planned_steps": train["num_steps"],
    "batch": f"{train['global_batch_size']} rows of {run['data']['seq_len']}",
    "optimizer": (
      f"AdamW, peak learning rate {train['peak_lr']:g}, "
      f"{train['warmup_steps']} warm-up steps, weight decay "
      f"{train['weight_decay']:g}, {clipping}"
    ),
    "changes": train.get("changes", ""),
    "ema": f"{train['ema']:g}" if train.get("ema") else "",
    "precision": train["dtype"],
    "seed": run["seed"] if own_seed < 0 else own_seed,
  }


def _language(code: str) -> str:
  try:
    return languages.find(code).tag if code else ""
  except UserError:
    return ""


def _relations(weights: Mapping[str, float]) -> str:
  used = {pair.upper(): weight for pair, weight in weights.items() if weight}
  plain = set(used.values()) == {1.0}
  shown = (p if plain else f"{w:g} {p}" for p, w in used.items())
  return ", ".join(shown) or NONE


def _hidden(run: Mapping[str, Any]) -> str:
  """Describes the hidden-state term; empty where there was none."""
  shown = ", ".join(f"{own} to the teacher's {of}" for own, of in _pairs(run))
  if not shown:
    return ""
  width = ", projected to the student's width" if PROJECTION in run else ""
  weight = run["hidden"]["weight"]
  return f"cosine distance, weight {weight:g}: layer {shown}{width}"


def _pairs(run: Mapping[str, Any]) -> hidden.Pairs:
  """Returns the layers whose hidden states were compared."""
  if "hidden" not in run:
    return ()  # Of an earlier version.
  parts = ("student", "teacher", "hidden")
  return hidden.pairs(ConfigDict({name: run[name] for name in parts}))


def _of_text(workdir: Path, run: Mapping[str, Any]) -> Facts:
  data = run.get("data") or {}
  folder = Path(data.get("folder") or layout.data_folder(workdir))
  if data.get("synthetic_rows"):
    return {"text_train": "none: random tokens"}
  if not manifest.is_prepared(folder):
    return {}
  prepared = manifest.load_manifest(folder)
  # Older runs recorded the settings that rows were made with, not the rows.
  rows = run.get(ROWS, prepared.content)
  if (prepared.fingerprint, prepared.content) != (run.get(TEXT), rows):
    return {}  # Text of another run.
  facts: Facts = {
    "text_fingerprint": prepared.fingerprint,
    "tokenizer_sha256": prepared.tokenizer_sha256,
    "datasets": _datasets(prepared.splits["train"].sources),
  }
  for name, split in prepared.splits.items():
    sources = ", ".join(map(shown_path, split.sources))
    facts[f"text_{name}"] = (
      f"{sources}: {split.documents:,} documents, {split.tokens:,} tokens, "
      f"{split.rows:,} rows, {split.packing_efficiency:.1%} full"
    )
  return facts


def _datasets(sources: Sequence[str]) -> list[str]:
  """Returns the hub ids among the sources of text."""
  hub = [source for source in sources if source.startswith("hf:")]
  names = [source.removeprefix("hf:").split("#")[0] for source in hub]
  ids = ["/".join(name.split("/")[:2]) for name in names]
  return sorted({name.partition("@")[0].partition(":")[0] for name in ids})


def _of_metrics(workdir: Path, step: int) -> Facts:
  rows = [r for r in history.read_metrics(workdir) if r["step"] <= step]
  logged = [row["data/tokens"] for row in rows if "data/tokens" in row]
  facts: Facts = {"step": step}
  if logged and len(logged) == step:
    facts["tokens"] = f"{sum(logged):,.0f}"
  elif logged:
    mean = sum(logged) / len(logged)
    facts["tokens"] = (
      f"about {mean * step:,.0f} ({step} steps of {mean:,.0f}, the mean of "
      f"the {len(logged)} that were logged)"
    )
  for name, key in (("loss", "train/loss"), ("held_out_loss", METRIC)):
    seen = [(row["step"], row[key]) for row in rows if key in row]
    if seen:
      (first, before), (last, after) = seen[0], seen[-1]
      facts[name] = f"{before:.4f} (step {first}), {after:.4f} (step {last})"
  if _choice(workdir) == step:
    reason = choose.read_reason(workdir)
    facts["chosen"] = f"the kept checkpoint with {reason}"
  return facts


def _choice(workdir: Path) -> int | None:
  try:
    return choose.read_choice(workdir)
  except UserError:  # It is damaged, and not needed where --step is given.
    return None


def _hardware(recorded: Mapping[str, Any]) -> str:
  text = "{devices} x {kind}, {processes} process(es)"
  return text.format(**recorded) if recorded else ""
