"""Uploads an exported folder to a repository on the Hugging Face hub."""

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from time_jax.core.display import aligned_table
from time_jax.core.errors import RunError, UserError, first_line
from time_jax.core.storage.paths import Path, list_files


def check_name(name: str) -> None:
  """Checks the name of a repository before any work is done.

  Args:
    name: as given by --push.

  Raises:
    UserError: it is not of the form OWNER/NAME, or the hub does not allow it.
  """
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
  """Raises UserError if there is no token; whether it is valid stays open."""
  if get_token() is None:
    raise UserError(
      "--push needs a token of the hub: run `hf auth login`, or set HF_TOKEN; "
      "or see with --dry_run what would be uploaded."
    )


def push(
  folder: Path, name: str, *, private: bool, revision: str | None, dry_run: bool
) -> None:
  """Uploads a folder in one commit, or lists what would be uploaded.

  The hub's library finds the token, from `hf auth login` or in HF_TOKEN.

  Args:
    folder: an export, all files of which are uploaded. The same commit deletes
      ONNX files of an earlier export that this one lacks.
    name: OWNER/NAME; the repository is created if it does not exist.
    private: whether to create it as a private one.
    revision: the branch, created if it does not exist; None: main.
    dry_run: whether to list the files only, without asking the hub.

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
  folder: Path, name: str, revision: str | None, private: bool
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
