"""A pipeline of tiny exports."""

import pytest
import served
import spacy

from time_jax.serve.folder import VECTORS

TASKS = ("split", "ud", "ner", VECTORS)


@pytest.fixture(scope="session")
def exports(mesh, tmp_path_factory):
  """Task -> the folder of an export; not to be changed."""
  return {
    task: served.export(task, tmp_path_factory.mktemp("export"), mesh)
    for task in (*TASKS, "qa")
  }


@pytest.fixture(scope="session")
def folder(exports, tmp_path_factory):
  """The folder of a pipeline; not to be changed."""
  home = tmp_path_factory.mktemp("pipeline")
  return served.pipeline_of([exports[task] for task in TASKS], home)


@pytest.fixture(scope="session")
def nlp(folder):
  return spacy.load(folder)
