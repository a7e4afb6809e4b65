"""Names in the plot stand inside the frame, on no other."""

from time_jax.bench.pipeline import frontier_plot


def content(count):
  """Models that are nearly alike, as students of one teacher are."""
  models, rows = [], []
  for i in range(count):
    name = f"student-{i}@int8"
    scores = {"UPOS": 90 + i / 10, "LAS": 80 + i / 5}
    models.append({"name": name, "scores": scores if i else None})
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
  assert shown[1:] == ["student-0@int8, without scores"]


def test_without_scores_there_is_nothing_to_draw():
  assert frontier_plot.figure(content(1), ["UPOS"]) is None
