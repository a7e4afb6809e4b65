"""Tokenizers of each kind, for tests of words."""

import pytest
import tiny_tokenizers
from words import TEXT

from time_jax.hf import tokenizer


@pytest.fixture(scope="module", params=tiny_tokenizers.KINDS)
def spec(request, tmp_path_factory):
  """A tokenizer of each kind."""
  folder = tmp_path_factory.mktemp("words")
  kind = tiny_tokenizers.KINDS[request.param]
  backend = kind(TEXT * 3, 300 if "byte" in request.param else 60)
  tiny_tokenizers.save(backend, folder)
  return tokenizer.load_tokenizer(folder, 400)
