"""Scores of raw text, on files small enough to count by hand."""

import pytest
import tiny_ud

from time_jax.core.errors import UserError
from time_jax.evals.ud import conllu, raw_scores

udeval = pytest.importorskip("udtools.udeval")
# Il va au lac. Et toi ?
GOLD = """\
# text = Il va au lac.
1 Il il PRON _ Person=3 2 nsubj 2:nsubj _
2 va aller VERB _ _ 0 root 0:root _
3-4 au _ _ _ _ _ _ _ _
3 à à ADP _ _ 5 case _ _
4 le le DET _ _ 5 det _ _
4.1 beau _ _ _ _ _ _ _ _
5 lac lac NOUN _ Gender=Masc 2 obl _ SpaceAfter=No
6 . . PUNCT _ _ 2 punct _ _

1 Et et CCONJ _ _ 2 cc _ _
2 toi toi PRON _ _ 0 root _ _
3 ? ? PUNCT _ _ 2 punct _ _

"""
# The multiword token is not seen, nor where the second sentence begins; of what
# is found, some is annotated wrongly.
ONE_SENTENCE = """\
1 Il il PRON _ Person=3|Own=Yes 2 nsubj nonsense _
2 va aller VERB _ _ 0 root _ _
3 au au ADP _ _ 4 case _ _
4 lac lac NOUN _ _ 2 obl:mod _ _
5 . . PUNCT _ _ 2 dep _ _
6 Et et ADV _ _ 7 cc _ _
7 toi toi PRON _ _ 2 conj _ _
8 ? ? PUNCT _ _ 2 punct _ _

"""
# The multiword token has a wrong word, and the last dot is not a token.
WORDS_ALONE = """\
1 Il _ _ _ _ _ _ _ _
2 va _ _ _ _ _ _ _ _
3-4 au _ _ _ _ _ _ _ _
3 à _ _ _ _ _ _ _ _
4 les _ _ _ _ _ _ _ _
5 lac. _ _ _ _ _ _ _ _

1 Et _ _ _ _ _ _ _ _
2 toi _ _ _ _ _ _ _ _
3 ? _ _ _ _ _ _ _ _

"""


def tabs(text):
  return "".join(
    line if line.startswith("#") else line.replace(" ", "\t")
    for line in text.splitlines(keepends=True)
  )


def read(tmp_path, text, name="found.conllu"):
  (tmp_path / name).write_text(tabs(text))
  return raw_scores.read(tmp_path / name)


def score(tmp_path, text):
  gold = read(tmp_path, GOLD, "gold.conllu")
  return raw_scores.score(gold, read(tmp_path, text))


def test_a_file_is_as_good_as_itself(tmp_path):
  assert score(tmp_path, GOLD) == dict.fromkeys(raw_scores.METRICS, 100)


def test_counted_by_hand(tmp_path):
  """Of 9 words, 8 are predicted and 7 found: all but `à` and `le`."""
  assert score(tmp_path, ONE_SENTENCE) == pytest.approx(
    {
      "Tokens": 100,
      "Sentences": 0,  # 0 of 2 and 1
      "Words": 100 * 14 / 17,
      "UPOS": 100 * 12 / 17,  # `Et`
      "UFeats": 100 * 12 / 17,  # `lac`; features that are not UD's are nothing
      "Lemmas": 100 * 14 / 17,
      "UAS": 100 * 10 / 17,  # `toi`, `?`
      "LAS": 100 * 8 / 17,  # these and `.`; subtypes are nothing
    }
  )


def test_words_alone(tmp_path):
  """Nothing is scored that the file does not have."""
  assert score(tmp_path, WORDS_ALONE) == pytest.approx(
    {
      "Tokens": 100 * 12 / 15,  # 6 of 8 and 7
      "Sentences": 100,
      "Words": 100 * 12 / 17,  # 6 of 9 and 8
    }
  )


def test_some_columns(tmp_path):
  tagged = WORDS_ALONE.replace("Il _ _", "Il il PRON")
  found = score(tmp_path, tagged)
  assert [*found] == [*raw_scores.SPLIT, "UPOS", "Lemmas"]
  assert found["UPOS"] == pytest.approx(100 * 2 / 17)
  heads = "1 Il _ _ _ _ 2 _ _ _\n2 va. _ _ _ _ 0 _ _ _\n\n"
  gold = read(tmp_path, heads.replace("va.", "va") + "1 . _ _ _ _ 0 _ _ _\n\n")
  found = raw_scores.score(gold, read(tmp_path, heads))
  assert [*found] == [*raw_scores.SPLIT, "UAS"]


def segmented(sentences):
  """Joins pairs of words and of sentences, so that trees stay trees."""
  text = []
  for i, sentence in enumerate(sentences):
    rows = sentence.words
    if i % 3 == 0 and len(rows) > 3 and rows[2][6] != "4":
      # Word 4 becomes a part of word 3, and its dependents those of word 3.
      ids = {str(n): str(n - (n > 3)) for n in range(len(rows) + 1)}
      last = list(rows[3])
      joined = [list(row) for j, row in enumerate(rows) if j != 3]
      joined[2][1] += last[1]
      if last[6] not in ("0", "3"):
        joined[2][6] = last[6]
      rows = [[ids[r[0]], *r[1:6], ids[r[6]], *r[7:]] for r in joined]
    text += ["\t".join([*row[:8], "_", "_"]) + "\n" for row in rows]
    text.append("\n")
  return "".join(text)


def test_the_scores_are_those_of_udtools(tmp_path):
  gold = conllu.read(tiny_ud.UD / "ga-dev.conllu.gz")
  plain = "".join(
    "\t".join([*row[:8], "_", "_"]) + "\n" * (1 + (row is own.words[-1]))
    for own in gold
    for row in own.words
  )
  right = tmp_path / "gold.conllu"
  right.write_text(plain)
  found = tmp_path / "found.conllu"
  found.write_text(segmented(conllu.read(right)))
  own = raw_scores.score(conllu.read(right), raw_scores.read(found))
  official = udeval.evaluate(
    *(udeval.load_conllu_file(str(path)) for path in (right, found))
  )
  assert own == {name: 100 * official[name].f1 for name in raw_scores.METRICS}
  assert 0 < own["LAS"] < own["Words"] < 100


@pytest.mark.parametrize(
  ("change", "line", "words"),
  [
    (("7 toi", "7 moi"), 7, "after 'Ilvaaulac.Et' comes 'moi?', and in"),
    (("1 Il", "1 Elle"), 1, "gold.conllu:2: at the start comes 'Ellevaaulac"),
    (("7 toi toi", "7 toi\u200b toi"), 7, "comes '\\u200b?', and in"),
    (("8 ? ? PUNCT _ _ 2 punct _ _\n", ""), 7, "comes nothing more, and in"),
    (("8 ?", "8 ??"), 8, "comes '?', and in the gold file nothing more."),
  ],
)
def test_another_text(tmp_path, change, line, words):
  assert change[0] in ONE_SENTENCE
  with pytest.raises(UserError) as caught:
    score(tmp_path, ONE_SENTENCE.replace(*change))
  message = str(caught.value)
  assert words in message
  assert message.startswith(f"{tmp_path}/found.conllu:{line}: the text is")
  assert f"that of {tmp_path}/gold.conllu:" in message
  assert "Expected the same text" in message


def test_spaces_are_no_difference(tmp_path):
  found = tabs(ONE_SENTENCE).replace("\tlac\tlac", "\tl a\u00a0c\tlac")
  (tmp_path / "spaces.conllu").write_text(found)
  gold = read(tmp_path, GOLD)
  own = raw_scores.score(gold, raw_scores.read(tmp_path / "spaces.conllu"))
  assert own["Tokens"] == 100


@pytest.mark.parametrize(
  ("change", "line", "words"),
  [
    (("_ _ 0 root", "_ _ 1 root"), 1, "0 roots (HEAD 0), expected exactly one"),
    (("_ _ 7 cc", "_ _ 0 cc"), 6, "2 roots (HEAD 0), expected exactly one"),
    (("_ _ 2 obl", "_ _ 3 obl"), 3, "word 3 is its own ancestor"),
    (("_ _ 7 cc", "_ _ _ cc"), 6, "HEAD is '_', expected a number from 0 to 8"),
    (("_ _ 7 cc", "_ _ 9 cc"), 6, "HEAD is '9', expected a number from 0 to 8"),
    (("6 Et", "7 Et"), 6, "id '7', expected 6"),
  ],
)
def test_bad_trees(tmp_path, change, line, words):
  assert change[0] in ONE_SENTENCE
  with pytest.raises(UserError) as caught:
    read(tmp_path, ONE_SENTENCE.replace(*change))
  assert f"{tmp_path}/found.conllu:{line}: " in str(caught.value)
  assert words in str(caught.value)


def test_no_file_and_no_sentence(tmp_path):
  with pytest.raises(
    UserError, match=r"no file at .*/none; expected a CoNLL-U"
  ):
    raw_scores.read(tmp_path / "none")
  with pytest.raises(UserError, match="found.conllu:1: no sentence in this"):
    read(tmp_path, "")


def test_what_udtools_refuses_is_named(tmp_path):
  """It follows heads one call a word, and takes no comments in a sentence."""
  count = 3000
  chain = (f"{i} a a X _ _ {(i + 1) % count} dep _ _" for i in range(1, count))
  deep = read(
    tmp_path, "1 b b X _ _ 0 root _ _\n\n" + "\n".join([*chain, "\n"])
  )
  with pytest.raises(
    UserError, match=r":3: the sentence that begins.* 2,999 w"
  ):
    raw_scores.score(deep, deep)
  inside = read(tmp_path, ONE_SENTENCE.replace("3 au", "# here\n3 au"))
  with pytest.raises(UserError, match="found.conllu:1: udtools, which scores,"):
    raw_scores.score(inside, inside)
