"""Every recommendation can be distilled, and errors name those that exist."""

import pytest

from time_jax.catalog.languages import find, languages
from time_jax.catalog.teachers import (
  Recommendation,
  teacher,
  teachers,
  teachers_of,
)
from time_jax.config.distill import STUDENT_SIZES
from time_jax.core.errors import UserError
from time_jax.models.registry import FAMILIES

# layers -> layer, as specified for these depths; BERT-large is the exception.
LAYERS = {6: 6, 8: 8, 12: 12, 22: 19, 24: 19, 26: 21, 28: 22, 32: 25}
WIDTHS = {size["hidden_size"] for size in STUDENT_SIZES.values()} | {384, 768}


@pytest.mark.parametrize("row", teachers().values(), ids=lambda row: row.name)
def test_a_row_adds_up(row):
  assert row.family in FAMILIES
  assert row.path.count("/") == 1
  assert 0 < row.layer <= row.num_layers
  bert_large = row.family == "bert" and row.num_layers == 24
  assert row.layer == (21 if bert_large else LAYERS[row.num_layers])
  assert row.width % row.num_heads == 0
  assert row.key_width <= row.width
  for width in (row.width, row.key_width, *WIDTHS):
    assert width % row.relation_heads == 0
  assert row.relation_heads == (64 if row.width == 1024 else 48)
  if row.family == "modernbert":
    assert row.layer % 3 == 1  # A layer of global attention.
  assert 16_000 < row.vocab_size < 300_000
  for code in row.languages:
    assert find(code).tag == code
  assert row.unchecked <= {"path", "vocab_size", "languages"}


def test_some_rows():
  table = teachers()
  assert table["xlmr_large"] == Recommendation(
    name="xlmr_large",
    path="FacebookAI/xlm-roberta-large",
    family="xlm-roberta",
    num_layers=24,
    width=1024,
    key_width=1024,
    num_heads=16,
    vocab_size=250_002,
    layer=19,
    relation_heads=64,
    copyable=True,
    languages=(),
    unchecked=frozenset(),
  )
  wide = table["eurobert_610m"]
  assert (wide.width, wide.key_width, wide.layer) == (1152, 384, 21)
  assert wide.unchecked == {"languages"}
  assert table["mdeberta"].unchecked == {"vocab_size"}
  assert not table["mdeberta"].copyable
  assert table["bert_large"].layer == 21


def test_hplt_has_a_checkpoint_for_each_language():
  assert teacher("hplt", find("ga")).path == "HPLT/hplt_bert_base_2_0_gle-Latn"
  assert teacher("hplt", find("zh")).path == "HPLT/hplt_bert_base_2_0_zho-Hans"
  assert teacher("hplt_v1", find("ur")).path == "HPLT/hplt_bert_base_ur"
  assert teacher("hplt", find("ga")).languages == ("ga",)
  count = sum("hplt" in teachers_of(language) for language in languages())
  assert count == 52


def test_teachers_of_a_language():
  danish, german = teachers_of(find("da")), teachers_of(find("de"))
  assert "danish_bert" in danish and "danish_bert" not in german
  assert "gbert_large" in german and "gbert_large" not in danish
  assert "eurobert_210m" in german and "eurobert_210m" not in danish
  assert set(teachers_of(find("nb"))) == set(teachers_of(find("nn")))
  for language in languages():
    found = teachers_of(language)
    assert "xlmr_large" in found
    assert not any("{" in row.path for row in found.values())


def test_a_teacher_that_is_not_there_names_those_that_are():
  with pytest.raises(UserError) as caught:
    teacher("hplt", find("ur"))
  text = str(caught.value)
  assert text.startswith(
    "no hplt teacher for Urdu that we know of; hplt is for"
  )
  assert "da, de, el, en" in text
  assert "for Urdu (ur) there are xlmr_large, " in text and "hplt_v1" in text
  with pytest.raises(UserError, match=r"unknown teacher 'x'; .*danish_bert;"):
    teacher("x", find("da"))
