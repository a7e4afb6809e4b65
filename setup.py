"""Packages of the wheel: recipes and launchers become a part of time_jax.

They lie beside the package in a checkout, where people look for them, and
pyproject.toml can only list such packages one by one.
"""

import setuptools

setuptools.setup(
  packages=[
    *setuptools.find_packages(include=["time_jax*"]),
    "time_jax.recipes",
    "time_jax.recipes.quickstart_text",
    "time_jax.launch",
  ],
  package_dir={"time_jax.recipes": "configs", "time_jax.launch": "launch"},
)
