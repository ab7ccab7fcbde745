"""Latency: what is run and reported, how long it is repeated, the statistics; no test depends on how fast it is."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import math
import platform
import statistics
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dicenas.cost import (
    DTYPES,
    LatencyResult,
    LatencySettings,
    clock_mhz,
    compare_latency,
    driver_version,
    latency,
    measure_interleaved,
    measure_latency,
    timing,
)
from dicenas.cost.timing import summarize
from dicenas.nets import FusedDiCE, dicenet
from dicenas.ops import DiCE, kernels

#: How latency is measured on the devices that are here.
METHODS = {"cpu": "clock"} | ({"cuda:0": "graph"} if torch.cuda.is_available() else {})


class Probe(nn.Module):
    """Writes down under what it is run."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(
            {
                "shape": tuple(x.shape),
                "dtype": (x.dtype, self.linear.weight.dtype),
                "inference": torch.is_inference_mode_enabled(),
                "training": self.training or self.linear.training,
                "threads": torch.get_num_threads(),
                "kernels": kernels.available("cpu"),
            }
        )
        return self.linear(x)


@pytest.fixture
def probe() -> Probe:
    Probe.seen.clear()
    return Probe()


@pytest.mark.parametrize(("device", "method"), METHODS.items())
def test_result_says_what_was_measured(device: str, method: str) -> None:
    started = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    result = measure_latency(dicenet(0.1, 5, 32), (3, 32, 32), device=device, batch=2, threads=1, time_limit_s=0)
    assert 0 < result.min_ms <= result.p25_ms <= result.latency_ms <= result.p75_ms <= result.p90_ms < math.inf
    low, high = result.interval_ms
    assert result.min_ms <= low <= result.latency_ms <= high
    assert (result.device, result.method, result.runtime, result.dtype) == (device, method, "kernels", "float32")
    assert (result.batch, result.input_size, result.threads, result.repeats) == (2, (3, 32, 32), 1, 10)
    assert result.memory_format == "contiguous"
    assert result.torch_version == torch.__version__
    assert result.python_version == platform.python_version()
    assert result.cold is False
    assert (result.launch_overhead_ms is None) == (method == "clock")
    assert result.clock_mhz == pytest.approx(clock_mhz(torch.device(device)), rel=1) or result.clock_mhz is None
    assert result.driver_version == driver_version(torch.device(device))
    assert started <= datetime.datetime.fromisoformat(result.measured_at) <= datetime.datetime.now(datetime.UTC)


def test_result_is_plain_data() -> None:
    result = measure_latency(nn.Identity(), (1,), time_limit_s=0)
    data = json.loads(json.dumps(result.to_dict()))
    assert set(data) == {field.name for field in dataclasses.fields(LatencyResult)}
    assert data["latency_ms"] == result.latency_ms


def test_the_whole_batch_is_run_in_evaluation_mode_without_gradients(probe: Probe) -> None:
    threads = torch.get_num_threads()
    result = measure_latency(probe, (2, 3), batch=4, dtype="float64", threads=threads + 1, time_limit_s=0)
    assert result.threads == threads + 1
    assert torch.get_num_threads() == threads
    assert len(Probe.seen) > result.repeats  # warmed up before
    for seen in Probe.seen:
        assert seen == {
            "shape": (4, 2, 3),
            "dtype": (torch.float64, torch.float64),
            "inference": True,
            "training": False,
            "threads": threads + 1,
            "kernels": kernels.available("cpu"),
        }


def test_caches_are_flushed_before_each_cold_run(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "last_cache_bytes", lambda device: 1000)
    seen: list[int] = []

    def flush(device: torch.device) -> Any:
        write = plain(device)

        def written() -> Tensor:
            seen.append(len(Probe.seen))
            buffer = write()
            assert (buffer.nbytes, buffer.device) == (2000, device)
            return buffer

        return written

    plain = timing.cache_flush
    monkeypatch.setattr(latency, "cache_flush", flush)
    result = measure_latency(probe, (3,), cold=True, time_limit_s=0)
    assert result.cold
    assert seen == list(range(len(Probe.seen) - result.repeats, len(Probe.seen)))  # none in the warm-up
    seen.clear()
    assert not measure_latency(probe, (3,), time_limit_s=0).cold
    assert not seen


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_dtypes(probe: Probe, dtype: str) -> None:
    assert measure_latency(probe, (3,), dtype=dtype, time_limit_s=0).dtype == dtype
    assert {seen["dtype"] for seen in Probe.seen} == {(DTYPES[dtype], DTYPES[dtype])}


def test_eager_runs_without_kernels(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def counted(*tensors: Tensor) -> Tensor:
        used.append(tensors)
        return plain(*tensors)

    plain = kernels.dim_conv
    monkeypatch.setattr(kernels, "dim_conv", counted)
    net = dicenet(0.1, 5, 32)
    for runtime in ("eager", "kernels"):
        used.clear()
        assert measure_latency(net, (3, 32, 32), runtime=runtime, time_limit_s=0).runtime == runtime
        assert bool(used) == (runtime == "kernels" and kernels.available("cpu"))


def test_fused_runs_the_fused_network(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    forward = FusedDiCE.forward
    monkeypatch.setattr(FusedDiCE, "forward", lambda self, x: ran.append(self) or forward(self, x))
    assert measure_latency(dicenet(0.1, 5, 32), (3, 32, 32), runtime="fused", time_limit_s=0).runtime == "fused"
    assert ran


def test_every_network_is_compiled_for_its_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left alone, torch would make changing sizes dynamic and run the ninth network uncompiled."""
    compiled: list[list[Any]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        compiled.append([tuple(x.shape) for x in inputs if isinstance(x, Tensor) and x.dim() == 4])
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    for channels in range(1, 10):
        net = nn.Sequential(nn.Conv2d(channels, 2, 1), nn.ReLU())
        result = measure_latency(net, (channels, 4, channels + 2), runtime="compiled", time_limit_s=0)
        assert result.runtime == "compiled"
    assert len(compiled) == 9
    assert all((1, c, 4, c + 2) in shapes for c, shapes in enumerate(compiled, start=1))


@pytest.mark.slow
def test_compiled_by_inductor() -> None:
    result = measure_latency(DiCE(4, 6, size=(5, 7)), (4, 5, 7), runtime="compiled", time_limit_s=0)
    assert result.runtime == "compiled"
    assert result.latency_ms > 0


def test_the_module_is_not_changed() -> None:
    net = dicenet(0.1, 5, 32)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    for runtime in ("eager", "kernels"):
        measure_latency(net, (3, 32, 32), dtype="float64", runtime=runtime, time_limit_s=0)
    assert all(m.training for m in net.modules())
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) and after[key].dtype == before[key].dtype for key in before)
    assert torch.equal(torch.get_rng_state(), state)
    net(torch.zeros(2, 3, 32, 32)).sum().backward()  # no parameter became an inference tensor


def test_settings_come_back_when_the_network_fails() -> None:
    threads, loaded = torch.get_num_threads(), kernels.available("cpu")
    with pytest.raises(RuntimeError):
        measure_latency(nn.Linear(3, 1), (4,), threads=threads + 1, runtime="eager")
    assert torch.get_num_threads() == threads
    assert kernels.available("cpu") == loaded
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "meta"}, "device meta is not supported"),
        ({"dtype": "float23"}, r"unknown dtype 'float23'.*float32"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"runtime": "kernel"}, r"unknown runtime 'kernel'.*kernels"),
        ({"batch": 0}, "batch 0 "),
        ({"threads": 0}, "threads 0 "),
        ({"time_limit_s": -1}, "time_limit_s -1 "),
        ({"time_limit_s": math.nan}, "time_limit_s nan "),
    ],
)
def test_bad_arguments(probe: Probe, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_latency(probe, (3,), **arguments)
    assert Probe.seen == []


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none(probe: Probe, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"{device} is asked for, but torch finds no CUDA device here; use cpu"):
        measure_latency(probe, (3,), device=device)


class Watch:
    """A clock that only the runs move; they take the times given, over and over."""

    def __init__(self, *times_ms: float) -> None:
        self.now_s = 0.0
        self.runs = 0
        self._times_ms = times_ms

    def clock(self) -> float:
        return self.now_s

    def run(self) -> float:
        time_ms = self._times_ms[self.runs % len(self._times_ms)]
        self.runs += 1
        self.now_s += time_ms / 1000
        return time_ms


def test_steady_times_stop_at_the_least_repeats() -> None:
    watch = Watch(2.0, 2.01)
    assert timing.repeat(watch.run, 60, watch.clock) == [2.0, 2.01] * 5


@pytest.mark.parametrize(("limit_s", "repeats"), [(0.0, 10), (0.0301, 21), (0.3, 200)])
def test_noisy_times_stop_at_the_limit(limit_s: float, repeats: int) -> None:
    watch = Watch(1.0, 2.0)
    times_ms = timing.repeat(watch.run, limit_s, watch.clock)
    assert abs(len(times_ms) - repeats) <= 1
    assert summarize(times_ms)["verdict"] == "noisy"


def test_slow_runs_repeat_ten_times_all_the_same() -> None:
    watch = Watch(1000.0, 5000.0)
    assert len(timing.repeat(watch.run, 0.5, watch.clock)) == 10


def test_times_with_outliers_are_repeated_until_the_median_is_known() -> None:
    watch = Watch(1.0, 5.0, 1.01, 1.02, 1.0)
    times_ms = timing.repeat(watch.run, 60, watch.clock)
    assert 10 < len(times_ms) < 200
    assert summarize(times_ms)["verdict"] == "ok"
    assert summarize(times_ms[:-1])["verdict"] == "noisy"


def test_statistics_of_known_times() -> None:
    times_ms = [float(n) for n in range(1, 102)]
    assert summarize(times_ms[::-1]) == {
        "latency_ms": 51.0,
        "p25_ms": 26.0,
        "p75_ms": 76.0,
        "p90_ms": 91.0,
        "min_ms": 1.0,
        # Ranks 50 -+ 0.98 * sqrt(101) = 9.8, outwards.
        "interval_ms": (41.0, 61.0),
        "repeats": 101,
        "verdict": "noisy",
    }


def test_median_of_an_even_number_lies_between() -> None:
    summary = summarize([1.0, 2.0, 4.0, 8.0])
    assert (summary["latency_ms"], summary["p25_ms"], summary["p75_ms"]) == (3.0, 1.75, 5.0)
    assert summary["interval_ms"] == (1.0, 8.0)


@pytest.mark.parametrize(("high", "verdict"), [(103.0, "ok"), (103.1, "noisy")])
def test_verdict_is_at_three_percent_of_the_median(high: float, verdict: str) -> None:
    assert summarize([100.0] * 8 + [high] * 2)["verdict"] == verdict
    assert summarize([100.0] * 9 + [high * 2])["verdict"] == "ok"  # one outlier in ten does not matter


@given(st.lists(st.floats(0.001, 1000), min_size=2, max_size=60))
def test_statistics_agree_with_the_standard_library(times_ms: list[float]) -> None:
    summary = summarize(times_ms)
    twentieths = statistics.quantiles(times_ms, n=20, method="inclusive")
    assert summary["latency_ms"] == statistics.median(times_ms)
    assert [summary[name] for name in ("p25_ms", "p75_ms", "p90_ms")] == pytest.approx(
        [twentieths[4], twentieths[14], twentieths[17]]
    )
    low, high = summary["interval_ms"]
    assert {low, high} <= set(times_ms)
    assert low <= summary["latency_ms"] <= high


@pytest.mark.parametrize("repeats", range(10, 60))
def test_interval_covers_the_median_with_95_percent(repeats: int) -> None:
    """Exactly, by the binomial distribution of how many runs fall below the true median."""
    low, high = (int(rank) for rank in timing.median_interval(range(repeats)))
    # The interval misses where all but `low` runs lie on one side of the median.
    missed = sum(math.comb(repeats, below) for below in range(low + 1)) / 2**repeats
    missed += sum(math.comb(repeats, above) for above in range(repeats - high)) / 2**repeats
    assert missed <= 0.05


class FakeCuda:
    """Stands in for what the CUDA timer uses of torch.cuda, where no device is; its clock moves by one each run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, synchronizes: bool, captures: bool) -> None:
        self.log: list[str] = []
        self.mode = 0
        self.now_ms = 0
        self.synchronizes, self.captures = synchronizes, captures
        fake = self

        class Stream:
            def wait_stream(self, other: Any) -> None:
                fake.log.append("wait")

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                fake.log.append("record")
                self.ms = fake.now_ms

            def synchronize(self) -> None:
                fake.log.append("synchronize")

            def elapsed_time(self, end: Any) -> float:
                assert fake.log[-1] == "synchronize"
                return float(end.ms - self.ms)

        class CUDAGraph:
            def replay(self) -> None:
                fake.log.append("replay")
                fake.now_ms += 1

        @contextlib.contextmanager
        def graph(graph: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
            assert isinstance(stream, Stream)
            fake.log.append("capture")
            yield
            if not fake.captures:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

        def set_mode(mode: int | str) -> None:
            fake.mode = {"error": 2}.get(str(mode), 0)

        for name, value in {
            "Stream": Stream,
            "Event": Event,
            "CUDAGraph": CUDAGraph,
            "graph": graph,
            "current_stream": Stream,
            "stream": lambda stream: contextlib.nullcontext(),
            "device": lambda device: contextlib.nullcontext(),
            "synchronize": lambda: None,
            "get_sync_debug_mode": lambda: fake.mode,
            "set_sync_debug_mode": set_mode,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def run(self, x: Tensor) -> None:
        if self.mode == 2 and self.synchronizes:
            raise RuntimeError("called a synchronizing CUDA operation")
        self.log.append("run")
        self.now_ms += 1


@pytest.mark.parametrize(
    ("synchronizes", "captures", "method"), [(False, True, "graph"), (True, True, "events"), (False, False, "events")]
)
def test_cuda_times_are_those_between_events(
    monkeypatch: pytest.MonkeyPatch, synchronizes: bool, captures: bool, method: str
) -> None:
    fake = FakeCuda(monkeypatch, synchronizes, captures)
    timer, used = timing.cuda_timer(fake.run, torch.zeros(1))
    assert used == method
    assert fake.mode == 0  # as it was
    assert ("capture" in fake.log) == (not synchronizes)  # a capture that has to fail is not tried
    assert fake.log.index("run") > fake.log.index("wait")

    fake.log.clear()
    once = "replay" if method == "graph" else "run"
    assert timer() == 1
    # The run before the first event hides the host's launch of the one that is timed.
    assert fake.log == [once, "record", once, "record", "synchronize"]

    cold, _ = timing.cuda_timer(fake.run, torch.zeros(1), lambda: fake.log.append("flush"))
    fake.log.clear()
    assert cold() == 1
    assert fake.log == [once, "flush", "record", once, "record", "synchronize"]


def test_launches_are_timed_on_an_idle_device(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(monkeypatch, synchronizes=False, captures=True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: fake.log.append("idle"))
    assert timing.launch_timer(fake.run, torch.zeros(1))() == 1
    assert fake.log == ["idle", "record", "run", "record", "synchronize"]


def test_launch_overhead_is_what_launches_take_beyond_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "cpu_timer", lambda run, x, *before: (lambda: 2.0, "graph"))
    monkeypatch.setattr(latency, "launch_timer", lambda run, x: lambda: 5.0)
    assert measure_latency(nn.Identity(), (1,)).launch_overhead_ms == 3.0
    assert measure_latency(nn.Identity(), (1,), cold=True).launch_overhead_ms is None


def test_onnxruntime_runs_a_session(probe: Probe) -> None:
    result = measure_latency(dicenet(0.1, 5, 32), (3, 32, 32), runtime="onnxruntime", threads=1, time_limit_s=0)
    assert (result.runtime, result.method) == ("onnxruntime", "clock")
    with pytest.raises(ValueError, match="contiguous float32 networks on the cpu"):
        measure_latency(probe, (3,), runtime="onnxruntime", dtype="float64")


class Order(nn.Module):
    """Writes down when it is run."""

    seen: ClassVar[list[int]] = []

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.number)
        return x


def test_interleaved_modules_take_turns() -> None:
    Order.seen.clear()
    results = measure_interleaved({str(i): Order(i) for i in range(3)}, (1,), LatencySettings(threads=1), rounds=8)
    assert list(results) == ["0", "1", "2"]
    assert {result.repeats for result in results.values()} == {8}
    rounds = [Order.seen[-3 * n : len(Order.seen) - 3 * (n - 1)] for n in range(8, 0, -1)]
    assert all(sorted(order) == [0, 1, 2] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    with pytest.raises(ValueError, match="one module and two rounds"):
        measure_interleaved({}, (1,), LatencySettings())
    with pytest.raises(ValueError, match="compiled networks cannot take turns"):
        measure_interleaved({"a": Order(0)}, (1,), LatencySettings(runtime="compiled"))


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [((2.0, 2.1, 1.9), "slower"), ((0.5, 0.51), "faster"), ((0.9, 1.1), "indistinguishable")],
)
def test_comparison_is_by_ratios_within_a_round(
    factors: tuple[float, ...], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine drifts by a factor of ten, the ratio of the two does not."""
    rounds = 30
    drift = [1 + 9 * i / rounds for i in range(rounds)]
    times_ms = {"first": [d * factors[i % len(factors)] for i, d in enumerate(drift)], "second": drift}
    monkeypatch.setattr(latency, "_interleaved", lambda *_, **__: (times_ms, dict.fromkeys(times_ms, "clock")))
    comparison = compare_latency(nn.Identity(), nn.Identity(), (1,), rounds=rounds)
    assert comparison.verdict == verdict
    low, high = comparison.ratio_interval
    assert low <= comparison.ratio <= high


def test_compared_modules_are_both_run() -> None:
    Order.seen.clear()
    comparison = compare_latency(Order(1), Order(2), (1,), rounds=5)
    assert (comparison.first.repeats, comparison.second.repeats) == (5, 5)
    assert Order.seen.count(1) == Order.seen.count(2)


def test_memory_format_reaches_the_module() -> None:
    seen = []

    class Layout(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return x

    result = measure_latency(Layout(), (3, 4, 4), memory_format="channels_last", time_limit_s=0)
    assert result.memory_format == "channels_last"
    assert set(seen) == {True}
