"""An exported folder -> a repository on the Hugging Face hub."""

import pathlib

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from time_jax.core.display import aligned_table
from time_jax.core.errors import RunError, UserError
from time_jax.core.storage.paths import list_files
from time_jax.hf.files import first_line


def check_name(name: str) -> None:
  """Raises UserError unless a name is OWNER/NAME, before any work is done."""
  try:
    validate_repo_id(name)
    if "/" not in name:
      raise HFValidationError("it has no owner")
  except HFValidationError as error:
    reason = first_line(error).rstrip(".")
    raise UserError(
      f"--push={name}: {reason}; expected OWNER/NAME, such as user/time-da-m."
    ) from error


def check_token() -> None:
  """Raises UserError without a token; the hub alone knows if it will do."""
  if get_token() is None:
    raise UserError(
      "--push needs a token of the hub: run `hf auth login`, or set HF_TOKEN; "
      "or see with --dry_run what would be uploaded."
    )


def push(
  folder: pathlib.Path,
  name: str,
  *,
  private: bool,
  revision: str | None,
  dry_run: bool,
) -> None:
  """Uploads a folder in one commit, or lists what would be uploaded.

  The token comes from `hf auth login` or HF_TOKEN, as the hub's own library
  finds it.

  Args:
    folder: an export; all files in it are uploaded. The same commit deletes
      ONNX files of an earlier export that this one lacks.
    name: OWNER/NAME; the repository is made if it does not exist.
    private: whether a repository that is made is private.
    revision: branch, made if it does not exist; None: main.
    dry_run: whether to list only, without asking the hub.

  Raises:
    RunError: the hub cannot be reached or refuses; the folder stays.
  """
  print(_listing(folder, name, revision, private))
  if dry_run:
    print("Dry run: nothing was uploaded.")
    return
  api = HfApi()
  try:
    api.create_repo(name, private=private, exist_ok=True)
    if revision:
      api.create_branch(name, branch=revision, exist_ok=True)
    commit = api.upload_folder(
      repo_id=name,
      folder_path=folder,
      commit_message="Export of time_jax",
      revision=revision,
      delete_patterns="onnx/*",
    )
  except Exception as error:  # The hub's errors share no base class.
    raise RunError(
      f"not uploaded to {name}: {first_line(error)} The folder stays: {folder};"
      " check the token's right to write (`hf auth whoami`), and run it again."
    ) from error
  print(f"Uploaded in one commit: {commit.commit_url}")


def _listing(
  folder: pathlib.Path, name: str, revision: str | None, private: bool
) -> str:
  sizes = {
    str(path.relative_to(folder)): path.stat().st_size
    for path in list_files(folder)
  }
  sizes["in all"] = sum(sizes.values())
  rows = [[f"  {file}", f"{size:,} bytes"] for file, size in sizes.items()]
  kind = "private" if private else "public"
  title = f"{name} ({kind} if new), branch {revision or 'main'}"
  return f"{title}\n{aligned_table(rows, align='<>')}"
