"""Precision: what this machine is fast at, and a word where the one asked for is not."""

from __future__ import annotations

import pytest
import torch

from seed_hub import machine
from seed_hub.errors import SeedHubError
from seed_hub.eval import knn
from seed_hub.eval.features import with_precision
from seed_hub.machine import resolve_precision


@pytest.fixture(params=[True, False], ids=["amx", "no amx"])
def amx(request, monkeypatch):
    monkeypatch.setattr(machine, "has_amx", lambda: request.param)
    return request.param


def test_auto_is_bf16_where_that_is_fast(amx):
    assert resolve_precision("auto", "cpu") == ("bf16" if amx else "fp32")
    assert resolve_precision("auto", "mps") == "fp32"
    settings = with_precision(knn.Settings(precision="auto", device="cpu"))
    assert settings.precision == ("bf16" if amx else "fp32")


@pytest.mark.parametrize(("device", "precision"), [("cpu", "bf16"), ("cpu", "fp32"), ("cuda", "bf16")])
def test_slow_bf16_is_warned_of_and_used(amx, device, precision, caplog):
    assert resolve_precision(precision, device) == precision
    slow = (device, precision, amx) == ("cpu", "bf16", False)
    assert ("bf16 is slower than float32 here" in caplog.text) == slow


def test_other_precisions_are_refused(amx):
    with pytest.raises(SeedHubError, match='Unknown --precision "fp16": choose auto, fp32 or bf16'):
        resolve_precision("fp16", "cpu")


@pytest.mark.parametrize(("cap", "there"), [("AVX2", False), ("AVX512_CORE_AMX", True), ("DEFAULT", True)])
def test_a_cap_of_onednn_counts(cap, there, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert machine.has_amx() == there
