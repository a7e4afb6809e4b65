import pytest

from time_jax.core.errors import UserError
from time_jax.core.storage import json_file


def test_json_is_read(tmp_path):
  (tmp_path / "a.json").write_text('{"é": [1]}', encoding="utf-8")
  assert json_file.read_json(tmp_path / "a.json") == {"é": [1]}


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (None, "a.json is missing"),
    (b"{", "a.json is not readable JSON"),
    (b"", "a.json is not readable JSON"),
    (b'{"a": "\xff"}', "a.json is not readable JSON"),
    (b"[1]", "a.json holds list, expected {...}"),
    (b"null", "a.json holds NoneType"),
  ],
)
def test_json_that_is_not(tmp_path, content, words):
  if content is not None:
    (tmp_path / "a.json").write_bytes(content)
  with pytest.raises(UserError, match=words):
    json_file.read_json(tmp_path / "a.json")


def test_a_folder_is_no_json(tmp_path):
  with pytest.raises(UserError, match="is not readable JSON"):
    json_file.read_json(tmp_path)
