"""Exact match and F1 against values computed by hand."""

import pytest

from time_jax.core.errors import UserError
from time_jax.evals.qa import scoring
from time_jax.evals.qa.squad import Answer, Question


def question(*texts):
  answers = tuple(Answer(text, 0) for text in texts)
  return Question("q", "?", "", answers, "file")


def score(found, *golds, lang="en", rules="squad"):
  """(F1, EM) of one answer."""
  values = scoring.score([question(*golds)], [question(found)], lang, rules)
  return pytest.approx((values["F1"], values["EM"]))


@pytest.mark.parametrize(
  ("found", "golds", "f1", "em"),
  [
    ("October 1973", ["October 1973"], 100, 100),
    ("the October, 1973!", ["October 1973"], 100, 100),
    ("An  oil\ncrisis", ["the OIL crisis."], 100, 100),
    ("in October 1973", ["October 1973", "October"], 80, 0),  # P 2/3, R 1
    ("1974", ["October 1973", "1973"], 0, 0),
    ("", ["1973"], 0, 0),
    # Words count as often as both have them: 1 of 3 and of 2.
    ("to to be", ["to not"], 40, 0),
    ("New York City", ["York", "the city of New York"], 600 / 7, 0),
    # Only ASCII's punctuation is removed, as the definition has it.
    ("\u201eno\u201c", ["no"], 0, 0),
    # Nothing is left of either: equal, but no word in common.
    ("the", ["a"], 0, 100),
    ("anathema", ["nthem"], 0, 0),
  ],
)
def test_squad(found, golds, f1, em):
  assert (f1, em) == score(found, *golds)
  assert (f1, em) == score(found, *golds, lang="")
  # XQuAD's other languages are scored alike, those of MLQA among them.
  assert (f1, em) == score(found, *golds, lang="ru")
  assert (f1, em) == score(found, *golds, lang="de")


@pytest.mark.parametrize(
  ("lang", "found", "gold", "f1", "em"),
  [
    ("en", "\u201cThe\u201d dog\u2013cat", "a dogcat", 100, 100),
    ("de", "\u201eDer Hund\u201c", "einen Hund", 100, 100),
    ("de", "the Hund", "Hund", 200 / 3, 0),  # "the" is no German article
    ("es", "\u00bfLos unos gatos?", "gatos", 100, 100),
    ("vi", "c\u00e1i nh\u00e0", "nh\u00e0", 100, 100),
    ("hi", "\u0926\u093f\u0932\u094d\u0932\u0940\u0964", "the", 0, 0),
    (
      "hi",
      "\u0926\u093f\u0932\u094d\u0932\u0940\u0964",
      "\u0926\u093f\u0932\u094d\u0932\u0940",
      100,
      100,
    ),
    ("ar", "\u0627\u0644\u0628\u064a\u062a", "\u0628\u064a\u062a", 100, 100),
    # Four characters and two, two in common: P 1/2, R 1.
    ("zh", "\u5317\u4eac\u5927\u5b66", "\u5317\u4eac", 200 / 3, 0),
    ("zho_Hans", "\u5317\u4eac\u3002", "\u5317 \u4eac", 100, 100),
    # Latin words in Chinese text stay whole.
    ("zh", "iPhone\u624b\u673a", "iPhone", 50, 0),
  ],
)
def test_mlqa_by_language(lang, found, gold, f1, em):
  assert (f1, em) == score(found, gold, lang=lang, rules="mlqa")


def test_mean_over_questions_and_the_name_of_the_definition():
  golds = [question("October 1973"), question("no"), question("x y")]
  found = [question("October"), question("no"), question("z")]
  values = scoring.score(golds, found, "en")
  assert values == pytest.approx({"F1": 100 * (2 / 3 + 1) / 3, "EM": 100 / 3})
  assert scoring.definition("en") == "the definition of SQuAD v1.1"
  assert scoring.definition("deu") == "the definition of SQuAD v1.1"
  assert scoring.definition("deu", "mlqa") == "the definition of MLQA (de)"
  with pytest.raises(
    UserError, match="MLQA has no language 'ga'; expected one"
  ):
    scoring.definition("ga", "mlqa")
  with pytest.raises(UserError, match="unknown language 'xyzzy'"):
    scoring.definition("xyzzy")
