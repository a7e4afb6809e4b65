"""What a card lacks; what it says is in pipeline_of_commands_test.py."""

import pytest

from time_jax.config import default_config
from time_jax.models.bert import BertConfig
from time_jax.release import card, provenance
from time_jax.release.options import Options
from time_jax.run import run_record


@pytest.mark.parametrize(
  ("text", "problem"),
  [
    ("# Title", "the front matter"),
    ("---\na: [\n---\n", "the front matter cannot be read"),
    ("---\ntags: [a]\n---\n", "the front matter lacks library_name"),
    ("---\ntags: [a]\n---\n$name", "places that were not filled"),
  ],
)
def test_what_a_card_lacks(text, problem):
  assert any(problem in found for found in card.problems(text))


def facts_of(**changes):
  """What `collect` finds in the config of a run."""
  config = default_config()
  config.teacher.update(path="teachers/da", layer=8)
  config.update_from_flattened_dict(changes)
  facts = provenance.of_config(config.to_dict(), {})
  return {name: value for name, value in facts.items() if value}


OFF = {f"relations.weights.{x}{x}": 0.0 for x in "qkv"}


@pytest.mark.parametrize(
  ("changes", "learned", "limit", "row"),
  [
    (
      {},
      "its last layer learned\nthe attention relations of one layer",
      "What follows them in that layer, and the pooler, are as they were",
      ", VV |",
    ),
    (
      {"hidden.weight": 1.0, **OFF},
      "it learned hidden states of its teacher",
      "All layers were distilled; the pooler is as it was",
      "cosine distance, weight 1: layer 6 to the teacher's 8 |",
    ),
    (
      {"hidden.weight": 2.0, "hidden.pairs": "3:4,2:3"},
      "of its teacher, and it learned hidden states",
      "What follows them in that layer, and the pooler, are as they were",
      "layer 3 to the teacher's 4, 2 to the teacher's 3 |",
    ),
  ],
)
def test_a_card_says_what_was_learned(changes, learned, limit, row):
  text = card.render(
    Options(model_class="BertModel", dtype="float32", name="me/da"),
    BertConfig(99, 384, 6, 12, 1536),
    facts_of(**changes),
    [],
  )
  flat = " ".join(text.split())
  for words in (learned, limit, row):
    assert " ".join(words.split()) in flat
  if changes.keys() > OFF.keys():
    assert "attention relations" not in text
    assert "| relations | none |" in text


def test_a_run_of_an_earlier_version_has_no_hidden_states():
  run = default_config().to_dict()
  del run["hidden"]
  assert not provenance.of_config(run, {})["hidden_states"]


def test_a_card_says_that_the_states_were_made_narrower():
  config = default_config()
  config.hidden.weight = 1.0
  run = {**config.to_dict(), run_record.PROJECTION: "ab"}
  found = provenance.of_config(run, {})["hidden_states"]
  assert found.endswith(", projected to the student's width")
