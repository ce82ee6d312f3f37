"""Packages and where they lie: converters/ at the top of the repository is installed as torch2edge.converters.

Everything else about the distribution stands in pyproject.toml.
"""

from setuptools import find_packages, setup

FOLDERS = {"torch2edge": "torch2edge", "torch2edge.converters": "converters"}

setup(
    package_dir=FOLDERS,
    packages=[name for root, folder in FOLDERS.items() for name in (root, *(f"{root}.{p}" for p in find_packages(folder)))],
    package_data={"torch2edge": ["py.typed"]},
    include_package_data=False,
)
