"""Which points one run may distil, and the words by which it does."""

import pytest
import running

from time_jax.cli import main
from time_jax.config.fields import flatten
from time_jax.config.students import effective, is_name, typed_of
from time_jax.sweeps import alike, grid, joint, stages
from time_jax.sweeps.points import make_points

GROUPS = [["1 0", "2 0"], ["1 1", "2 1"]]
ALL = [["1 0", "1 1", "2 0", "2 1"]]
ONLY_FIRST = GROUPS[:1]


@pytest.fixture
def recipe(tiny):
  return f"--config={running.ROOT}/tests/support/tiny_recipe.py:{tiny}"


def points_of(sweep, workdir):
  points = make_points(sweep, workdir, main.COMMANDS)
  return points, {point.name: stages.Record(point) for point in points}


@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    ((), ALL),
    (["--config.student.seed=4", "--config.train.peak_lr=1e-3"], ALL),
    (["--config.teacher.layer=1", "--config.relations.num_heads=2"], ALL),
    (["--config.seed=5"], GROUPS),
    (["--config.data.train=('other.txt',)"], GROUPS),
    (["--config.data.folder=other"], GROUPS),
    (["--config.data.seq_len=16"], GROUPS),
    (["--config.train.num_steps=31"], GROUPS),
    (["--profile=1:2"], GROUPS),
    (["--config.train.parallel=pmap"], ONLY_FIRST),
    (["--config.students.a.train.ema=0.5"], ONLY_FIRST),
    # Of what another point makes, and of what stands in its way.
    (["--config.student.init_from={run}/layers=1_x=0/student"], ONLY_FIRST),
    (["--workdir={run}/elsewhere"], ONLY_FIRST),
    (["--workdir={folder}"], ONLY_FIRST),
    (["--workdir={folder}/a/../student"], ONLY_FIRST),
    (["before", "prepare", "{recipe}", "--workdir={place}"], ONLY_FIRST),
    (["before", "prepare", "{recipe}", "--workdir={folder}/x"], ALL),
    (["before", "choose", "--workdir={place}.x"], ALL),
    (["before", "choose", "--workdir={run}/layers=1_x=0/y"], ONLY_FIRST),
    (["before", "distill", "{recipe}", "--workdir={folder}/x"], ONLY_FIRST),
  ],
)
def test_which_points_may_share_a_run(recipe, tmp_path, flags, expected):
  def make(folder, layers, x):
    place = folder / "student"
    words = ["distill", recipe, f"--config.student.num_layers={layers}"]
    commands = [[*words, f"--workdir={place}"]]
    if x:
      known = dict(run=folder.parent, folder=folder, place=place, recipe=recipe)
      more = [flag.format(**known) for flag in flags]
      if more[:1] == ["before"]:
        commands.insert(0, more[1:])
      else:
        commands[0] += more
    return commands

  made = grid.Sweep({"layers": (1, 2), "x": (0, 1)}, make, x="x")
  found = alike.alike(*points_of(made, tmp_path), tmp_path)
  assert [
    [" ".join(map(str, point.values.values())) for point in part]
    for part in found
  ] == expected


def test_what_lies_elsewhere_or_was_begun_is_alone(recipe, tmp_path):
  def make(folder, x):
    return [["distill", recipe, f"--workdir={folder}/student"]]

  (tmp_path / "disk").mkdir()
  (tmp_path / "x=1").symlink_to("disk")
  (tmp_path / "x=2" / "student").mkdir(parents=True)
  (tmp_path / "x=3").mkdir()
  (tmp_path / "x=3" / "student").symlink_to("../../other")
  (tmp_path / "x=4").mkdir()
  made = grid.Sweep({"x": (1, 2, 3, 4, 5)}, make, x="x")
  found = alike.alike(*points_of(made, tmp_path), tmp_path)
  assert [[p.values["x"] for p in part] for part in found] == [[4, 5]]


def test_the_layer_of_a_random_teacher_is_common(tmp_path):
  recipe = f"--config={running.ROOT}/configs/xlmr_random.py"

  def make(folder, layer, width):
    words = ["distill", recipe, f"--config.teacher.layer={layer}"]
    words += [f"--config.student.intermediate_size={width}"]
    return [[*words, f"--workdir={folder}/student"]]

  made = grid.Sweep({"layer": (1, 2), "width": (8, 16)}, make, x="width")
  found = alike.alike(*points_of(made, tmp_path), tmp_path)
  assert [[p.values["layer"] for p in part] for part in found] == [
    [1, 1],
    [2, 2],
  ]


@pytest.mark.parametrize(
  ("count", "together", "sizes"),
  [
    (8, 8, [8]),
    (9, 8, [5, 4]),
    (17, 8, [6, 6, 5]),
    (4, 3, [2, 2]),
    (2, 1, [1, 1]),
  ],
)
def test_parts_are_few_and_of_one_size(count, together, sizes):
  parts = alike.split(range(count), together)
  assert [*map(len, parts)] == sizes
  assert [x for part in parts for x in part] == [*range(count)]


def test_each_student_is_trained_as_its_point_would_be(recipe, tiny, tmp_path):
  """Whatever the recipes and the words of the points are."""
  other = tmp_path / "other.py"
  other.write_text(
    "from tests.support import tiny_recipe\n"
    "def get_config(folder):\n"
    "  config = tiny_recipe.get_config(folder)\n"
    "  config.student.dropout = 0.25\n"
    "  config.student.layer_norm_eps = 1e-5\n"
    "  config.relations.weights.qk = 1e-7\n"
    "  return config\n"
  )
  words = {
    "a=1": ["--config.student.num_layers", "1", "--config.train.ema=0.5"],
    "A=1": [f"--config={other}:{tiny}"],
    "b.c-d+e": ["--config.train.changes=12:peak_lr=0.0003;20:spike=6"],
    "like the rest": ["--config.seed=21"],
    "0": ["--config.train.warmup_steps=5", "--config.seed=21"],
    "größe=" + 40 * "9": ["--config.teacher.layer=1"],
  }

  def make(folder, name):
    rest = words[name]
    if not rest[0].startswith("--config="):
      rest = [recipe, *rest]
    return [["distill", *rest, "--workdir", f"{folder}/x"]]

  made = grid.Sweep({"name": tuple(words)}, make, x="latency")
  points, records = points_of(made, tmp_path)
  (found,) = alike.alike(points, records, tmp_path)
  named = joint.named(found)
  assert len(named) == len(words) and all(map(is_name, named))
  assert len({name.lower() for name in named}) == len(words)
  group = joint.make(tmp_path / "joint-1", named, main.COMMANDS["distill"])
  values = group.stage.values
  assert values.workdir == tmp_path / "joint-1"
  assert effective(values.config).keys() == named.keys()
  for name, config in effective(values.config).items():
    asked = named[name].stages[0].values
    assert dict(flatten(config.to_dict())) == dict(
      flatten(asked.config.to_dict())
    )
    own = {f for f in asked.changed_fields if f != "seed"}
    assert own <= typed_of(name, values.changed_fields)
