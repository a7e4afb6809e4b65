"""Commands that list what there is: recipes, languages, teachers, devices."""

from time_jax.config.command import Command
from time_jax.core.storage.paths import Path


class Recipes(Command):
  """The recipes and sweeps that come with time_jax."""

  name = "recipes"
  example = "recipes"

  def run(self) -> int:
    """Prints the name and the first line of each."""
    from time_jax.config import recipe_files

    for kind, use in (("recipe", "--config=NAME"), ("sweep", "sweep NAME")):
      print(f"{use}:")
      for name, path in recipe_files.shipped(kind).items():
        print(f"  {name:<14} {recipe_files.summary(path)}")
    print(f"Files: {recipe_files.SHIPPED}")
    if recipe_files.LAUNCHERS.is_dir():
      print(f"Launchers for clusters: {recipe_files.LAUNCHERS}")
    print("A copy to change: python -m time_jax recipe NAME > mine.py")
    return 0


class Recipe(Command):
  """Print a recipe or a sweep, as a copy to change."""

  name = "recipe"
  example = "recipe quickstart > mine.py"
  argument = "name"
  name_: str  # A name that `recipes` lists.

  def run(self) -> int:
    """Prints the file."""
    from time_jax.config import recipe_files

    kind = "sweep" if self.name_.startswith("sweep") else "recipe"
    path = recipe_files.find(self.name_, kind)
    print(path.read_text(encoding="utf-8"), end="")
    return 0


class Languages(Command):
  """Languages, and which corpora, treebanks and checkpoints have them."""

  name = "languages"
  example = "languages da"
  argument = "code"
  # A language: da, dan, dan_Latn, or what a corpus calls it; none: all.
  code: str | None = None

  def run(self) -> int:
    """Prints one language, or all."""
    from time_jax.catalog import listing

    return listing.languages_command(self.code)


class Teachers(Command):
  """Recommended teachers, with the layer and R to distil them by."""

  name = "teachers"
  example = "teachers"

  def run(self) -> int:
    """Prints the table."""
    from time_jax.catalog import listing

    return listing.teachers_command()


class Doctor(Command):
  """Devices, versions, flags, memory, folders; what is wrong, what to do."""

  name = "doctor"
  example = "doctor"
  workdir: Path | None = None  # Folder of a run, to check as well.

  def run(self) -> int:
    """Prints the findings."""
    from time_jax.cli import doctor

    return doctor.doctor(self.workdir)
