"""JSON is written in one way, which all readers of JSON take."""

import pathlib

from time_jax import folders

PACKAGE = pathlib.Path(folders.__file__).parent
# Texts to be hashed, compared or sent to another process, not files.
NO_FILES = {
  *("folders", "distributed", "meeting", "record", "restore", "inspection"),
  *("manifest", "encoders", "finetuning", "squad"),
  *("identity", "lease", "models", "outcome", "seal"),
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
