"""A student of a trimmed teacher is a student like any other, only smaller."""

import json

import alone
import running
import tiny_multilingual
import tiny_tokenizers
import transformers


def test_trim_distil_export_verify(teachers, tmp_path):
  """Both classes, of a teacher with XLM-R's padding id and positions."""
  whole, size = teachers("xlm_roberta"), tiny_multilingual.SIZE
  teacher, workdir = tmp_path / "teacher", tmp_path / "run"
  text = tiny_tokenizers.TEXT / "da.jsonl.gz"
  alone.run("trim", f"--teacher={whole}", f"--text={text}", f"--out={teacher}")
  rows = json.loads((teacher / "config.json").read_text())["vocab_size"]
  assert rows < 0.5 * size

  alone.run(
    "distill",
    f"--config={running.ROOT}/tests/support/tiny_recipe.py:{tmp_path}",
    f"--workdir={workdir}",
    f"--config.teacher.path={teacher}",
    f"--config.data.train=('{text}',)",
    "--config.data.validation=()",
    "--config.train.num_steps=10",
    "--config.train.peak_lr=2e-2",
  )
  losses = [loss for loss, _ in running.losses(workdir).values()]
  assert min(losses[-3:]) < losses[0]

  trimmed = transformers.AutoTokenizer.from_pretrained(teacher)
  document = tiny_tokenizers.documents("da")[0]
  for name in ("BertModel", "XLMRobertaModel"):
    out = tmp_path / name
    flags = f"--workdir={workdir}", f"--class={name}", f"--out={out}"
    assert "PyTorch, random tokens" in alone.run("export", *flags)
    if name == "XLMRobertaModel":  # The other is every other student's.
      output = alone.run("verify", out, f"--against={workdir}")
      assert "No problem found" in output
    config = json.loads((out / "config.json").read_text())
    # Its first two rows of positions are those that padding's id skips.
    offset = 2 * (name == "XLMRobertaModel")
    assert config["max_position_embeddings"] == 64 + offset
    assert (config["vocab_size"], config["pad_token_id"]) == (rows, 1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer(document)["input_ids"] == trimmed(document)["input_ids"]
