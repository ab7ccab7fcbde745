"""docs/compatibility.md says of every registered op and DiCENet what is found here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dicenas.ops import DimConv, dim_conv_reference, expand_candidates, kernels, list_ops
from tests.compatibility import table
from tests.compatibility.checks import CHECKS
from tests.compatibility.subjects import SUBJECTS, Subject

QUICK = [title for title, check in CHECKS.items() if check.is_quick]
LONG = [title for title, check in CHECKS.items() if not check.is_quick and not check.needs_gpu]
#: Rows whose long checks are in `make test`: with kernels in forward and backward, with gates, with split channels.
SAMPLE = ("dice_k3", "separable_se_k3", "mixed_k5")


def assert_found(title: str, names: list[str]) -> None:
    cells = table.found([title], names)
    documented = table.documented()
    assert {name: cells[name][title] for name in names} == {name: documented[name][title] for name in names}


def test_every_op_and_check_has_its_place() -> None:
    documented = table.documented()
    assert list(documented) == [*expand_candidates(list_ops()), "StridedDiCE", "dicenet_010", "dicenet_010, fused"]
    for row in documented.values():
        assert list(row) == list(CHECKS)
    document = table.DOCUMENT.read_text(encoding="utf-8")
    assert table.replaced(document, table.text(documented)) == document, "python -m tests.compatibility.table --write"


@pytest.mark.parametrize("title", QUICK)
def test_quick_columns(title: str) -> None:
    assert_found(title, list(SUBJECTS))


@pytest.mark.parametrize("title", [title for title in LONG if title != "inductor"])
def test_sample_of_long_columns(title: str) -> None:
    assert_found(title, list(SAMPLE))


@pytest.mark.slow
@pytest.mark.parametrize("title", LONG)
def test_long_columns(title: str) -> None:
    assert_found(title, list(SUBJECTS))


@pytest.mark.parametrize("title", [title for title, check in CHECKS.items() if check.needs_gpu])
def test_columns_of_gpus(title: str) -> None:
    """The table may come from a machine with a GPU or without; what was run must be right in both."""
    cells, documented = table.found([title], list(SUBJECTS)), table.documented()
    for name in SUBJECTS:
        assert {cells[name][title], documented[name][title]} <= {"yes", table.NO_GPU}


def test_there_are_no_linear_layers_to_quantise() -> None:
    assert not any(isinstance(each, nn.Linear) for subject in SUBJECTS.values() for each in subject.module().modules())


class Branching(nn.Module):
    """Has an output that depends on a value, which neither a graph nor a trace can know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else self.conv(2 * x)


class Exporting(nn.Module):
    """Is something else in an exported program."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (1.001 if kernels.exporting() else 1)


class WithoutKernels(nn.Sequential):
    """Does without its kernels where it is compiled."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return dim_conv_reference(x, *self[0].parameters())
        return self[0](x)


@pytest.mark.parametrize(
    ("title", "build", "message"),
    [
        ("compile", Branching, "Data-dependent branching"),
        ("compile", lambda: WithoutKernels(DimConv(2, (5, 3))), "dicenas.dim_conv"),
        ("fx", Branching, "control flow"),
        ("export", Branching, "data-dependent|Could not guard|DynamicControlFlow"),
        ("export", Exporting, "output differs by 0.001"),
    ],
)
def test_checks_can_fail(
    title: str, build: Callable[[], nn.Module], message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(SUBJECTS, "wrong", Subject(build, (2, 5, 3)))
    assert table.found([title], ["wrong"]) == {"wrong": {title: "no"}}
    assert re.search(message, capsys.readouterr().err)


def test_a_column_is_renewed_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    document = tmp_path / "compatibility.md"
    monkeypatch.setattr(table, "DOCUMENT", document)
    monkeypatch.setattr("sys.argv", ["table", "--write", "--only", "fx"])
    for name in list(SUBJECTS)[1:]:
        monkeypatch.delitem(SUBJECTS, name)
    (name,) = SUBJECTS
    document.write_text(f"before\n{table.MARKS[0]}\n{table.MARKS[1]}\nafter\n", encoding="utf-8")
    old = dict.fromkeys(CHECKS, "no")
    document.write_text(table.replaced(document.read_text("utf-8"), table.text({name: old})), encoding="utf-8")
    table.main()
    assert table.documented() == {name: old | {"fx": "yes"}}
    assert document.read_text("utf-8").startswith("before")
    assert document.read_text("utf-8").endswith("after\n")
