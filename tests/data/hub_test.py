"""Files on the hub are found, fetched when they are read, and no earlier."""

import gzip
import json
import pathlib
import re

import huggingface_hub
import pytest
import requests
from huggingface_hub import errors as hub_errors
from huggingface_hub.hf_api import RepoFile, RepoFolder
from preparing import contents, make_documents, run

from time_jax.catalog import corpora, languages
from time_jax.core import errors
from time_jax.data import hub, sources
from time_jax.data.records import Tally

NAME = "org/corpus"


class Hub:
  """Stands for the hub's library: one repository, and what was asked of it.

  Attributes:
    files: path -> content.
    fetched: paths in the order of their downloads.
    revisions: all revisions that were asked for.
    error: raised by every call.
  """

  def __init__(self, folder: pathlib.Path) -> None:
    self.folder = folder
    self.files: dict[str, bytes] = {}
    self.fetched: list[str] = []
    self.revisions: set[str | None] = set()
    self.error: Exception | None = None

  def auth_check(self, name, *, repo_type):
    assert (name, repo_type) == (NAME, "dataset")
    if self.error:
      raise self.error

  def list_repo_tree(self, name, folder, *, repo_type, revision):
    self.auth_check(name, repo_type=repo_type)
    self.revisions.add(revision)
    start = f"{folder}/" if folder else ""
    inside = [p for p in self.files if p.startswith(start)]
    if not inside:
      raise failure(hub_errors.EntryNotFoundError, 404)
    names = {start + p.removeprefix(start).split("/")[0] for p in inside}
    for path in sorted(names, reverse=True):
      is_file = path in self.files
      yield (
        RepoFile(path=path, size=1, oid="x")
        if is_file
        else RepoFolder(path=path, oid="x")
      )

  def hf_hub_download(self, name, path, *, repo_type, revision):
    self.auth_check(name, repo_type=repo_type)
    self.revisions.add(revision)
    self.fetched.append(path)
    place = self.folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(self.files[path])
    return str(place)


@pytest.fixture
def fake(monkeypatch, tmp_path) -> Hub:
  made = Hub(tmp_path / "cache")
  monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
  monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.hf_hub_download)
  return made


def failure(kind, status):
  response = requests.Response()
  response.status_code = status
  response.url = "https://huggingface.co/x"
  return kind("it\nfailed", response=response)


def lines(texts, field="text") -> bytes:
  return "\n".join(json.dumps({field: text}) for text in texts).encode()


def stream(text):
  tally = Tally()
  return sources.documents([sources.Source.parse(text)], tally), tally


def test_a_pattern_means_the_files_of_its_folders(fake):
  paths = ["da/b.jsonl", "da/a.jsonl", "dax/c.jsonl", "da/x/d.jsonl", "e.jsonl"]
  fake.files = dict.fromkeys([*paths, "da/readme.md"], b"")
  for pattern, want in {
    "da/*.jsonl": ["da/a.jsonl", "da/b.jsonl"],
    "da*/*.jsonl": ["da/a.jsonl", "da/b.jsonl", "dax/c.jsonl"],
    "da/b.jsonl": ["da/b.jsonl"],
    "*": ["e.jsonl"],
    "d?/x/[c-e].*": ["da/x/d.jsonl"],
  }.items():
    assert hub.find_files(NAME, pattern) == want
  for pattern in ("no/*.jsonl", "da", "*.md", "da/x"):
    with pytest.raises(errors.UserError, match="has no file .*tree/main"):
      hub.find_files(NAME, pattern)


def test_documents_of_files_in_sorted_order_one_download_at_a_time(fake):
  fake.files = {
    "da/p10.jsonl.gz": gzip.compress(lines(["a", "b"], "body")),
    "da/p2.jsonl.gz": gzip.compress(lines(["c"], "body")),
    "da/p3.jsonl.gz": gzip.compress(lines(["d"], "body")),
  }
  documents, tally = stream(f"hf:{NAME}@v1/da/p*.jsonl.gz#body")
  assert fake.fetched == []
  assert [next(documents) for _ in range(3)] == ["a", "b", "c"]
  assert fake.fetched == ["da/p10.jsonl.gz", "da/p2.jsonl.gz"]
  assert list(documents) == ["d"]
  assert (tally.documents, tally.bad_records) == (4, 0)
  assert fake.revisions == {"v1"}


@pytest.mark.parametrize("limit", [{"max_tokens": 400}, {"max_documents": 20}])
def test_a_limit_of_text_is_a_limit_of_downloads(fake, tmp_path, limit):
  fake.files = {
    f"{i:02}.jsonl": lines(make_documents(15, seed=i)) for i in range(9)
  }
  source = f"hf:{NAME}/*.jsonl"
  settings = {"shard_text_mb": 0.0005, **limit}  # Read in such pieces.
  manifest = run(tmp_path / "out", source, **settings)
  assert fake.fetched == ["00.jsonl", "01.jsonl"]
  assert manifest.splits["train"].files == ()
  # Once prepared, the hub is not asked again.
  fake.error = AssertionError("asked")
  assert run(tmp_path / "out", source, **settings) == manifest


def test_a_broken_download_is_gone_on_with(fake, tmp_path):
  fake.files = {
    f"{i:02}.jsonl": lines(make_documents(15, seed=i)) for i in range(4)
  }
  source = f"hf:{NAME}/*.jsonl"
  run(tmp_path / "whole", source)
  lost = fake.files.pop("03.jsonl")
  fake.files["03.jsonl"] = None  # Listed; writing it fails.
  with pytest.raises(errors.UserError, match="TypeError.*run it again"):
    run(tmp_path / "out", source)
  fake.files["03.jsonl"] = lost
  run(tmp_path / "out", source)
  assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_file_of_an_unknown_kind(fake):
  fake.files = {"a.docx": b"x"}
  documents, _ = stream(f"hf:{NAME}/*")
  with pytest.raises(errors.UserError, match="of an unknown kind"):
    next(documents)


ERRORS = [
  (
    failure(hub_errors.GatedRepoError, 403),
    r"is gated; open https://huggingface.co/datasets/org/corpus, accept its "
    r"terms, then log in with `hf auth login` or set HF_TOKEN$",
  ),
  (
    failure(hub_errors.RepositoryNotFoundError, 401),
    "there is no org/corpus, or it is private",
  ),
  (failure(hub_errors.RevisionNotFoundError, 404), "no revision 'v1'"),
  (hub_errors.LocalEntryNotFoundError("cache"), "the hub cannot be reached"),
  (hub_errors.OfflineModeIsEnabled("offline"), "the hub cannot be reached"),
  (requests.ConnectTimeout("slow"), "the hub cannot be reached"),
  (requests.ConnectionError("no route"), "the hub cannot be reached"),
  (failure(hub_errors.HfHubHTTPError, 500), "HfHubHTTPError: it failed"),
  (
    RuntimeError("Dataset scripts are no longer supported, but found x.py"),
    "made by code of its own, which is not run; .*hf:org/corpus@v1/GLOB$",
  ),
]


@pytest.mark.parametrize(("error", "message"), ERRORS)
def test_errors_come_before_any_work_and_in_one_line(fake, error, message):
  fake.files = {"a.jsonl": lines(["a"])}
  documents, _ = stream(f"hf:{NAME}@v1/*.jsonl")
  fake.error = error
  for act in (
    lambda: stream(f"hf:{NAME}@v1/*.jsonl"),
    lambda: next(documents),
  ):
    with pytest.raises(errors.UserError, match=message) as caught:
      act()
    text = str(caught.value)
    assert text.startswith("cannot read the dataset org/corpus@v1 on the Hug")
    assert "\n" not in text


def test_held_out_text_that_is_out_of_reach_may_be_left_out():
  advice = r"do without held-out text: --config.data.validation='\(\)'$"
  for repository in corpora.HELD_OUT:
    for error in (
      failure(hub_errors.GatedRepoError, 403),
      hub_errors.OfflineModeIsEnabled("offline"),
    ):
      assert re.search(advice, str(hub.explain(f"{repository}@v1", error)))
  for code in ("da", "ga", "en"):
    source = corpora.held_out_text(languages.find(code))
    assert sources.Source.parse(source).name in corpora.HELD_OUT


def test_the_cause_behind_another_librarys_error_is_named():
  try:
    try:
      raise failure(hub_errors.GatedRepoError, 401)
    except hub_errors.GatedRepoError as cause:
      raise FileNotFoundError("Dataset is gated") from cause
  except FileNotFoundError as error:
    assert "it is gated; open https" in str(hub.explain(NAME, error))
