"""The teacher's tokenizer: read as it is, written for the student."""

import json

import pytest
import tokenizers
import transformers
from tiny_tokenizers import write_tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from time_jax.core.errors import UserError
from time_jax.hf import tokenizer

VOCABULARY = ["[UNK]", "[CLS]", "[PAD]", "[SEP]", "[MASK]", "cat", "##s", "dog"]
CONFIG = "tokenizer_config.json"


@pytest.fixture
def folder(tmp_path):
  """A tokenizer whose padding token has the id 2."""
  write_tokenizer(tmp_path, VOCABULARY)
  return tmp_path


def change(folder, **settings):
  """Changes the tokenizer's config; None takes a key away."""
  content = json.loads((folder / CONFIG).read_text()) | settings
  kept = {name: value for name, value in content.items() if value is not None}
  (folder / CONFIG).write_text(json.dumps(kept))


def test_the_file_is_taken_as_it_is(folder):
  found = tokenizer.load_tokenizer(folder, 8)
  assert found.backend == (folder / "tokenizer.json").read_text()
  assert (found.pad_id, found.vocab_size) == (2, 8)
  assert found.name == f"the tokenizer in {folder}"


@pytest.mark.parametrize(
  "pad", ["[MASK]", {"__type": "AddedToken", "content": "[MASK]"}], ids=type
)
def test_the_padding_token_of_the_config(folder, pad):
  change(folder, pad_token=pad)
  found = tokenizer.load_tokenizer(folder, 8)
  assert found.pad_id == 4
  assert found.backend == (folder / "tokenizer.json").read_text()


@pytest.mark.parametrize("pad", ["[SEP]", {"content": "[SEP]"}], ids=type)
def test_the_padding_token_of_an_older_file(folder, pad):
  change(folder, pad_token=None)
  path = folder / "special_tokens_map.json"
  path.write_text(json.dumps({"pad_token": pad}))
  assert tokenizer.load_tokenizer(folder, 8).pad_id == 3
  change(folder, pad_token="[PAD]")
  assert tokenizer.load_tokenizer(folder, 8).pad_id == 2


def test_no_padding_token(folder):
  change(folder, pad_token=None)
  words = f"the tokenizer in {folder} has no padding token within the 8 rows"
  with pytest.raises(UserError, match=words):
    tokenizer.load_tokenizer(folder, 8)


def test_a_padding_token_without_id(folder):
  change(folder, pad_token="[NOWHERE]")
  with pytest.raises(UserError, match="has no padding token"):
    tokenizer.load_tokenizer(folder, 8)


def bare_vocabulary(folder):
  (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
  (folder / "config.json").write_text('{"model_type": "bert"}')
  return folder


def test_a_vocabulary_is_converted(tmp_path):
  found = tokenizer.load_tokenizer(bare_vocabulary(tmp_path), 8)
  assert found.pad_id == 2
  backend = tokenizers.Tokenizer.from_str(found.backend)
  assert backend.encode("cats dog bird").ids == [1, 5, 6, 7, 0, 3]


@pytest.mark.parametrize("content", ["{", '{"model": {}}', ""])
def test_a_damaged_file(folder, content):
  (folder / "tokenizer.json").write_text(content)
  words = f"the tokenizer in {folder} is damaged: tokenizer.json: "
  with pytest.raises(UserError, match=words):
    tokenizer.load_tokenizer(folder, 8)


def test_a_folder_without_tokenizer(tmp_path):
  (tmp_path / "config.json").write_text('{"model_type": "bert"}')
  with pytest.raises(UserError, match=f"{tmp_path} has no tokenizer; expected"):
    tokenizer.load_tokenizer(tmp_path, 8)
  (tmp_path / "vocab.txt").touch()
  with pytest.raises(UserError, match=f"no usable tokenizer in {tmp_path}: "):
    tokenizer.load_tokenizer(tmp_path, 8)


def fix_length(folder, length):
  """As some published files are: truncation and padding are in force."""
  path = str(folder / "tokenizer.json")
  backend = tokenizers.Tokenizer.from_file(path)
  backend.enable_truncation(length)
  backend.enable_padding(length=length, pad_id=2, pad_token="[PAD]")
  backend.save(path)
  assert len(backend.encode("cat").ids) == length
  return folder


def test_a_fixed_length_is_not_handed_on(folder, tmp_path_factory):
  out = tmp_path_factory.mktemp("student")
  tokenizer.save_tokenizer(fix_length(folder, 128), out, 512, 8)
  backend = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
  assert backend.truncation is None and backend.padding is None
  again = transformers.AutoTokenizer.from_pretrained(out)
  assert again.model_max_length == 512
  assert again("cats dog")["input_ids"] == [1, 5, 6, 7, 3]
  assert again(["dog " * 300])["input_ids"] == [[1, *[7] * 300, 3]]
  cut = again("dog " * 600, truncation=True)["input_ids"]
  assert len(cut) == 512
  pair = again(["dog", "dog cat"], padding=True)["input_ids"]
  assert pair == [[1, 7, 3, 2], [1, 7, 5, 3]]


def test_a_converted_vocabulary_is_saved(tmp_path, tmp_path_factory):
  out = tmp_path_factory.mktemp("student")
  tokenizer.save_tokenizer(bare_vocabulary(tmp_path), out, 64, 8)
  expected = tokenizer.load_tokenizer(tmp_path, 8)
  found = tokenizer.load_tokenizer(out, 8)
  assert found.pad_id == expected.pad_id
  for text in ("cats dog", "bird"):
    ids = [
      tokenizers.Tokenizer.from_str(spec.backend).encode(text).ids
      for spec in (found, expected)
    ]
    assert ids[0] == ids[1]


def test_special_ids(folder):
  """The first and last token of a text, where there is no bos and eos."""
  assert tokenizer.special_ids(folder, 8) == {
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 3,
  }
  change(folder, bos_token="cat", eos_token="[UNK]")
  assert tokenizer.special_ids(folder, 8) == {
    "pad_token_id": 2,
    "bos_token_id": 5,
    "eos_token_id": 0,
  }
  change(folder, bos_token=None, cls_token=None, eos_token=None)
  change(folder, sep_token=None, pad_token=None)
  assert tokenizer.special_ids(folder, 8) == {}


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def hplt(tmp_path):
  """As HPLT's BERTs have it: WordPiece over bytes, names without entries.

  Words are marked by Metaspace, pieces that continue a word by nothing, and
  the config names [BOS] and [EOS], which the vocabulary lacks.
  """
  masks = [f"[MASK_{i}]" for i in range(1, 100)]
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  words = ["".join(byte_letters("▁cat")), "og"]
  ids = {t: i for i, t in enumerate([*SPECIAL, *masks, *letters, *words])}
  backend = tokenizers.Tokenizer(
    models.WordPiece(ids, unk_token="[UNK]", continuing_subword_prefix="")
  )
  backend.normalizer = normalizers.NFKC()
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Metaspace(),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  backend.decoder = decoders.Sequence(
    [decoders.ByteLevel(), decoders.Metaspace()]
  )
  backend.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
  )
  backend.add_special_tokens([*SPECIAL, *masks])
  backend.save(str(tmp_path / "tokenizer.json"))
  names = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
  content = {f"{name}_token": f"[{name.upper()}]" for name in names}
  content |= {"tokenizer_class": "PreTrainedTokenizerFast"}
  (tmp_path / CONFIG).write_text(json.dumps(content))
  # No model_type: the class of the tokenizer is known all the same.
  config = {"architectures": ["LtgbertForMaskedLM"], "vocab_size": len(ids)}
  (tmp_path / "config.json").write_text(json.dumps(config))
  return tmp_path, len(ids)


def byte_letters(text):
  (((piece, _),)) = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  ).pre_tokenize_str(text)
  return piece


def highest_id(tokenizer):
  return max(tokenizer.get_vocab().values())


def test_names_past_the_table_are_no_tokens(hplt, tmp_path_factory, capsys):
  folder, rows = hplt
  opened = transformers.AutoTokenizer.from_pretrained(folder)
  assert {opened.bos_token_id, opened.eos_token_id} == {rows, rows + 1}
  found = tokenizer.load_tokenizer(folder, rows)
  assert found.backend == (folder / "tokenizer.json").read_text()
  assert found.pad_id == 0
  (line,) = capsys.readouterr().err.splitlines()
  assert f"{folder} names '[BOS]', '[EOS]', which have no row in the" in line
  expected = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
  assert tokenizer.special_ids(folder, rows) == expected
  out = tmp_path_factory.mktemp("student")
  tokenizer.save_tokenizer(folder, out, 512, rows)
  again = transformers.AutoTokenizer.from_pretrained(out)
  assert highest_id(again) < rows == len(again)
  assert again.bos_token is None and again.eos_token is None
  assert tokenizer.special_ids(out, rows) == expected
  text = "cat dog, ﬁsh! [BOS]"
  backend = tokenizers.Tokenizer.from_str(found.backend)
  ids = backend.encode(text).ids
  assert again(text)["input_ids"] == ids
  assert 1 not in ids and ids[1] == rows - 2  # No [UNK]: bytes.
  assert again.decode(ids, skip_special_tokens=True) == backend.decode(ids)
  assert not capsys.readouterr().err  # It was said once.


def test_tokens_past_the_table_are_dropped(hplt, tmp_path_factory, capsys):
  """As the file is after transformers has saved it once."""
  source, rows = hplt
  folder = tmp_path_factory.mktemp("resaved")
  transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
  saved = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  assert saved.token_to_id("[EOS]") >= rows
  found = tokenizer.load_tokenizer(folder, rows)
  backend = tokenizers.Tokenizer.from_str(found.backend)
  assert highest_id(backend) == rows - 1
  ids = backend.encode("cat [BOS] [MASK]").ids
  assert ids[0] == 2 and ids[-2:] == [4, 3] and max(ids) < rows
  before = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
  assert ids == before.encode("cat [BOS] [MASK]").ids
  out = tmp_path_factory.mktemp("student")
  tokenizer.save_tokenizer(folder, out, 512, rows)
  again = transformers.AutoTokenizer.from_pretrained(out)
  assert highest_id(again) < rows == len(again)
  assert tokenizer.special_ids(folder, rows)["eos_token_id"] == 3
  (line,) = capsys.readouterr().err.splitlines()  # Said once.
  assert line == (
    f"time_jax: note: the tokenizer in {folder} names '[BOS]', '[EOS]', which "
    "have no row in the token table; dropped."
  )


def test_defaults_of_a_class_are_dropped(tmp_path, tmp_path_factory):
  """A BERT's vocabulary without [MASK], which its class adds unasked."""
  words = [word for word in VOCABULARY if word != "[MASK]"]
  (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
  (tmp_path / "config.json").write_text('{"model_type": "bert"}')
  found = tokenizer.load_tokenizer(tmp_path, 7)
  assert highest_id(tokenizers.Tokenizer.from_str(found.backend)) == 6
  out = tmp_path_factory.mktemp("student")
  tokenizer.save_tokenizer(tmp_path, out, 512, 7)
  (out / "config.json").write_text('{"model_type": "bert"}')
  again = transformers.AutoTokenizer.from_pretrained(out)
  assert highest_id(again) < 7 and again.mask_token is None
  assert again("cats [MASK]")["input_ids"][:3] == [1, 4, 5]


@pytest.mark.parametrize("rows", [4, 7])
def test_an_ordinary_vocabulary_must_fit(folder, rows):
  words = f"{8 - rows} of its tokens, such as '.*', have ids past the {rows} r"
  for call in (
    lambda: tokenizer.load_tokenizer(folder, rows),
    lambda: tokenizer.special_ids(folder, rows),
    lambda: tokenizer.save_tokenizer(folder, folder / "out", 64, rows),
  ):
    with pytest.raises(UserError, match=words) as caught:
      call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("special", [True, False])
def test_added_tokens_must_fit_unless_they_are_special(folder, special):
  path = folder / "tokenizer.json"
  backend = tokenizers.Tokenizer.from_file(str(path))
  backend.add_tokens([tokenizers.AddedToken("<new>", special=special)])
  backend.save(str(path))
  assert tokenizer.load_tokenizer(folder, 9).backend == path.read_text()
  if special:
    assert "<new>" not in tokenizer.load_tokenizer(folder, 8).backend
    return
  with pytest.raises(UserError, match="1 of its tokens, such as '<new>', have"):
    tokenizer.load_tokenizer(folder, 8)


@pytest.mark.parametrize("where", ["single", "pair"])
def test_what_surrounds_a_text_must_fit(folder, where):
  path = folder / "tokenizer.json"
  backend = tokenizers.Tokenizer.from_file(str(path))
  backend.add_special_tokens(["<s>"])
  ends = [("<s>", 8), ("[SEP]", 3)]
  pair = "<s> $A [SEP] $B [SEP]" if where == "pair" else "$A [SEP] $B <s>"
  backend.post_processor = processors.TemplateProcessing(
    single="$A [SEP]", pair=pair, special_tokens=ends
  )
  backend.save(str(path))
  with pytest.raises(UserError, match="1 of its tokens, such as '<s>', have"):
    tokenizer.load_tokenizer(folder, 8)


def test_a_padding_token_must_fit(hplt):
  folder, rows = hplt
  change(folder, pad_token="[BOS]")
  words = f"has no padding token within the {rows} rows of the token table"
  with pytest.raises(UserError, match=words):
    tokenizer.load_tokenizer(folder, rows)


@pytest.mark.parametrize("prefix_space", [True, False])
def test_the_student_reads_what_the_teacher_read(
  tmp_path, tmp_path_factory, prefix_space
):
  """A RoBERTa, of which transformers 4.x would change the first word."""
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  tokens = ["<s>", "<pad>", "</s>", "<unk>", *letters, "Ġc", "at", "Ġcat"]
  ids = {token: i for i, token in enumerate([*tokens, "<mask>"])}
  merges = [("Ġ", "c"), ("a", "t"), ("Ġc", "at")]
  backend = tokenizers.Tokenizer(models.BPE(ids, merges))
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(prefix_space)
  backend.decoder = decoders.ByteLevel()
  backend.post_processor = processors.RobertaProcessing(
    ("</s>", 2), ("<s>", 0), add_prefix_space=prefix_space
  )
  backend.add_special_tokens(tokens[:4])
  mask = tokenizers.AddedToken("<mask>", lstrip=True, special=True)
  backend.add_special_tokens([mask])
  backend.save(str(tmp_path / "tokenizer.json"))
  content = {"tokenizer_class": "RobertaTokenizer", "pad_token": "<pad>"}
  (tmp_path / CONFIG).write_text(json.dumps(content))
  (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
  out = tmp_path_factory.mktemp("student")
  tokenizer.save_tokenizer(tmp_path, out, 16, len(ids))
  (out / "config.json").write_text('{"model_type": "bert"}')
  again = transformers.AutoTokenizer.from_pretrained(out)
  for text in ("cat cat", " cat <mask> cat", "", "é"):
    found = again(text)
    assert found["input_ids"] == backend.encode(text).ids
    assert "token_type_ids" not in found
  # fastembed before 0.9 adds what this file names to tokenizer.json.
  more = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
  named = json.loads((out / "special_tokens_map.json").read_text())
  assert named.keys() >= {"pad_token", "mask_token"}
  for token in named.values():
    more.add_special_tokens([tokenizers.AddedToken(**token)])
  for text in ("cat <mask> cat", "cat</s> é"):
    assert more.encode(text).ids == backend.encode(text).ids
  assert again.model_max_length == 16
  special = (again.bos_token_id, again.pad_token_id, again.eos_token_id)
  assert (*special, again.mask_token_id) == (0, 1, 2, len(ids) - 1)


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("said", [True, False, None])
def test_two_files_that_differ_in_the_first_space(folder, capsys, file, said):
  """The file that ids are made by counts, and a note says so."""
  path = folder / "tokenizer.json"
  backend = tokenizers.Tokenizer.from_file(str(path))
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(file)]
  )
  backend.save(str(path))
  change(folder, add_prefix_space=said)
  tokenizer.load_tokenizer(folder, 8)
  expected = (
    f"time_jax: note: {folder / CONFIG} has add_prefix_space={said}, "
    f"tokenizer.json {file}, which counts here; transformers may follow the "
    "other: make them the same.\n"
  )
  differ = said is not None and said != file
  assert capsys.readouterr().err == (expected if differ else "")
