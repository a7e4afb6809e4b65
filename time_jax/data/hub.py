"""Files of a dataset repository on the Hugging Face hub, one at a time.

They go through the hub's own cache (HF_HOME), with its own login (HF_TOKEN or
`hf auth login`).
"""

import fnmatch
import glob
from collections.abc import Iterator, Sequence

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.hf_api import RepoFile

from time_jax.catalog import corpora
from time_jax.core.errors import UserError
from time_jax.core.storage.paths import Path

_OFFLINE = (
  hub_errors.LocalEntryNotFoundError,
  hub_errors.OfflineModeIsEnabled,
  ConnectionError,
  TimeoutError,
)


def find_files(repository: str, pattern: str) -> list[str]:
  """Returns the files of a dataset that match a pattern, in sorted order.

  Args:
    repository: OWNER/NAME[@REVISION] of a dataset.
    pattern: a path in it; * and ? do not match a slash.

  Raises:
    UserError: no file matches, or the repository cannot be seen.
  """
  name, _ = _split(repository)
  try:
    # Anyone may list a gated dataset; that its files are out of reach would
    # come out only when reading gets to them.
    huggingface_hub.HfApi().auth_check(name, repo_type="dataset")
    paths = sorted(_matching(repository, "", pattern.split("/")))
  except Exception as error:  # The hub's errors share no base class.
    # Not being online is an EntryNotFoundError, too.
    if not isinstance(error, hub_errors.EntryNotFoundError) or isinstance(
      error, hub_errors.LocalEntryNotFoundError
    ):
      raise explain(repository, error) from error
    paths = []
  if not paths:
    raise UserError(
      f"the dataset {repository} on the Hugging Face hub has no file "
      f"{pattern!r}; expected a path or pattern of its files: "
      f"{_page(repository)}/tree/main shows them"
    )
  return paths


def _matching(
  repository: str, folder: str, parts: Sequence[str]
) -> Iterator[str]:
  """Yields the files below a folder that match the parts of a pattern.

  Only folders that match are listed: a repository can have 100 000 files, and
  `HfFileSystem.glob` lists every folder of a depth that it has to look into.
  """
  part, *inner = parts
  if inner and not glob.has_magic(part):
    yield from _matching(repository, f"{folder}{part}/", inner)
    return
  name, revision = _split(repository)
  for entry in huggingface_hub.HfApi().list_repo_tree(
    name, folder.rstrip("/") or None, repo_type="dataset", revision=revision
  ):
    is_file = isinstance(entry, RepoFile)
    if fnmatch.fnmatchcase(entry.path.rpartition("/")[2], part):
      if inner and not is_file:
        yield from _matching(repository, f"{entry.path}/", inner)
      elif is_file and not inner:
        yield entry.path


def fetch(repository: str, path: str) -> Path:
  """Downloads a file unless it is in the cache, and returns its local path.

  Args:
    repository: OWNER/NAME[@REVISION] of a dataset.
    path: the file's path in it.

  Raises:
    UserError: there is no such file, no access, or no network.
  """
  name, revision = _split(repository)
  try:
    return Path(
      huggingface_hub.hf_hub_download(
        name, path, repo_type="dataset", revision=revision
      )
    )
  except Exception as error:  # The hub's errors share no base class.
    raise explain(repository, error) from error


def explain(repository: str, error: BaseException) -> UserError:
  """Returns an error that says why the hub failed, and what a user can do.

  Args:
    repository: OWNER/NAME[@REVISION] of the dataset.
    error: what was raised; its causes are looked at, too.
  """
  name, revision = _split(repository)
  causes = [error]
  while cause := causes[-1].__cause__ or causes[-1].__context__:
    causes.append(cause)

  def caused_by(*kinds: type[BaseException]) -> bool:
    return any(isinstance(cause, kinds) for cause in causes)

  without = ""
  if name in corpora.HELD_OUT:
    without = "; or do without held-out text: --config.data.validation='()'"
  login = "log in with `hf auth login` or set HF_TOKEN"
  if caused_by(hub_errors.GatedRepoError):
    why = (
      f"it is gated; open {_page(repository)}, accept its terms, then {login}"
      f"{without}"
    )
  elif caused_by(hub_errors.RepositoryNotFoundError):
    why = (
      f"there is no {name}, or it is private; check the name; if it is "
      f"private, {login}"
    )
  elif caused_by(hub_errors.RevisionNotFoundError):
    why = f"it has no revision {revision!r}; check it"
  # Libraries of HTTP name their connection errors alike, with no common base.
  elif caused_by(*_OFFLINE) or any(
    type(cause).__name__.startswith("Connect") for cause in causes
  ):
    why = (
      "the hub cannot be reached; go online and run it again, or give local "
      f"files{without}"
    )
  elif "scripts are no longer supported" in str(error):  # `datasets` from 4 on.
    why = (
      "it is made by code of its own, which is not run; name its files "
      f"instead: hf:{repository}/GLOB"
    )
  else:
    reason = " ".join(str(error).split())[:300]
    why = (
      f"{type(error).__name__}: {reason}; check the name and the network, then "
      "run it again"
    )
  return UserError(
    f"cannot read the dataset {repository} on the Hugging Face hub: {why}"
  )


def _split(repository: str) -> tuple[str, str | None]:
  name, _, revision = repository.partition("@")
  return name, revision or None


def _page(repository: str) -> str:
  return f"https://huggingface.co/datasets/{_split(repository)[0]}"
