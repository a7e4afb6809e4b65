"""The table is whole and consistent, and codes of all kinds are understood."""

import pathlib
import re

import pytest

from time_jax.catalog import corpora, languages
from time_jax.catalog.languages import find
from time_jax.core.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
TWENTY = [
  "ar",
  "da",
  "de",
  "en",
  "es",
  "fr",
  "ga",
  "hi",
  "hu",
  "it",
  "ja",
  "ko",
  "nl",
  "pl",
  "pt",
  "ru",
  "tr",
  "ur",
  "vi",
  "zh",
]


def named(column):
  return {getattr(x, column) for x in languages.languages()} - {""}


def test_each_row_is_a_language_in_a_script():
  rows = languages.languages()
  assert len(rows) == 193  # All that HPLT v2 covers.
  assert len({row.code for row in rows}) == 193
  for row in rows:
    assert re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", row.code), row
    assert re.fullmatch(r"([a-z]{2})?", row.iso1), row
    assert re.fullmatch(r"([a-z]{3})?", row.also), row
    assert row.name[0].isupper() and row.name == row.name.strip()
    assert row.hplt == row.code


@pytest.mark.parametrize(
  ("column", "form"),
  [
    ("culturax", r"[a-z]{2,3}"),
    ("fineweb2", r"[a-z]{3}_[A-Z][a-z]{3}"),
    ("wikipedia", r"[a-z]{2,3}|zh-yue"),
    ("oscar", r"[a-z]{2,3}"),
    ("ud", r"[A-Z][A-Za-z_]+-[A-Za-z]+"),
    ("wikiann", r"[a-z]{2,3}|zh-yue"),
    ("wmt24pp", r"en-[a-z]{2,3}_[A-Z]{2}"),
    ("flores", r"[a-z]{3}_[A-Z][a-z]{3}"),
    ("hplt_bert", r"[a-z]{3}-[A-Z][a-z]{3}"),
    ("hplt_bert_v1", r"[a-z]{2}"),
  ],
)
def test_names_have_the_form_of_their_corpus(column, form):
  rows = [x for x in languages.languages() if getattr(x, column)]
  assert len(rows) > 40
  # No name stands for two languages.
  assert len({getattr(x, column) for x in rows}) == len(rows)
  for row in rows:
    name = getattr(row, column)
    assert re.fullmatch(form, name), row
    # What is written with a script is written with the row's own; FineWeb2
    # does not tell the Chinese scripts apart.
    script = re.split("[-_]", name)[-1]
    if column in ("flores", "fineweb2", "hplt_bert") and script != "Hani":
      assert script == row.script, row


@pytest.mark.parametrize("code", TWENTY)
def test_the_languages_of_the_project_are_complete(code):
  row = find(code)
  assert row.tag == code
  for column in ("culturax", "wikipedia", "oscar", "ud", "wikiann", "flores"):
    assert getattr(row, column), column
  assert row.fineweb2 or code == "en"
  assert row.wmt24pp or code in ("en", "ga")
  assert row.hplt_bert or code in ("ar", "ur")
  assert row.hplt_bert_v1


@pytest.mark.parametrize(
  ("code", "want"),
  [
    ("da", "dan_Latn"),
    ("dan", "dan_Latn"),
    ("dan_Latn", "dan_Latn"),
    ("DAN-latn", "dan_Latn"),
    ("ar", "ara_Arab"),
    ("arb", "ara_Arab"),
    ("arb_Arab", "ara_Arab"),
    ("zh", "zho_Hans"),
    ("cmn", "zho_Hans"),
    ("zho_Hant", "zho_Hant"),
    ("zh-yue", "yue_Hant"),
    ("no", "nob_Latn"),
    ("nb", "nob_Latn"),
    ("nn", "nno_Latn"),
    ("fas", "pes_Arab"),
    ("lav", "lvs_Latn"),
    ("als", "als_Latn"),
    ("ekk", "est_Latn"),
    ("ace", "ace_Latn"),
    ("knc", "knc_Latn"),
    ("ks", "kas_Arab"),
  ],
)
def test_codes_of_all_kinds(code, want):
  assert find(code).code == want


def test_facts_of_some_rows():
  danish = find("da")
  assert (danish.iso3, danish.script, danish.name) == ("dan", "Latn", "Danish")
  assert danish.wmt24pp == "en-da_DK"
  assert (danish.ud, danish.wikiann) == ("Danish-DDT", "da")
  assert (danish.hplt_bert, danish.hplt_bert_v1) == ("dan-Latn", "da")
  assert find("ga").ud == "Irish-IDT"
  assert find("fr").wmt24pp == "en-fr_FR"
  assert find("zh").fineweb2 == "cmn_Hani"
  assert find("et").hplt_bert == "est-Latn"


def test_writing_directions():
  left = {x.script for x in languages.languages() if not x.right_to_left}
  right = {x.script for x in languages.languages() if x.right_to_left}
  assert right == {"Arab", "Hebr"}
  assert {"Latn", "Cyrl", "Hans", "Deva", "Thai", "Ethi"} < left


def test_the_shortest_code_leads_back():
  for row in languages.languages():
    assert find(languages.short_code(row)) == row
  assert languages.short_code(find("zho_Hant")) == "zho_Hant"
  assert languages.short_code(find("kmr_Latn")) == "ku"


@pytest.mark.parametrize(
  ("code", "near"),
  [
    ("danish", "da (Danish)"),
    ("dan_Ltn", "da (Danish)"),
    ("gaa", "ga (Irish)"),
  ],
)
def test_an_unknown_language_comes_with_those_like_it(code, near):
  with pytest.raises(UserError) as caught:
    find(code)
  assert str(caught.value).startswith(f"unknown language {code!r}; similar: ")
  assert near in str(caught.value)


def test_nothing_is_like_an_empty_code():
  with pytest.raises(UserError, match="unknown language ''; similar: none"):
    find("")


def test_sources_of_text():
  danish, english = find("da"), find("en")
  assert corpora.training_text("culturax", danish) == (
    "hf:uonlp/CulturaX/da/da_part_*.parquet#text"
  )
  assert corpora.training_text("fineweb2", find("zh")) == (
    "hf:HuggingFaceFW/fineweb-2/data/cmn_Hani/train/*.parquet#text"
  )
  assert "HuggingFaceFW/fineweb/" in corpora.training_text("fineweb2", english)
  assert "OSCAR-2301/da_meta/" in corpora.training_text("oscar", danish)
  assert corpora.held_out_text(danish) == (
    "hf:google/wmt24pp/en-da_DK.jsonl#target"
  )
  assert corpora.held_out_text(english).endswith("#source")
  assert "flores_plus/devtest/gle_Latn." in corpora.held_out_text(find("ga"))
  assert corpora.held_out_text(find("tzm_Tfng")) == ""


def test_text_that_is_not_there_names_what_is():
  with pytest.raises(UserError, match=r"has no Zulu .*\(zu\) is in fineweb2, "):
    corpora.training_text("culturax", find("zu"))
  with pytest.raises(UserError, match="unknown corpus 'c4'; known: culturax, "):
    corpora.training_text("c4", find("zu"))
