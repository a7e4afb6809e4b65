"""The tables of `bench pipeline`."""

import re
import types

from time_jax.bench.pipeline import int8_cost, rows, tables


def test_a_table_of_speeds_fits_a_screen():
  names = ["xs", "xs/onnxruntime", "random:xlmr-large", "fr_core_news_sm"]
  spread = {"p50": 0.2975, "p90": 0.3499, "p99": 0.3617}
  found = [
    {
      "model": name,
      "cores": 1,
      "words_s": 10_497.4,
      "sentences_s": 476.6,
      "latency_s": {"1": spread, "32": {"p50": 4.365}},
      "over_encoder": 1.33,
      "peak_bytes": 3.068e9,
      "first_answer_s": {"cold": 21.0, "warm": 17.0},
      "energy": {"method": "RAPL", "joules_per_word": 0.01234},
      "to_first": {"file": 0.045, "1": 0.0572, "32": 0.047},
    }
    for name in names
  ]
  found[-1]["energy"] = {"method": "no RAPL"}
  sample = rows.Sample([types.SimpleNamespace(words=["a", "b"])], {})
  printed = tables.speeds(found, sample)
  assert max(map(len, printed.splitlines())) <= 120
  header, *lines = (
    re.split(r" {2,}", line) for line in printed.splitlines()[3:8]
  )
  table = [dict(zip(header, line, strict=True)) for line in lines]
  assert [row["model"] for row in table] == names
  assert [row["mJ"] for row in table] == ["12.3"] * 3 + ["-"]
  assert (table[0]["1: p99"], table[0]["x 1"]) == ("361.7", "0.0572")
  for row in found:
    row["energy"] = {"method": "no RAPL"}
  assert "mJ" not in tables.speeds(found, sample)


def test_what_8_bits_cost():
  def model(name, plain, dtype, **scores):
    own = {"name": name, "plain_name": plain, "dtype": dtype}
    return own | {"scores": scores}

  models = [
    model("b", "b", "float32", LAS=90),
    model("a/onnxruntime", "a", "float32", UAS=90, LAS=80.5, F1=None),
    model("a/int8", "a", "int8", UAS=90.25, LAS=80, F1=1),
    model("c/int8", "c", "int8", LAS=70),
  ]
  costs = [int8_cost.points(own, models) for own in models]
  points = {"UAS": 0.25, "LAS": -0.5}
  assert costs == [
    None,
    None,
    {"model": "a/onnxruntime", "points": points},
    None,
  ]
  line = int8_cost.in_words(
    models[2] | {"against_float32": costs[2]}, ["LAS", "UAS", "F1"]
  )
  assert line == "a/int8 against a/onnxruntime: LAS -0.50, UAS +0.25 points"
