"""Laws of the host as a device."""

from __future__ import annotations

import numpy as np

from inferplane.execution.host_runtime import HostRuntime
from inferplane.interfaces import Bucket

BUCKET = Bucket("decode", 4, 4)


def test_without_a_bucket_nothing_is_copied() -> None:
    array = np.arange(4, dtype=np.int32)
    tensor = HostRuntime().to_device({"x": array}, None)["x"]
    assert tensor.data_ptr() == array.ctypes.data


def test_with_a_bucket_addresses_stay_and_contents_follow() -> None:
    runtime = HostRuntime()
    first = runtime.to_device({"x": np.arange(4, dtype=np.int32)}, BUCKET)["x"]
    address = first.data_ptr()
    second = runtime.to_device({"x": np.full(4, 7, np.int32)}, BUCKET)["x"]
    assert second.data_ptr() == address and second.tolist() == [7] * 4


def test_memory_is_the_kv_budget() -> None:
    report = HostRuntime(kv_bytes=4096).memory()
    assert (report.total, report.free, report.shared_with_host) == (4096, 4096, True)
