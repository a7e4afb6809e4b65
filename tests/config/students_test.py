"""Students that a config names: what each has, and what none can have."""

import json
import pathlib

import pytest
from ml_collections import ConfigDict

from time_jax.cli import main
from time_jax.config import command_line, students
from time_jax.config.distill import check_config, default_config
from time_jax.config.fields import flatten
from time_jax.config.recorded import completed
from time_jax.core.errors import UserError
from time_jax.run import run_files

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = f"--config={ROOT}/configs/time.py"


def family(**parts):
  """A config of several students: their fields by name."""
  config = default_config()
  for name, fields in parts.items():
    config.students[name] = own = ConfigDict()
    for field, value in fields.items():
      *sections, last = field.split(".")
      place = own
      for section in sections:
        if section not in place:
          place[section] = ConfigDict()
        place = place[section]
      place[last] = value
  return config


def typed(*words, recipe=RECIPE):
  """What `distill` gets from a command line, after its checks."""
  line = ["distill", recipe, "--workdir=x", *(f"--config.{w}" for w in words)]
  command, rest = command_line.split(line, main.COMMANDS)
  values = command_line.parse(command, rest)
  check_config(values.config)
  return values


def refused(call, *args):
  with pytest.raises(UserError) as caught:
    call(*args)
  text = str(caught.value)
  assert "\n" not in text
  return text.removeprefix("bad configuration: ")


def test_one_student_has_the_very_config_of_the_run():
  config = default_config()
  found = students.effective(config)
  assert found == {"student": config} and found["student"] is config
  assert students.problems(config) == []
  assert students.typed_of("student", {"seed"}) == {"seed"}


def test_each_student_has_the_config_that_it_would_have_alone():
  config = family(
    xs={"student.hidden_size": 192, "train.peak_lr": 1, "teacher.layer": 3},
    m={"relations.weights.qk": 0.5, "student.seed": 5},
  )
  config.train.peak_lr = 2e-3
  config.data.max_tokens = config.train.get_ref("num_steps") * 7
  config.train.num_steps = 11
  config.data.train = ("a.txt",)
  found = students.effective(config)
  assert list(found) == ["m", "xs"]
  for name, fields in (
    (
      "xs",
      {"student.hidden_size": 192, "train.peak_lr": 1.0, "teacher.layer": 3},
    ),
    ("m", {"relations.weights.qk": 0.5, "student.seed": 5}),
  ):
    alone = default_config()
    alone.train.peak_lr = 2e-3
    alone.data.max_tokens = 77
    alone.train.num_steps = 11
    alone.data.train = ("a.txt",)
    alone.update_from_flattened_dict(fields)
    # As config.json has it: 1.0 is not 1 there.
    assert found[name].to_json(sort_keys=True) == alone.to_json(sort_keys=True)
    check_config(found[name])
  found["m"].train.warmup_steps = 1  # What one is fitted to is its own.
  assert found["xs"].train.warmup_steps == config.train.warmup_steps == 4000


@pytest.mark.parametrize(
  "field",
  [
    *("train.b1", "train.b2", "train.eps", "train.weight_decay", "train.ema"),
    *("train.peak_lr", "train.warmup_steps", "train.clip_norm", "train.dtype"),
    *("train.spike", "train.max_skipped", "train.changes", "teacher.layer"),
    *("student.dropout", "student.init_from", "student.seed"),
    *("relations.num_heads", "relations.weights.vk"),
    "relations.implementation",
  ],
)
def test_what_a_student_may_have_of_its_own(field):
  value = dict(flatten(default_config().to_dict()))[field]
  check_config(family(xs={field: value}, m={}))


@pytest.mark.parametrize(
  "field",
  [
    *("train.num_steps", "train.global_batch_size", "train.accumulation"),
    *("train.watchdog", "train.parallel", "teacher.path", "teacher.dtype"),
    *("data.seq_len", "mesh.fsdp", "checkpoint.every", "eval.every", "lang"),
  ],
)
def test_what_all_students_have_in_common(field):
  value = dict(flatten(default_config().to_dict()))[field]
  text = refused(check_config, family(xs={field: value}, m={}))
  assert text.startswith(
    f"students.xs.{field}: all students have the same; set {field}, or one of "
    "student.*, relations.*, hidden.*, teacher.layer, train.peak_lr, "
  )
  assert text.endswith(", train.changes, train.ema for xs alone.")
  assert refused(typed, f"students.xs.{field}={value}") == text


@pytest.mark.parametrize(
  ("field", "value", "text"),
  [
    (
      "seed",
      3,
      "students.xs.seed: it orders the text, which is common; expected "
      "students.xs.student.seed.",
    ),
    (
      "train.peak_lr",
      "fast",
      "students.xs.train.peak_lr='fast', expected a number.",
    ),
    (
      "student.num_layers",
      1.5,
      "students.xs.student.num_layers=1.5, expected a whole number.",
    ),
    (
      "student.num_layers",
      True,
      "students.xs.student.num_layers=True, expected a whole number.",
    ),
    (
      "student.init_from",
      3,
      "students.xs.student.init_from=3, expected a text.",
    ),
    (
      "train.peak_lr",
      None,
      "students.xs.train.peak_lr=None, expected a number.",
    ),
    (
      "train.peak_lr",
      -1,
      "students.xs: train.peak_lr=-1.0, expected a number from 1e-30 to 100.",
    ),
    (
      "train.changes",
      "5",
      "students.xs: train.changes='5' cannot be read; expected STEP:",
    ),
    (
      "student.max_positions",
      9,
      "students.xs: data.seq_len=512 is longer than the student's position ",
    ),
    (
      "train.peak_lrr",
      1.0,
      "students.xs: unknown field 'train.peak_lrr'; did you mean "
      "'train.peak_lr'? Known: train.b1, ",
    ),
    (
      "student",
      3,
      "students.xs: unknown field 'student'; known: student.attention_drop",
    ),
    ("students.y.seed", 3, "students.xs: unknown field 'students.y.seed'; d"),
  ],
)
def test_a_field_that_a_recipe_gives_a_student(field, value, text):
  assert refused(check_config, family(xs={field: value}, m={})).startswith(text)


@pytest.mark.parametrize(
  ("names", "text"),
  [
    (
      ["4x384", "m"],
      "students.4x384: expected a name of letters, digits and _, which begins "
      "with a letter, of at most 40.",
    ),
    (["a" * 41, "m"], "of at most 40."),
    (["a-b", "m"], "students.a-b: expected a name"),
    (["items", "m"], "students.items: this name is reserved; "),
    (["student", "m"], "students.student: this name is reserved; "),
    (
      ["m", "M"],
      "students.M and students.m would share a folder on some disks, expected "
      "names that differ in more than case.",
    ),
  ],
)
def test_names_that_no_students_can_have(names, text):
  assert text in refused(check_config, family(**{name: {} for name in names}))
  check_config(family(**{"a" * 40: {}, "A_9": {}}))


def test_students_that_cannot_share_a_run():
  config = family(m={}, xs={"student.num_layers": 2})
  config.train.parallel = "pmap"
  assert refused(check_config, config) == (
    "train.parallel='pmap' trains one student, not m, xs; expected 'jit'."
  )
  check_config(students.effective(config)["xs"])
  config = family(m={"teacher.layer": 19}, s={}, xs={"teacher.layer": 12})
  config.teacher.layer = 12
  check_config(config)
  config.teacher.path = "random"
  assert refused(check_config, config) == (
    "teacher.path='random' has other weights for each teacher.layer; expected "
    "one layer for m, s, xs, not 19 and 12."
  )


def test_what_is_wrong_for_all_is_said_once():
  config = family(m={}, xs={"train.peak_lr": -2.0})
  config.train.num_steps, config.train.peak_lr = 0, -1.0
  text = refused(check_config, config)
  assert text.split("; ") == [
    "train.num_steps=0, expected a whole number from 1 to 1,000,000,000",
    "train.peak_lr=-1.0, expected a number from 1e-30 to 100",
    "students.xs: train.peak_lr=-2.0, expected a number from 1e-30 to 100.",
  ]
  config.train.num_steps = 9
  config.students.m.train = ConfigDict({"peak_lr": 1e-3})
  config.students.xs.train.peak_lr = 1e-4
  check_config(config)  # Nobody has the common rate.


def test_a_students_field_by_command_line():
  values = typed(
    "students.xs.train.peak_lr=1e-3",
    "students.m.student.num_layers=1e1",
    "students.s={}",
    "train.peak_lr=2e-3",
  )
  found = students.effective(values.config)
  assert {
    name: (own.train.peak_lr, own.student.num_layers)
    for name, own in found.items()
  } == {"m": (2e-3, 10), "s": (2e-3, 6), "xs": (1e-3, 6)}
  changed = values.changed_fields
  assert students.typed_of("xs", changed) == {"train.peak_lr"}
  assert students.typed_of("m", changed) == {
    "student.num_layers",
    "train.peak_lr",
  }


def test_a_recipe_names_its_students():
  parts = {"xs": {"student.num_layers": 2, "train.peak_lr": 1}, "m": {}}
  config = default_config()
  students.name_students(config, parts)
  assert config.students.to_dict() == {
    "xs": {"student": {"num_layers": 2}, "train": {"peak_lr": 1.0}},
    "m": {},
  }
  for own, text in (
    ({"seed": 3}, "students.q.seed: it orders the text"),
    ({"student.num_layrs": 3}, "students.q: unknown field 'student.num_layrs'"),
  ):
    line = refused(students.name_students, default_config(), {"q": own})
    assert line.startswith(text)


@pytest.fixture
def recipe(tmp_path):
  """A recipe with the students m and xs, m's rate being half of that of all."""
  path = tmp_path / "recipe.py"
  path.write_text(
    "from time_jax.config import default_config\n"
    "from ml_collections import ConfigDict\n"
    "def get_config():\n"
    "  c = default_config()\n"
    "  half = c.train.get_ref('peak_lr') / 2\n"
    "  c.students.m = ConfigDict({'train': {'peak_lr': half}})\n"
    "  c.students.xs = ConfigDict({'train': {'peak_lr': 1}})\n"
    "  c.students.xs.student = ConfigDict({'num_layers': 2}).lock()\n"
    "  c.students.m.student = ConfigDict({'num_layers': 4})\n"
    "  c.students.lock()\n"
    "  return c\n"
  )
  return f"--config={path}"


def test_students_of_a_recipe_by_command_line(recipe):
  def rates(*words):
    found = students.effective(typed(*words, recipe=recipe).config)
    return {name: own.train.peak_lr for name, own in found.items()}

  assert rates() == {"m": 3e-4, "xs": 1}
  assert rates("train.peak_lr=4e-3") == {"m": 2e-3, "xs": 1}
  # Its value was a whole number, and m's follows that of all.
  assert rates("students.xs.train.peak_lr=1e-3") == {"m": 3e-4, "xs": 1e-3}
  assert rates("students.m.train.peak_lr=1e-3") == {"m": 1e-3, "xs": 1}
  values = typed("students.xs.student.seed=4", recipe=recipe)
  assert students.effective(values.config)["xs"].student.seed == 4
  assert values.config.students.m.to_dict().keys() == {"student", "train"}


@pytest.mark.parametrize(
  ("word", "text"),
  [
    (
      "students.xss.train.b1=0.5",
      "unknown student 'xss'; did you mean 'xs'? Known: m, xs.",
    ),
    ("students.q={}", "unknown student 'q'; known: m, xs."),
    (
      "student.num_layers=3",
      "--config.student.num_layers=3 changes nothing: m, xs each have their "
      "own; expected --config.students.NAME.student.num_layers.",
    ),
    (
      "students.xs.train.peak_lr=fast",
      "flag --config.students.xs.train.peak_lr=fast: expected a number.",
    ),
    ("students.xs.train.b9=1", "students.xs: unknown field 'train.b9'; did"),
    ("students.xs.student={}", "students.xs: unknown field 'student'; known: "),
    ("students.xs=3", "flag --config.students.xs=3: Failed to parse '3' as"),
    ("students={'xs': 3}", "students.xs=3, expected a section with fields "),
    ("students.xs.", "unknown config field 'students.xs.'; "),
    ("students", "Missing value for flag --config.students."),
  ],
)
def test_what_cannot_be_typed_for_the_students_of_a_recipe(recipe, word, text):
  line = refused(lambda: typed(word, recipe=recipe))
  assert line.startswith(text), line


def test_other_tasks_have_no_students(capsys):
  words = "finetune", "ud", f"--config={ROOT}/configs/ud.py", "--workdir=x"
  assert main.main([*words, "--config.students.xs.epochs=3"]) == 2
  assert "unknown config field 'students.xs.epochs'" in capsys.readouterr().err


def test_a_recorded_config_with_students(tmp_path):
  """Each student has a config of its own; that of all is of the run alone."""
  config = family(xs={"student.seed": 5}, m={"train.ema": 0.5})
  own = students.effective(config)["xs"]
  (tmp_path / "config.json").write_text(own.to_json())
  assert run_files.read_config(tmp_path).student.seed == 5
  content = json.loads(config.to_json())
  (tmp_path / "config.json").write_text(json.dumps(content))
  assert "holds the students m, xs" in refused(run_files.read_config, tmp_path)
  again = students.effective(ConfigDict(completed(content)))
  assert (again["xs"].student.seed, again["m"].train.ema) == (5, 0.5)
  (tmp_path / "config.json").write_text(json.dumps(content | {"students": 3}))
  assert "such as students." in refused(run_files.read_config, tmp_path)
