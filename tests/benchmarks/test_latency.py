"""benchmarks/latency.py: what it writes, and that it needs neither NNI nor Optuna nor thop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import tables

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
space: {backbone: shufflenetv2, ops: [separable_k3, dice_k3], widths: [0.1], depths: [[1], [1], [1]], stem: small}
data: {image_size: 16}
latency: {input_size: 16}
"""

# The command on a space of a few networks, as on a machine that lacks what a search needs.
SMALL = f"""
import importlib.abc, runpy, sys
from pathlib import Path

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {{"nni", "optuna", "thop", "sklearn", "torchvision", "timm"}}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
folder = Path(sys.argv[1])
(folder / "small.yaml").write_text({CONFIG!r})
module = runpy.run_path({str(ROOT / "benchmarks" / "latency.py")!r})
module["main"].__globals__["QUICKSTART"] = folder / "small.yaml"
sys.argv[1:] = ["--name", "small", "--out", sys.argv[1], "--contexts", "1", "--nets", "3"]
module["main"]()
"""


def test_table_check_and_picture(tmp_path: Path) -> None:
    for _ in range(2):  # the second time the table is there, and checked again
        done = subprocess.run(
            [sys.executable, "-c", SMALL, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
    assert "measured" not in done.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"small.yaml", "small-table.json", "small-check.json", "small-check.png"}
    check = json.loads((tmp_path / "small-check.json").read_text())
    assert len(check["networks"]) == 3
    text = "\n".join(tables.check_tables(tmp_path / "small-check.json", root=tmp_path))
    assert "3 unseen networks" in text
    assert "| FLOPs (MACs) alone |" in text
    assert "![Predicted and measured latency](../small-check.png)" in text
