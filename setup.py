"""The package: what is installed, from which folders, with which requirements.

The folders ``search_spaces/`` and ``strategies/`` stand at the top of the repository and install inside the package,
as ``dicenas.search_spaces`` and ``dicenas.strategies``; ``csrc/`` installs as the data of ``dicenas.csrc``.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# Folders at the top of the repository that install inside the package.
MAPPED = ("search_spaces", "strategies")

EXTRAS = {
    # Searching: model spaces, strategies, training on the built-in data sets, report.
    "search": [
        "filelock<3.12",  # NNI hangs with later ones
        "nni==3.0",
        "numpy",
        "optuna>=5",
        "pillow",
        "plotly",
        "pytorch-lightning",  # imported by nni.nas.nn.pytorch
        "rich",
        "scikit-learn",
        "torchvision",
    ],
    # Counting MACs.
    "cost": ["thop"],
    # Handing networks to other libraries.
    "export": ["onnx", "onnxruntime", "onnxscript", "timm"],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
EXTRAS["dev"] = [
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
        raise RuntimeError('dicenas/__init__.py has no line __version__ = "..."')
    return found.group(1)


def packages() -> list[str]:
    """List ``dicenas``, its subpackages, and the packages of the mapped folders."""
    names = find_packages(str(ROOT), include=["dicenas", "dicenas.*"])
    for folder in MAPPED:
        names += [f"dicenas.{name}" for name in find_packages(str(ROOT), include=[folder, f"{folder}.*"])]
    return [*names, "dicenas.csrc"]


setup(
    name="dicenas",
    version=version(),
    description="Neural architecture search with DiCE units among the candidate operations",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=packages(),
    package_dir={"dicenas.csrc": "csrc", **{f"dicenas.{folder}": folder for folder in MAPPED}},
    package_data={"dicenas": ["py.typed"], "dicenas.csrc": ["**/*"]},
    install_requires=["pyyaml", "safetensors", "torch>=2.11", "tqdm"],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["dicenas = dicenas.cli:main"]},
)
