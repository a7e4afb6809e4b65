"""Fields, what they may be, and the recipes that set them."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from time_jax.catalog import corpora, languages, teachers
from time_jax.cli import commands
from time_jax.config import command_line, ranges, students
from time_jax.config import finetune as recipe_fields
from time_jax.config.distill import (
  RANGES,
  STUDENT_SIZES,
  check_config,
  default_config,
  missing_fields,
)
from time_jax.config.fields import flatten
from time_jax.config.hidden import pairs
from time_jax.core.errors import UserError
from time_jax.run import assembly

ROOT = pathlib.Path(__file__).parents[2]


def changed(**fields):
  config = default_config()
  config.update_from_flattened_dict(
    {name.replace("__", "."): value for name, value in fields.items()}
  )
  return config


def recipe(name, arguments=None):
  path = ROOT / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(f"configs_{name}", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(*([] if arguments is None else [arguments]))
  return module, config


def test_defaults_are_the_published_recipe():
  config = default_config()
  check_config(config)
  train = config.train
  assert (train.num_steps, train.global_batch_size) == (200_000, 256)
  assert (train.peak_lr, train.warmup_steps) == (6e-4, 4000)
  assert (train.b1, train.b2, train.eps) == (0.9, 0.999, 1e-6)
  assert (train.weight_decay, train.clip_norm) == (0.01, 1.0)
  assert (config.data.seq_len, config.student.dropout) == (512, 0.1)
  assert assembly.relation_weights(config) == {"qq": 1, "kk": 1, "vv": 1}


def test_a_misspelt_field_cannot_be_set():
  with pytest.raises(AttributeError, match="stps"):
    default_config().train.stps = 3


@pytest.mark.parametrize("name", ["paper", "quickstart", "time", "xlmr_random"])
def test_recipes_have_every_field_and_pass_the_check(name):
  _, config = recipe(name)
  check_config(config)
  assert missing_fields(config.to_dict()) == []


@pytest.mark.parametrize("code", ["en", "da", "ga", "ur", "zho_Hant"])
def test_every_combination_of_the_recipe_of_the_paper(code):
  module, _ = recipe("paper")
  language = languages.find(code)
  seen = set()
  for size in STUDENT_SIZES:
    for name, teacher in teachers.teachers_of(language).items():
      for corpus, text in corpora.text_of(language).items():
        arguments = f"lang={code},size={size},teacher={name},corpus={corpus}"
        config = module.get_config(arguments)
        check_config(config)
        assert config.lang == language.tag
        assert config.data.train == (text,)
        assert config.data.validation == (corpora.held_out_text(language),)
        assert config.teacher.path == teacher.path
        assert config.teacher.layer == teacher.layer
        widths = config.student.hidden_size, teacher.width, teacher.key_width
        assert not any(width % config.relations.num_heads for width in widths)
        seen.add((config.teacher.path, size, text))
  assert len(seen) >= 3 * 9 * 1


def test_the_recipe_without_arguments_is_that_of_the_paper():
  _, config = recipe("paper")
  assert (config.lang, config.student.hidden_size) == ("en", 768)
  assert config.teacher.path == "FacebookAI/xlm-roberta-large"
  assert (config.teacher.layer, config.relations.num_heads) == (19, 64)
  assert "CulturaX/en/" in config.data.train[0]
  assert config.data.max_tokens == 200_000 * 256 * 512


@pytest.mark.parametrize(
  ("teacher", "size", "layer", "num_heads"),
  [
    ("mbert", "m", 8, 12),
    ("xlmr_base", "m", 8, 12),
    ("xlmr_base", "s", 8, 6),  # The teacher is wider.
    ("xlmr_large", "m", 16, 12),
    ("xlmr_large", "xs", 16, 6),
    ("mdeberta", "m", None, 12),  # of another architecture
  ],
)
def test_our_recipe_begins_with_a_teacher_that_fits(
  teacher, size, layer, num_heads
):
  arguments = f"lang=da,size={size},teacher={teacher}"
  (_, paper), (_, ours) = recipe("paper", arguments), recipe("time", arguments)
  check_config(ours)
  before, after = (dict(flatten(config.to_dict())) for config in (paper, ours))
  changed = {n: value for n, value in after.items() if value != before[n]}
  if layer:
    assert changed.pop("teacher.layer") == layer
    assert changed.pop("student.init_from") == "teacher:spaced"
    assert changed.pop("train.peak_lr") == 1e-3
    assert changed.pop("hidden.weight") == 1
    assert changed.pop("hidden.projection") == "start"
    assert changed.pop("student.num_heads", 12) == num_heads
    assert pairs(ours) == ((ours.student.num_layers, layer),)
    zeros = {"student.dropout", "student.attention_dropout"}
    zeros |= {f"relations.weights.{x}{x}" for x in "qkv"}
    assert changed.keys() == zeros and not any(changed.values())
  else:
    assert not changed


@pytest.mark.parametrize(
  ("change", "begins"),
  [
    ({}, {"xs": ((4, 5),), "s": ((6, 7),)}),
    ({"num_hidden_layers": 6}, {"xs": ((4, 5),)}),
    ({"hidden_act": "gelu_new"}, {}),
    ({"intermediate_size": 768}, {}),
    ({"max_position_embeddings": 256}, {}),
    ({"model_type": "electra", "embedding_size": 384}, {}),
  ],
)
def test_our_recipe_begins_with_a_teacher_of_the_users_own(
  tmp_path, change, begins
):
  """If it has more layers, of the usual kind and sizes; m is wider than it."""
  content = {
    **{"model_type": "bert", "vocab_size": 99, "hidden_size": 384},
    **{"num_hidden_layers": 7, "num_attention_heads": 6, "hidden_act": "gelu"},
    **{"intermediate_size": 1536, "max_position_embeddings": 512},
  }
  (tmp_path / "config.json").write_text(json.dumps(content | change))
  arguments = f"teacher={tmp_path},corpus=own"
  _, config = recipe("time", f"{arguments},size=m+s+xs")
  check_config(config)
  for size, own in students.effective(config).items():
    assert pairs(own) == begins.get(size, ())
    if size in begins:
      assert own.student.num_heads == 6
      continue
    _, paper = recipe("paper", f"{arguments},size={size}")
    assert own.to_json(sort_keys=True) == paper.to_json(sort_keys=True)


@pytest.mark.parametrize(
  ("flags", "limit"),
  [
    ((), 200_000 * 256 * 512),
    (("--config.train.num_steps=100",), 100 * 256 * 512),
    (
      ("--config.data.seq_len=64", "--config.train.global_batch_size=8"),
      200_000 * 8 * 64,
    ),
    (("--config.train.num_steps=100", "--config.data.max_tokens=7"), 7),
  ],
)
def test_text_is_as_long_as_the_steps_that_are_done(flags, limit):
  words = [f"--config={ROOT}/configs/time.py", "--workdir=run", *flags]
  parsed = command_line.parse(commands.COMMANDS["distill"], words)
  assert parsed.config.data.max_tokens == limit
  assert json.loads(parsed.config.to_json())["data"]["max_tokens"] == limit


def test_the_recipe_with_the_teacher_of_the_language():
  _, config = recipe("time", "lang=ga,size=xs,teacher=hplt,corpus=fineweb2")
  assert config.teacher.path == "HPLT/hplt_bert_base_2_0_gle-Latn"
  assert (config.teacher.layer, config.relations.num_heads) == (12, 48)
  assert config.data.train == (
    "hf:HuggingFaceFW/fineweb-2/data/gle_Latn/train/*.parquet#text",
  )


@pytest.mark.parametrize("code", ["tzm_Tfng", "da", "ga"])
def test_the_recipe_for_text_of_the_users_own_asks_for_no_other(code):
  _, config = recipe("time", f"lang={code},corpus=own")
  assert config.data.train == config.data.validation == ()


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ("lang=xx", "unknown language 'xx'"),
    ("size=xl", "unknown size 'xl'; known: m, s, xs."),
    ("lang=ur,teacher=hplt", "hplt_v1; others by their folder or hub id."),
    ("lang=da,teacher=gbert_large", "is for de; for Danish (da) there are "),
    ("teacher=gpt", "unknown teacher 'gpt'; for English (en) there are "),
    ("lang=zu", "has no Zulu that we know of; Zulu (zu) is in fineweb2, hplt"),
    ("corpus=c4", "unknown corpus 'c4'; known: culturax, "),
  ],
)
def test_what_the_recipe_cannot_resolve(arguments, words):
  with pytest.raises(UserError) as caught:
    recipe("time", arguments)
  assert words in str(caught.value)
  assert "\n" not in str(caught.value)


def test_the_recipe_with_a_teacher_of_the_users_own(tiny, tmp_path):
  place = tiny / "teacher"
  _, config = recipe("time", f"lang=da,size=xs,teacher={place},corpus=own")
  assert config.teacher.path == str(place)
  # The last of its layers; R divides 32 and 384.
  assert (config.teacher.layer, config.relations.num_heads) == (3, 32)
  config.data.seq_len = 64
  assembly.teacher_config(config)
  # One of `trim` is distilled as what it was made of.
  content = json.loads((place / "config.json").read_text())
  content |= {"num_hidden_layers": 24, "hidden_size": 1024}
  (tmp_path / "config.json").write_text(json.dumps(content))
  record = {"teacher": "FacebookAI/xlm-roberta-large@main"}
  (tmp_path / "trim.json").write_text(json.dumps(record))
  _, config = recipe("time", f"size=s,teacher={tmp_path}")
  assert (config.teacher.layer, config.relations.num_heads) == (19, 64)
  _, config = recipe("time", "teacher=HPLT/hplt_bert_base_2_0_dan-Latn")
  assert config.teacher.path == "HPLT/hplt_bert_base_2_0_dan-Latn"
  assert (config.teacher.layer, config.relations.num_heads) == (12, 48)
  with pytest.raises(UserError, match="no model folder at '/not/there'"):
    recipe("time", "teacher=/not/there")


def test_relation_heads_that_do_not_divide_a_student(monkeypatch):
  module, _ = recipe("paper")
  monkeypatch.setitem(STUDENT_SIZES, "odd", {"hidden_size": 312})
  with pytest.raises(UserError, match="64 relation heads .*hidden_size 312"):
    module.get_config("size=odd")


@pytest.mark.parametrize("name", ["paper", "xlmr_random"])
def test_several_sizes_of_one_teacher(name):
  _, config = recipe(name, "size=s+m+xs")
  check_config(config)
  found = students.effective(config)
  assert list(found) == ["m", "s", "xs"]
  for size, own in found.items():
    _, alone = recipe(name, f"size={size}")
    assert own.to_json(sort_keys=True) == alone.to_json(sort_keys=True)
  # Layer and R are common, so that they can be changed for all at once.
  assert {*config.students.s} == {"student"}
  # One of several is as if nobody else were named.
  _, alone = recipe(name, "size=s")
  assert not alone.students.to_dict()
  assert config.student == alone.student


def test_sizes_that_need_other_relation_heads(monkeypatch, tiny):
  """A teacher of one's own has the R that its width and a student's allow."""
  module, _ = recipe("paper")
  odd = STUDENT_SIZES["s"] | {"hidden_size": 312, "num_heads": 8}
  monkeypatch.setitem(STUDENT_SIZES, "odd", odd)
  place = f"teacher={tiny}/teacher,corpus=own"
  config = module.get_config(f"size=m+odd+xs,{place}")
  assert config.students.odd.to_dict() == {
    "student": odd,
    "relations": {"num_heads": 8},
  }
  xs = STUDENT_SIZES["xs"] | {"num_heads": 12}
  assert config.students.xs.to_dict() == {"student": xs}
  assert config.relations.num_heads == 32


@pytest.mark.parametrize(
  ("sizes", "words"),
  [
    ("m+m", "size=m+m names a size twice; expected each once."),
    ("m+xl", "unknown size 'xl'; known: m, s, xs."),
    ("m+", "unknown size ''; known: m, s, xs."),
    ("", "unknown size ''; known: m, s, xs."),
  ],
)
@pytest.mark.parametrize("name", ["paper", "time", "xlmr_random"])
def test_sizes_that_no_recipe_has(name, sizes, words):
  with pytest.raises(UserError) as caught:
    recipe(name, f"size={sizes}")
  assert str(caught.value) == f"configs/{name}.py: {words}"


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    (
      {"train__num_steps": -1},
      "num_steps=-1, expected a whole number from 1 to 1,000,000,000.",
    ),
    ({"train__peak_lr": -0.1}, "peak_lr=-0.1, expected a number from 1e-30 to"),
    ({"train__peak_lr": float("nan")}, "train.peak_lr=nan, expected a number"),
    ({"train__peak_lr": float("inf")}, "train.peak_lr=inf, expected a number"),
    ({"train__weight_decay": float("nan")}, "train.weight_decay=nan, expected"),
    ({"train__eps": 0.0}, "train.eps=0.0, expected a number from 1e-20 to 1."),
    ({"train__eps": 1e-50}, "train.eps=1e-50, expected a number from 1e-20"),
    ({"train__num_steps": True}, "train.num_steps=True, expected a whole"),
    ({"train__num_steps": None}, "train.num_steps=None, expected a whole"),
    ({"seed": 2**63}, "seed=9223372036854775808, expected a whole number"),
    ({"data__prefetch": 0}, "prefetch=0, expected a whole number from 1 to"),
    ({"checkpoint__every": 0}, "checkpoint.every=0, expected a whole number"),
    ({"student__dropout": 1.0}, "dropout=1.0, expected a number from 0 to 0.9"),
    ({"train__b2": 0.99999999}, "train.b2=0.99999999, expected a number from"),
    ({"train__dtype": "int8"}, "'int8', expected one of bfloat16, float32"),
    ({"data__packing": "x"}, "data.packing='x', expected one of pack, none"),
    ({"teacher__loader": "x"}, "'x', expected one of own, flax"),
    ({"train__parallel": "x"}, "'x', expected one of jit, pmap"),
    ({"data__train": (3,)}, "data.train=(3,), expected texts such as ('text"),
    ({"data__validation": ("a", None)}, "data.validation=('a', None), exp"),
    ({"data__seq_len": 513}, "longer than the student's position table"),
  ],
)
def test_a_value_that_no_run_could_use(fields, words):
  with pytest.raises(UserError) as caught:
    check_config(changed(**fields))
  assert words in str(caught.value)
  assert ";" not in str(caught.value)


def test_all_problems_come_at_once():
  config = changed(train__num_steps=0, train__eps=-1.0, teacher__dtype="x")
  with pytest.raises(UserError) as caught:
    check_config(config)
  text = str(caught.value)
  assert text.count(";") == 2
  assert all(x in text for x in ("num_steps", "train.eps", "teacher.dtype"))


def test_every_number_has_a_range_and_every_range_a_number():
  recipes = {
    "distill": (RANGES, [default_config()]),
    "finetune": (
      recipe_fields.RANGES,
      [
        recipe_fields.ud_config(),
        recipe_fields.ner_config(),
        recipe_fields.qa_config(),
      ],
    ),
  }
  for known, configs in recipes.values():
    numbers = {}
    for config in configs:
      for name, value in flatten(config.to_dict()):
        first = value[0] if isinstance(value, tuple) and value else value
        if isinstance(first, int | float) and not isinstance(first, bool):
          numbers[name] = first
    assert numbers.keys() == known.keys()
    for name, default in numbers.items():
      assert default in known[name], name
      assert known[name].whole == isinstance(default, int), name
      assert np.float32(known[name].highest) < np.inf, name
      if not known[name].whole and known[name].highest < 1:
        assert np.float32(known[name].highest) < 1, name


def test_elements_of_a_tuple_have_a_range():
  assert ranges.out_of_range({"seeds": (0, -1)}, recipe_fields.RANGES) == [
    "seeds=(0, -1), expected whole numbers from 0 to 9,223,372,036,854,775,807"
  ]
  for odd in (("a",), (True,), [1.5]):
    assert ranges.out_of_range({"seeds": odd}, recipe_fields.RANGES), odd


def test_a_mesh_may_be_negative():
  check_config(changed(mesh__data=-1, mesh__fsdp=2))
