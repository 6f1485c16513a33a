"""64k tokens without a matrix of 64k x 64k."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import re, sys, torch
from pathlib import Path
from attnpatch.kernels import Blocks, PermutedBuckets, PermutedWindow, Window, attend

torch.set_num_threads(1)
n = 65536
order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
rule = eval(sys.argv[1])

def kib(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

q, k, v = (torch.randn(1, 1, n, 32) for _ in range(3))
with torch.inference_mode():
    attend(q[:, :, :300], k[:, :, :300], v[:, :, :300], Window(100))
    Path("/proc/self/clear_refs").write_text("5")
    before = kib("VmRSS")
    attend(q, k, v, rule)
print((kib("VmHWM") - before) / 1024 - n * 32 * 4 / 2**20)  # less the output
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure peak memory")
@pytest.mark.parametrize(
    "rule",
    [
        "Window(256, sink=4)",
        "PermutedWindow(lambda n: order, 128, 127)",
        "PermutedWindow(lambda n: order, 64, 63, sink=4, local=64)",
        "PermutedBuckets(lambda n: order, 256)",
        "Blocks(torch.rand(1, 512, 512).lt(0.02) | torch.eye(512, dtype=torch.bool), 128)",
    ],
)
def test_64k_tokens_within_300_mib(rule):
    done = subprocess.run([sys.executable, "-c", SCRIPT, rule], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 300
