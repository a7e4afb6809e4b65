"""Addresses such as gs://... are refused wherever a path is expected."""

import pytest
import running

from time_jax.cli import main
from time_jax.data.sources import Source


@pytest.mark.parametrize(
  "words",
  [
    "prepare --config={recipe} --workdir=gs://x",
    "distill --config={recipe} --workdir=gs://x",
    "distill --config={recipe} --config.data.folder=gs://x --workdir={run}",
    "prepare --config={recipe} --config.data.folder=gs://x --workdir={run}",
    "distill --config={recipe} --config.teacher.path=gs://x --workdir={run}",
    "prepare --config={recipe} --config.data.train=('gs://x',) --workdir={run}",
    "trim --teacher={tiny}/teacher --text=gs://x --out={run}",
    "trim --teacher={tiny}/teacher --text={tiny}/train.jsonl --out=gs://x",
    "import gs://x --workdir={run}",
    "import {tiny}/teacher --workdir=gs://x",
    "finetune ud --config=configs/ud.py:model=m,train=gs://x,dev=d "
    "--workdir={run}",
    "finetune ud --config=configs/ud.py:model=m,train=t,dev=d --workdir=gs://x",
    "export --workdir=gs://x",
    "export --workdir={run} --out=gs://x",
    "choose --workdir=gs://x",
    "status gs://x",
    "verify gs://x",
    "predict gs://x",
    "inspect gs://x",
    "report {run} --out=gs://x",
    "sweep gs://x --workdir={run}",
    "sweep {tiny}/teacher --workdir=gs://x",
    "sweep {tiny}/teacher --workdir={run} --results=gs://x",
    "doctor --workdir=gs://x",
  ],
)
def test_an_address_is_no_path(capsys, monkeypatch, tiny, tmp_path, words):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "configs").symlink_to(running.ROOT / "configs")
  recipe = f"{running.ROOT}/tests/support/tiny_recipe.py:{tiny}"
  given = words.format(tiny=tiny, recipe=recipe, run=tmp_path / "run")
  assert main.main(given.split()) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("time_jax: error: gs://x is an address; expected a pa")
  assert not list(tmp_path.glob("gs*"))


@pytest.mark.parametrize(
  "words",
  [
    "prepare --config=~nobody-here/recipe.py --workdir=run",
    "prepare --config={recipe} --workdir=~nobody-here/run",
    "sweep ~nobody-here/sweep.py --workdir=run",
    "status ~nobody-here/run",
  ],
)
def test_the_home_folder_of_a_user_who_is_not_there(capsys, tiny, words):
  recipe = f"{running.ROOT}/tests/support/tiny_recipe.py:{tiny}"
  assert main.main(words.format(recipe=recipe).split()) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("time_jax: error: ~nobody-here/")


@pytest.mark.parametrize(
  "source", ["tfds:wiki40b/da", "hf:owner/name/da/*.txt", "/a/b.txt#t", "a:b"]
)
def test_other_forms_of_sources_stay(source):
  assert Source.parse(source)
