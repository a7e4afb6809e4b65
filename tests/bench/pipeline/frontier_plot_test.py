"""Names in the plot stand inside the frame, on no other."""

from time_jax.bench.pipeline import frontier_plot


def model(name, plain, engine="jax", dtype="float32", scores=None):
  return {
    "name": name,
    "plain_name": plain,
    "engine": engine,
    "dtype": dtype,
    "scores": scores,
  }


def content(count):
  """Models that are nearly alike, as students of one teacher are."""
  models, rows = [], []
  for i in range(count):
    name = f"student-{i}@int8"
    scores = {"UPOS": 90 + i / 10, "LAS": 80 + i / 5}
    models.append(model(name, name, scores=scores if i else None))
    rows.append({"model": name, "cores": 1, "words_s": 1000 * (1 + i / 9)})
  return {"models": models, "rows": rows}


def test_names_cover_nothing():
  from matplotlib.text import Text

  drawn = frontier_plot.figure(content(9), ["UPOS", "LAS"])
  drawn.draw_without_rendering()
  for axes in drawn.axes:
    frame = axes.get_window_extent()
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(boxes) == 8
    for i, box in enumerate(boxes):
      assert frame.x0 < box.x0 < box.x1 < frame.x1
      assert frame.y0 < box.y0 < box.y1 < frame.y1
      assert not any(box.overlaps(other) for other in boxes[:i])
  (legend,) = drawn.legends
  shown = [text.get_text() for text in legend.get_texts()]
  assert shown[0] == "jax, float32"
  assert shown[2:] == ["student-0@int8, without scores"]


def test_a_model_has_one_name_and_a_marker_for_each_engine():
  models = [
    model("a", "a", scores={"LAS": 80}),
    model("a/int8", "a", "onnxruntime", "int8", {"LAS": 79}),
    model("fr_sm", "fr_sm", "spacy", scores={"LAS": 85}),
  ]
  rows = [
    {"model": own["name"], "cores": cores, "words_s": 1000.0 + 100 * i}
    for cores in (1, 2)
    for i, own in enumerate(models)
    if cores == 1 or own["engine"] != "spacy"
  ]
  drawn = frontier_plot.figure({"models": models, "rows": rows}, ["LAS"])
  one, two = drawn.axes
  assert [text.get_text() for text in one.texts] == ["a", "fr_sm"]
  assert [text.get_text() for text in two.texts] == ["a"]
  assert one.texts[0].xy == (1000, 80)
  points = {
    line.get_label(): (line.get_xydata().tolist(), line.get_marker())
    for line in one.lines
    if line.get_marker() != "None"
  }
  assert points["onnxruntime, int8"][0] == [[1100, 79]]
  assert len({marker for _, marker in points.values()}) == 3
  joined = [line.get_xydata().tolist() for line in one.lines]
  assert [[1000, 80], [1100, 79]] in joined
  # spaCy is named once, though one panel is without it.
  (legend,) = drawn.legends
  shown = [text.get_text() for text in legend.get_texts()]
  assert {*points} < {*shown} and len({*shown}) == len(shown)


def test_without_scores_there_is_nothing_to_draw():
  assert frontier_plot.figure(content(1), ["UPOS"]) is None
