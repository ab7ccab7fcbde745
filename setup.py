"""The package: what is installed, from which folders, with which requirements.

The folders ``search_spaces/`` and ``strategies/`` stand at the top of the repository and install inside the
package, as ``dicenas.search_spaces`` and ``dicenas.strategies``; the sources in ``csrc/`` are its data.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# Folders at the top of the repository that install inside the package.
MAPPED = ("search_spaces", "strategies")

REQUIREMENTS = ["pyyaml", "safetensors", "torch>=2.11", "tqdm"]

COST = ["thop"]
SEARCH = [
    *COST,
    "filelock<3.12",  # NNI's own pin, repeated because later ones make it hang
    "nni==3.0",
    "numpy",
    "optuna>=5",
    "pillow",
    "plotly",
    "pytorch-lightning",  # imported by nni.nas.nn.pytorch, not required by nni
    "rich",
    "scikit-learn",
    "torchvision",
]
EXPORT = ["onnx", "onnxruntime", "onnxscript", "timm"]
DEVELOPMENT = [
    "hypothesis",
    "mypy",
    "ninja",
    "pre-commit",
    "pytest",
    "pytest-xdist",
    "ruff",
    "setuptools>=77",
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
    if (ROOT / "csrc").is_dir():
        folders["dicenas.csrc"] = "csrc"
    return folders


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
            "dicenas.csrc": [f"**/*.{suffix}" for suffix in ("c", "cc", "cpp", "cu", "cuh", "h", "hpp")],
        },
        install_requires=REQUIREMENTS,
        extras_require={
            "search": SEARCH,
            "cost": COST,
            "export": EXPORT,
            "all": [*SEARCH, *EXPORT],
            "dev": DEVELOPMENT,
        },
        entry_points={"console_scripts": ["dicenas = dicenas.cli:main"]},
    )
