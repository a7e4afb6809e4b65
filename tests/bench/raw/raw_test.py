"""Pipelines of spaCy are measured from raw text on."""

import json

import served
import spacy
import tiny_split

from time_jax.bench.raw import raw
from time_jax.cli.main import main
from time_jax.evals.ud import conllu


def test_documents_have_all_words(tmp_path):
  path = tiny_split.write_treebank(tmp_path / "gold.conllu", 0, count=25)
  sentences = conllu.read(path)
  documents = raw.make_documents(sentences, 10)
  assert [len(d.sentences) for d in documents] == [10, 10, 5]
  words = [word for s in sentences for word in s.column("FORM")]
  assert [word for d in documents for word in d.words] == words


def test_ours_beside_another(mesh, tmp_path, capsys):
  (tmp_path / "split").mkdir()
  parts = [served.export("split", tmp_path / "split", mesh)]
  ours = served.pipeline_of(parts, tmp_path)
  other = tmp_path / "other"
  spacy.blank("fr").to_disk(other)
  gold = tiny_split.write_treebank(tmp_path / "gold.conllu", 0, count=12)
  words = ["bench", "raw", str(ours), str(other), f"--gold={gold}"]
  out = tmp_path / "raw.json"
  assert not main([*words, "--cores=2", "--repeats=1", f"--json={out}"])
  printed = capsys.readouterr().out
  assert "2 documents, " in printed and "from raw text in memory" in printed
  content = json.loads(out.read_text())
  rows = [(row["pipeline"], row["processes"]) for row in content["rows"]]
  assert rows == [(str(name), n) for name in (ours, other) for n in (1, 2)]
  first, second, *_ = content["rows"]
  assert first["to_first"] == 1 and second["words_s"] > 0
  assert first["alone_s"]["n"] == 2 and first["peak_bytes"] > 1e6


def test_what_is_wrong(tmp_path, capsys):
  gold = tiny_split.write_treebank(tmp_path / "gold.conllu", 0, count=2)
  for words, told in (
    (["x_not_there"], "x_not_there: spaCy has no such pipeline"),
    (["a", "a"], "a is given twice; expected it once"),
  ):
    assert main(["bench", "raw", *words, f"--gold={gold}", "--cores=1"])
    assert told in capsys.readouterr().err
