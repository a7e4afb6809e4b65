"""JSON is written in one way, which all readers of JSON take."""

import pathlib

from time_jax.core.storage import atomic_file

PACKAGE = pathlib.Path(atomic_file.__file__).parents[2]
# Texts to be hashed, compared or sent to another process, not files.
NO_FILES = {
  *("atomic_file", "processes", "rendezvous", "run_record", "saved_student"),
  *("inspection", "manifest", "encoders", "finetuning", "squad"),
  *("model_hash", "lease", "same_model", "run_once", "checksums"),
  *("rows", "tokenizer", "vocabulary"),  # what others read has no such numbers
}


def test_files_are_written_by_the_one_writer():
  """Elsewhere NaN would appear, which is no JSON."""
  found = {
    path.stem
    for path in PACKAGE.rglob("*.py")
    if any(word in path.read_text() for word in ("json.dump(", "json.dumps("))
  }
  assert found <= NO_FILES
