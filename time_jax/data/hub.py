"""Files of a dataset repository on the Hugging Face hub, one at a time.

They go through the hub's own cache (HF_HOME), with its own login (HF_TOKEN or
`hf auth login`).
"""

import fnmatch
import glob
import pathlib
from collections.abc import Iterator

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.hf_api import RepoFile

from time_jax.catalog import corpora
from time_jax.core.errors import UserError

_OFFLINE = (
  hub_errors.LocalEntryNotFoundError,
  hub_errors.OfflineModeIsEnabled,
  ConnectionError,
  TimeoutError,
)


def find_files(repository: str, pattern: str) -> list[str]:
  """The files that match, in sorted order.

  Args:
    repository: OWNER/NAME[@REVISION] of a dataset.
    pattern: a path in it; * and ? do not match a slash.

  Raises:
    UserError: none matches, or the repository cannot be seen.
  """
  *parents, last = pattern.split("/")
  folders = [""]
  try:
    # Anyone may list a gated dataset; that its files are out of reach would
    # come out only when reading gets to them.
    name, _ = _split(repository)
    huggingface_hub.HfApi().auth_check(name, repo_type="dataset")
    for part in parents:
      if glob.has_magic(part):
        folders = _matching(repository, folders, part, files=False)
      else:
        folders = [f"{folder}{part}/" for folder in folders]
    found = _matching(repository, folders, last, files=True)
  except hub_errors.EntryNotFoundError as error:
    # Not being online is one of these, too.
    if isinstance(error, hub_errors.LocalEntryNotFoundError):
      raise explain(repository, error) from error
    found = []
  except Exception as error:  # The hub's errors share no base class.
    raise explain(repository, error) from error
  if not found:
    raise UserError(
      f"the dataset {repository} on the Hugging Face hub has no file "
      f"{pattern!r}; expected a path or pattern of its files: "
      f"{_page(repository)}/tree/main shows them"
    )
  return sorted(found)


def fetch(repository: str, path: str) -> pathlib.Path:
  """Downloads a file unless it is in the cache; says where it lies.

  Raises:
    UserError: there is no such file, no access, or no network.
  """
  name, revision = _split(repository)
  try:
    return pathlib.Path(
      huggingface_hub.hf_hub_download(
        name, path, repo_type="dataset", revision=revision
      )
    )
  except Exception as error:  # The hub's errors share no base class.
    raise explain(repository, error) from error


def explain(repository: str, error: BaseException) -> UserError:
  """What a user can do about an error, or about that which caused it."""
  name, revision = _split(repository)
  causes = [error]
  while cause := causes[-1].__cause__ or causes[-1].__context__:
    causes.append(cause)

  def caused_by(*kinds: type[BaseException]) -> bool:
    return any(isinstance(cause, kinds) for cause in causes)

  without = ""
  if name in corpora.HELD_OUT:
    without = "; or do without held-out text: --config.data.validation='()'"
  start = f"cannot read the dataset {repository} on the Hugging Face hub: "
  if caused_by(hub_errors.GatedRepoError):
    return UserError(
      f"{start}it is gated; open {_page(repository)}, accept its terms, then "
      f"log in with `hf auth login` or set HF_TOKEN{without}"
    )
  if caused_by(hub_errors.RepositoryNotFoundError):
    return UserError(
      f"{start}there is no {name}, or it is private; check the name; if it is "
      "private, log in with `hf auth login` or set HF_TOKEN"
    )
  if caused_by(hub_errors.RevisionNotFoundError):
    return UserError(f"{start}it has no revision {revision!r}; check it")
  # Libraries of HTTP name their connection errors alike, with no common base.
  names = (type(cause).__name__ for cause in causes)
  if caused_by(*_OFFLINE) or any(n.startswith("Connect") for n in names):
    return UserError(
      f"{start}the hub cannot be reached; go online and run it again, or give "
      f"local files{without}"
    )
  if "scripts are no longer supported" in str(error):  # By `datasets` from 4.
    return UserError(
      f"{start}it is made by code of its own, which is not run; name its files "
      f"instead: hf:{repository}/GLOB"
    )
  reason = " ".join(str(error).split())[:300]
  return UserError(
    f"{start}{type(error).__name__}: {reason}; check the name and the "
    "network, then run it again"
  )


def _matching(
  repository: str, folders: list[str], pattern: str, *, files: bool
) -> list[str]:
  """Files, or folders with a slash behind, that lie in any of the folders."""
  return [
    path if files else f"{path}/"
    for folder in folders
    for path, is_file in _entries(repository, folder)
    if is_file == files and fnmatch.fnmatchcase(path.split("/")[-1], pattern)
  ]


def _entries(repository: str, folder: str) -> Iterator[tuple[str, bool]]:
  name, revision = _split(repository)
  # Of the whole tree, which can have 100 000 files, only what is asked for.
  for entry in huggingface_hub.HfApi().list_repo_tree(
    name, folder.rstrip("/") or None, repo_type="dataset", revision=revision
  ):
    yield entry.path, isinstance(entry, RepoFile)


def _split(repository: str) -> tuple[str, str | None]:
  name, _, revision = repository.partition("@")
  return name, revision or None


def _page(repository: str) -> str:
  return f"https://huggingface.co/datasets/{_split(repository)[0]}"
