"""The tables fit a screen, and a language's page can be pasted from."""

import re
import shlex

import pytest

from time_jax.catalog import corpora
from time_jax.catalog.languages import find, languages
from time_jax.catalog.teachers import teachers
from time_jax.cli import main


def printed(capsys, *argv):
  assert main.main(argv) == 0
  output = capsys.readouterr()
  assert not output.err
  return output.out.splitlines()


def test_all_languages(capsys):
  lines = printed(capsys, "languages")
  assert all(len(line) <= 100 for line in lines)
  head, *rows = lines[: lines.index("")]
  assert [row[:8] for row in rows] == [x.code for x in languages()]
  columns = {name: head.index(name) for name in head.split()}

  def has(code, name):
    (row,) = (row for row in rows if row.startswith(find(code).code))
    return row.ljust(100)[columns[name]] == "x"

  for name in ("CulturaX", "FineWeb", "HPLT", "UD", "NER", "WMT", "BERT"):
    assert has("da", name), name
  assert has("en", "FineWeb")
  assert not has("ur", "BERT") and not has("ga", "WMT")
  assert has("ga", "FLORES") and not has("zu", "CulturaX")


@pytest.mark.parametrize("code", ["ga", "gle", "gle_Latn"])
def test_one_language(capsys, code):
  lines = printed(capsys, "languages", code)
  assert lines[0] == (
    "Irish: gle_Latn, ISO 639-1 ga, ISO 639-3 gle, script Latn, left to right"
  )
  text = "\n".join(lines)
  for source in corpora.text_of(find("ga")).values():
    assert source in text
  assert corpora.held_out_text(find("ga")) + " (gated)" in text
  assert "UD_Irish-IDT" in text and "WikiANN ga" in text
  assert "HPLT/hplt_bert_base_2_0_gle-Latn" in text
  assert "HPLT are pickles: add --config.teacher.allow_pickle" in text
  assert "irish_bert" in text and "danish_bert" not in text


def test_a_language_of_which_little_is_known(capsys):
  lines = printed(capsys, "languages", "tzm_Tfng")
  assert "ISO 639-1" not in lines[0]
  assert "  none known: give your own" in lines
  assert "right to left" in printed(capsys, "languages", "ur")[0]


@pytest.mark.parametrize("code", ["da", "en", "zho_Hant", "ace_Arab"])
def test_the_recipe_can_be_pasted(capsys, monkeypatch, code):
  lines = printed(capsys, "languages", code)
  words = shlex.split("\n".join(lines[lines.index("a recipe") + 1 :]))
  assert words[:3] == ["python", "-m", "time_jax"]
  lines = printed(capsys, *words[3:], "--help")
  (train,) = (x for x in lines if x.startswith("  data.train "))
  assert any(x in train for x in corpora.text_of(find(code)).values())


def test_all_teachers(capsys):
  lines = printed(capsys, "teachers")
  head, *rows = lines[: lines.index("")]
  assert [row.split()[0] for row in rows] == list(teachers())
  assert all(len(line) <= 110 for line in lines)
  assert head.split()[:3] == ["name", "path", "family"]
  (row,) = (row for row in rows if row.startswith("mdeberta "))
  assert row.split() == [
    *("mdeberta", "microsoft/mdeberta-v3-base", "deberta-v2", "12x768x12"),
    *("~251000", "12", "48", "*"),
  ]
  (row,) = (row for row in rows if row.startswith("eurobert_210m "))
  assert row.endswith("~en fr +13")
  marked = [row for row in rows if re.search(r" ~", row)]
  assert len(marked) == sum(bool(x.unchecked) for x in teachers().values())
  assert "~ from memory, not checked" in "\n".join(lines)
