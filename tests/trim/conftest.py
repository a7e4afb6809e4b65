"""Teachers that the tests of this folder share."""

import functools

import pytest
import tiny_multilingual


@pytest.fixture(scope="session")
def teachers(tmp_path_factory):
  """Kind of `tiny_multilingual` -> a folder with such a teacher."""
  texts = tiny_multilingual.texts()

  @functools.cache
  def teacher(kind):
    folder = tmp_path_factory.mktemp(kind)
    tiny_multilingual.KINDS[kind](folder, texts, tiny_multilingual.SIZE)
    return folder

  return teacher
