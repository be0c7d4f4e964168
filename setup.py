"""Metadata lives in pyproject.toml; here is what depends on the libraries that `make plugins` has made.

A wheel that carries one is for this kind of machine, whatever the version of Python; without any it is for all.
"""

from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel

LIBRARIES = Path(__file__).parent / "trtllm_ext/plugin/lib"


class WithLibraries(Distribution):
    def has_ext_modules(self) -> bool:
        return any(LIBRARIES.glob("*.so"))


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


setup(distclass=WithLibraries, cmdclass={"bdist_wheel": Wheel})
