"""The folder of a fine-tuned model, as others get it."""

from time_jax.core.storage import atomic_file
from time_jax.core.storage.paths import Path
from time_jax.hf import files, task_classes
from time_jax.release import task_card


def write_card(folder: Path, name: str, licence: str = "") -> None:
  """Writes README.md, from task.json and config.json.

  Args:
    folder: the model's folder.
    name: by which the card's code is to load it: a folder or a repository.
    licence: see `task_card.render`.
  """
  kind = task_classes.of_config(files.model_config(folder))
  description = files.read_json(folder / files.DESCRIPTION)
  text = task_card.render(description, kind, name, licence)
  atomic_file.write_text(folder / "README.md", text)
