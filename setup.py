"""Lists the packages of the library: maskgit, and in it the folders of its modules."""

from setuptools import find_packages, setup

FOLDERS = find_packages(include=["models", "models.*", "utils"])

setup(packages=["maskgit", *(f"maskgit.{folder}" for folder in FOLDERS)])
