"""Ways to damage a checkpoint: a folder of files, in place."""

import re
import shutil


def _biggest(folder):
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max(files, key=lambda p: (p.stat().st_size, str(p)))


def truncate(folder):
  path = _biggest(folder / "params")
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(folder):
  path = _biggest(folder / "params")
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def flip_a_digit(folder):
  """Still JSON, but another setting."""
  path = folder / "metadata" / "metadata"
  text = path.read_text()
  digits = [match.start() for match in re.finditer(r"\d", text)]
  changed = str(int(text[digits[-1]]) ^ 1)
  path.write_text(text[: digits[-1]] + changed + text[digits[-1] + 1 :])


def half_delete(folder):
  files = sorted(p for p in folder.rglob("*") if p.is_file())
  for path in files[::2]:
    path.unlink()


def delete_checksums_and_arrays(folder):
  (folder / "sha256.json").unlink()
  _biggest(folder / "params").unlink()


def delete_checksums_and_rest(folder):
  (folder / "sha256.json").unlink()
  shutil.rmtree(folder / "rest")


def spoil_checksums(folder):
  (folder / "sha256.json").write_text("{")


def empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


def delete_metadata(folder):
  shutil.rmtree(folder / "metadata")


def delete_arrays(folder):
  shutil.rmtree(folder / "params")


WAYS = {
  f.__name__: f
  for f in (
    truncate,
    flip,
    flip_a_digit,
    half_delete,
    delete_checksums_and_arrays,
    delete_checksums_and_rest,
    spoil_checksums,
    empty,
    delete_metadata,
    delete_arrays,
  )
}
