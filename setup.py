"""The package: what is installed, from which folders, with which requirements.

The folders ``search_spaces/`` and ``strategies/`` stand at the top of the repository and install inside the
package, as ``dicenas.search_spaces`` and ``dicenas.strategies``; the sources in ``csrc/`` and the configurations
in ``configs/`` are its data.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent

# Folders at the top of the repository that install inside the package.
MAPPED = ("search_spaces", "strategies")

# Folders at the top of the repository that install inside the package as data, and what of them does.
DATA = {"configs": ("yaml",), "csrc": ("c", "cc", "cpp", "cu", "cuh", "h", "hpp")}

REQUIREMENTS = ["pyyaml", "safetensors", "torch>=2.11", "tqdm"]

COST = ["thop"]
SEARCH = [
    *COST,
    "filelock<3.12",  # NNI's own pin, repeated because later ones make it hang
    "nni==3.0",
    "numpy",
    "optuna>=5",
    "pillow>=10.1",
    "plotly",
    "psutil",
    "pytorch-lightning",  # imported by nni.nas.nn.pytorch, not required by nni
    "rich",
    "scikit-learn",
    "torchvision",
]
EXPORT = ["onnx", "onnxruntime", "onnxscript", "timm>=1.0"]
OPENVINO = ["openvino"]
PLOTS = ["matplotlib"]
TRAIN = ["numpy", "pillow>=10.1", "timm>=1.0", "torchvision"]
PARQUET = ["pyarrow"]
MYSQL = ["pymysql[rsa]"]  # with what the passwords of MySQL 8 and later take
DISTRIBUTED = ["grpcio", "optuna-dashboard", "psycopg[binary]", "tensorboard"]
DEVELOPMENT = [
    "hypothesis",
    "mypy",
    "ninja",
    *OPENVINO,  # tests/export reads ONNX files with it
    "pre-commit",
    "pymoo",  # the oracle of hypervolumes
    "pytest",
    "pytest-xdist",
    "ruff",
    "setuptools>=77",
    "torchao",  # tests/compatibility quantises with it
    "types-PyYAML",
    "types-tqdm",
]


def version() -> str:
    """Read the version without importing the package."""
    source = (ROOT / "dicenas" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', source, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError('dicenas/__init__.py has no line of the form __version__ = "1.2.3"')
    return found.group(1)


def package_folders() -> dict[str, str]:
    """Map each package to its folder, relative to the repository."""
    names = find_packages(str(ROOT), include=["dicenas", "dicenas.*"])
    folders = {name: name.replace(".", "/") for name in names}
    for top in MAPPED:
        names = find_packages(str(ROOT), include=[top, f"{top}.*"])
        folders |= {f"dicenas.{name}": name.replace(".", "/") for name in names}
    return folders | {f"dicenas.{name}": name for name in DATA if (ROOT / name).is_dir()}


def kernel_build() -> ModuleType:
    """Load what compiles the kernels; the package itself would import torch."""
    path = ROOT / "dicenas" / "ops" / "kernels" / "build.py"
    spec = importlib.util.spec_from_file_location("kernel_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildKernels(build_ext):
    """Compile the kernel libraries, which are no Python extensions.

    ``DICENAS_BUILD``: ``auto`` (default) builds what it can, and dicenas runs in plain PyTorch without the rest;
    ``cpu`` and ``cuda`` fail where that library cannot be built, ``none`` builds nothing.
    """

    def get_ext_filename(self, fullname: str) -> str:
        *folders, kind = fullname.split(".")
        return "/".join([*folders, kernel_build().library_name(kind)])

    def build_extension(self, ext: Extension) -> None:
        kind = ext.name.rpartition(".")[2]
        mode = os.environ.get("DICENAS_BUILD", "auto")
        if mode not in ("auto", "cpu", "cuda", "none"):
            raise SystemExit(f"DICENAS_BUILD is {mode!r}, expected auto, cpu, cuda or none")
        if mode == "none" or (mode == "cpu" and kind == "cuda"):
            return
        tools = kernel_build()
        try:
            tools.build_library(kind, Path(self.get_ext_fullpath(ext.name)))
        except tools.BuildError as error:
            if mode in (kind, "cuda"):
                raise SystemExit(f"DICENAS_BUILD={mode}: the {kind} kernels were not built: {error}") from error
            self.announce(f"warning: no {kind} kernels, dicenas will run without them there: {error}", level=3)

    def _built(self, paths: list[str]) -> list[str]:
        return [path for path in paths if Path(path).exists()]

    def get_outputs(self) -> list[str]:
        return self._built(super().get_outputs())

    def get_output_mapping(self) -> dict[str, str]:
        mapping = super().get_output_mapping()
        return {built: mapping[built] for built in self._built(list(mapping))}

    def copy_extensions_to_source(self) -> None:
        wanted = self.extensions
        self.extensions = [ext for ext in wanted if (Path(self.build_lib) / self.get_ext_filename(ext.name)).exists()]
        super().copy_extensions_to_source()
        self.extensions = wanted


class KernelWheel(bdist_wheel):
    """The libraries need no particular Python: one wheel per platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


if __name__ == "__main__":
    folders = package_folders()
    setup(
        name="dicenas",
        version=version(),
        description="Neural architecture search with DiCE units among the candidate operations",
        license="MIT",
        license_files=["LICENSE"],
        python_requires=">=3.11",
        packages=list(folders),
        package_dir=folders,
        package_data={
            "dicenas": ["py.typed"],
            **{f"dicenas.{name}": [f"**/*.{suffix}" for suffix in suffixes] for name, suffixes in DATA.items()},
        },
        ext_modules=[Extension(f"dicenas.ops.kernels.{kind}", []) for kind in kernel_build().KINDS],
        cmdclass={"build_ext": BuildKernels, "bdist_wheel": KernelWheel},
        install_requires=REQUIREMENTS,
        extras_require={
            "search": SEARCH,
            "cost": COST,
            "export": EXPORT,
            "openvino": OPENVINO,
            "plots": PLOTS,
            "train": TRAIN,
            "parquet": PARQUET,
            "distributed": DISTRIBUTED,
            "mysql": MYSQL,
            "all": [*SEARCH, *EXPORT, *PLOTS, *TRAIN, *PARQUET, *DISTRIBUTED, *MYSQL],
            "dev": DEVELOPMENT,
        },
        entry_points={"console_scripts": ["dicenas = dicenas.cli:main"]},
    )
