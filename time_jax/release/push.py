"""An exported folder -> a repository on the Hugging Face hub."""

import pathlib

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from time_jax.core.errors import RunError, UserError


def check_name(name: str) -> None:
  """Raises UserError unless a name is OWNER/NAME, before any work is done."""
  try:
    validate_repo_id(name)
    if "/" not in name:
      raise HFValidationError("it has no owner")
  except HFValidationError as error:
    reason = str(error).split("\n")[0].rstrip(".")
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
  message: str,
  dry_run: bool,
) -> None:
  """Uploads a folder in one commit, or lists what would be uploaded.

  The token comes from `hf auth login` or HF_TOKEN, as the hub's own library
  finds it.

  Args:
    folder: an export; all files in it are uploaded. ONNX files of an earlier
      one, which it may lack, go in the same commit.
    name: OWNER/NAME; made if it is not there.
    private: whether a repository that is made is private.
    revision: branch, made if it is not there; None: main.
    message: of the commit.
    dry_run: only list; the hub is not asked.

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
    done = api.upload_folder(
      repo_id=name,
      folder_path=folder,
      commit_message=message,
      revision=revision,
      delete_patterns="onnx/*",
    )
  except Exception as error:  # The hub's errors share no base class.
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise RunError(
      f"not uploaded to {name}: {reason} The folder stays: {folder}; check the "
      "token's right to write (`hf auth whoami`), and run it again."
    ) from error
  print(f"Uploaded in one commit: {done.commit_url}")


def _listing(
  folder: pathlib.Path, name: str, revision: str | None, private: bool
) -> str:
  paths = sorted(path for path in folder.rglob("*") if path.is_file())
  sizes = [(str(p.relative_to(folder)), p.stat().st_size) for p in paths]
  sizes.append(("in all", sum(size for _, size in sizes)))
  width = max(len(file) for file, _ in sizes)
  kind = "private" if private else "public"
  title = f"{name} ({kind} if new), branch {revision or 'main'}"
  lines = [f"  {file:<{width}}  {size:>13,} bytes" for file, size in sizes]
  return "\n".join([title, *lines])
