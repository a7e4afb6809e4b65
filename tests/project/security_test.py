"""What SECURITY.md promises about files that somebody else has made."""

import gzip
import json
import pathlib
import resource
import struct

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
import running
import tokenizers
import zstandard

from time_jax.cli import main
from time_jax.core.errors import UserError, without_secrets
from time_jax.core.storage import json_file
from time_jax.data import compressed, text_files
from time_jax.data.records import Tally
from time_jax.hf import tokenizer, weights

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello"]


def header(content):
  text = json.dumps(content).encode()
  return struct.pack("<Q", len(text)) + text


def tensor(shape, start, end):
  return header(
    {"a": {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}}
  )


HEADERS = {
  "of 8 EB": struct.pack("<Q", 1 << 63) + b"{}",
  "of 16 EB": struct.pack("<Q", (1 << 64) - 1) + b"{}",
  "of 100 GB": struct.pack("<Q", 10**11) + b"{}" * 99,
  "nested deeply": struct.pack("<Q", 10**6) + b"[" * 10**6,
  "a tensor of 4 TB": tensor([1 << 40], 0, 1 << 42) + bytes(16),
  "a negative shape": tensor([-4], 0, 16) + bytes(16),
  "a shape that overflows": tensor([1 << 62, 4], 0, 0),
  "offsets backwards": tensor([4], 16, 0) + bytes(16),
  "no numbers": tensor(["x"], 0, 4) + bytes(4),
}


@pytest.mark.parametrize("name", HEADERS)
def test_absurd_headers_of_safetensors(tmp_path, name):
  (tmp_path / "model.safetensors").write_bytes(HEADERS[name])
  before = peak_megabytes()
  with pytest.raises(UserError, match=r"model.safetensors is damaged or incom"):
    weights.Weights(tmp_path)
  assert peak_megabytes() - before < 200


def peak_megabytes():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def test_json_that_is_absurd(tmp_path, monkeypatch):
  path = tmp_path / "config.json"
  path.write_text("[" * 100_000)
  with pytest.raises(UserError, match=r"config.json is not readable JSON"):
    json_file.read_json(path)
  monkeypatch.setattr(json_file, "_LARGEST", 1000)
  path.write_text("{}" + " " * 1000)
  with pytest.raises(UserError, match=r"has 1,002 bytes; expected at most 1,0"):
    json_file.read_json(path)
  (tmp_path / "tokenizer.json").write_text("{}" + " " * 1000)
  with pytest.raises(UserError, match=r"tokenizer.json has 1,002 bytes"):
    tokenizer.load_tokenizer(tmp_path, 9)


def bomb(kind, size):
  """Little that unpacks to `size` bytes without a line break."""
  zeros = b"a" * (1 << 20)
  if kind == "gz":
    return gzip.compress(zeros * (size >> 20), 6)
  packer = zstandard.ZstdCompressor().compressobj()
  return b"".join(
    [*(packer.compress(zeros) for _ in range(size >> 20)), packer.flush()]
  )


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_bombs_of_text_are_skipped(tmp_path, monkeypatch, kind, name):
  path = tmp_path / f"{name}.{kind}"
  path.write_bytes(bomb(kind, 256 << 20))
  assert path.stat().st_size < 1 << 19
  monkeypatch.setattr(compressed, "LONGEST_LINE", 8 << 20)
  tally = Tally(5)
  before = peak_megabytes()
  assert list(text_files.read_files([path], "text", tally)) == []
  assert tally.bad_records == 1
  # zstandard unpacks up to 256 MiB at a time.
  assert peak_megabytes() - before < 180 + 250 * (kind == "zst")


def test_what_stands_behind_a_line_too_long_is_read(tmp_path, monkeypatch):
  monkeypatch.setattr(compressed, "LONGEST_LINE", 50)
  monkeypatch.setattr(compressed, "_CHUNK", 7)
  lines = ["one", "x" * 49, "two", "y" * 50, "three"]
  path = tmp_path / "a.jsonl"
  path.write_text("\n".join(json.dumps(x) for x in lines))
  found = [
    None if raw is None else json.loads(raw)
    for raw in compressed.split_lines(compressed.chunks(path))
  ]
  assert found == ["one", None, "two", None, "three"]


def test_a_bomb_of_parquet(tmp_path, monkeypatch):
  plain = tmp_path / "a.parquet"
  pyarrow.parquet.write_table(pyarrow.table({"text": ["b"] * 999}), plain)
  packed = tmp_path / "a.parquet.gz"
  packed.write_bytes(gzip.compress(plain.read_bytes()))
  assert len(list(text_files.read_files([packed], "text", Tally(0)))) == 999
  monkeypatch.setattr(compressed, "_LARGEST_UNPACKED", 100)
  with pytest.raises(UserError, match=r"parquet.gz' unpacks to more than 100"):
    list(text_files.read_files([packed], "text", Tally(0)))


@pytest.fixture
def folder(tmp_path):
  """A tokenizer's folder, beside a file that is none of its business."""
  inner = tmp_path / "model"
  inner.mkdir()
  (inner / "vocab.txt").write_text("\n".join(WORDS))
  (tmp_path / "secret.txt").write_text("\n".join([*WORDS, "secretword"]))
  outside = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(
      {"[UNK]": 0, "secretword": 1}, unk_token="[UNK]"
    )
  )
  for name in ("tokenizer.json", "tokenizer.4.0.json"):
    outside.save(str(tmp_path / name))
  return inner


def configured(folder, **content):
  content = {"tokenizer_class": "BertTokenizer", **content}
  (folder / "tokenizer_config.json").write_text(json.dumps(content))
  return set(tokenizer.open_tokenizer(folder).get_vocab())


@pytest.mark.parametrize(
  ("key", "name"),
  [
    ("vocab_file", "{}/secret.txt"),
    ("vocab_file", "../secret.txt"),
    ("vocab_file", "sub/../../secret.txt"),
    ("tokenizer_file", "{}/tokenizer.json"),
    ("fast_tokenizer_files", ["../tokenizer.4.0.json"]),
    ("added_tokens_file", "/etc/passwd"),
  ],
)
def test_a_tokenizer_names_no_file_outside_of_its_folder(folder, key, name):
  if isinstance(name, str):
    name = name.format(folder.parent)
  with pytest.raises(UserError) as caught:
    configured(folder, **{key: name})
  shown = name[0] if isinstance(name, list) else name
  assert f"{key} names {shown!r}, a file outside of its folder" in str(
    caught.value
  )


@pytest.mark.parametrize(
  "content",
  [
    {},
    # Of the machine that it was written on; frequent on the hub.
    {"special_tokens_map_file": "/home/somebody/special_tokens_map.json"},
    {"tokenizer_file": None, "name_or_path": "/etc"},
    {"special_tokens_map_file": "x\0y", "added_tokens_file": "x" * 9999},
  ],
)
def test_other_names_do_no_harm(folder, content):
  assert configured(folder, **content) == set(WORDS)


def test_code_of_a_model_is_not_executed(folder, tmp_path):
  (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
  with pytest.raises(UserError, match="no usable tokenizer"):
    configured(
      folder,
      tokenizer_class="Evil",
      auto_map={"AutoTokenizer": ["evil.Evil", None]},
    )
  assert not (tmp_path / "ran").exists()


def test_no_code_and_no_pickle_anywhere_in_the_package():
  for path in (running.ROOT / "time_jax").rglob("*.py"):
    text = path.read_text()
    assert "trust_remote_code=True" not in text, path
    assert "pickle.load" not in text and "shell=True" not in text, path
    for _, *calls in [text.split("torch.load(")]:
      assert all("weights_only=True" in call[:90] for call in calls), path


SECRET = "hf_" + "abcdEFGH1234" * 3


def test_tokens_are_not_shown(capsys, monkeypatch, tmp_path):
  monkeypatch.setenv("HF_TOKEN", SECRET)
  monkeypatch.setattr(
    huggingface_hub,
    "snapshot_download",
    lambda *a, **k: exec(
      f"raise OSError('Invalid {SECRET} at https://me:word@h/x')"
    ),
  )
  assert main.main(["inspect", "owner/name"]) == 2
  output = capsys.readouterr()
  assert SECRET not in output.out + output.err
  assert "Invalid hf_... at https://me:...@h/x" in output.err


def test_the_doctor_shows_no_token(capsys, monkeypatch):
  for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
    monkeypatch.setenv(name, SECRET)
  main.main(["doctor"])
  output = capsys.readouterr()
  assert "jax " in output.out and SECRET not in output.out + output.err


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    ("nothing hf_x to hide: a/b", "nothing hf_x to hide: a/b"),
    (f"Bearer {SECRET}.", "Bearer hf_...."),
    ("http://u:p%40@h:80/x?a:b@c", "http://u:...@h:80/x?a:b@c"),
    (pathlib.Path("/a:b@c"), "/a:b@c"),
    ("WANDB_API_KEY=0123456789abcdef x", "WANDB_API_KEY=... x"),
    ("key wandb_v1_0123456789abcdef.", "key wandb_v1_...."),
  ],
)
def test_what_is_cut_out_of_messages(text, shown):
  assert without_secrets(text) == shown
