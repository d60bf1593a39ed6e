"""Tests of tools/gpu_check's own parts; what it runs needs a GPU."""

import contextlib
import importlib.machinery
import importlib.util
import io
import pathlib
import unittest

TOOL = pathlib.Path(__file__).resolve().parents[3] / "tools" / "gpu_check"
loader = importlib.machinery.SourceFileLoader("gpu_check", str(TOOL))
gpu_check = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
loader.exec_module(gpu_check)


class ReportTest(unittest.TestCase):
    def make(self, *rows):
        report = gpu_check.Report()
        with contextlib.redirect_stdout(io.StringIO()):
            for row in rows:
                report.add(**row)
        return report

    def test_a_row_shows_its_share_of_the_ceiling(self):
        row = {"name": "step", "value": 5.0, "unit": "ms", "ceiling": 4.0, "ceiling_name": "ms", "ratio": 0.8,
               "bar": "<= 1.2x", "ok": True}
        self.assertIn("| step | 5 ms | 4 ms | 80 | <= 1.2x | yes |", self.make(row).table())

    def test_one_missed_bar_fails_the_report(self):
        good = {"name": "a", "value": 1, "ok": True}
        self.assertFalse(self.make(good, {"name": "b", "value": 2}).failed)
        self.assertTrue(self.make(good, {"name": "b", "value": 2, "ok": False}).failed)


class LibrariesTest(unittest.TestCase):
    def test_what_a_gpu_host_has_is_not_carried(self):
        for name in ("libc.so.6", "libstdc++.so.6",
                     "libucp.so.0", "libopenblas.so.0", "libcublasLt.so.13", "libcuda.so.1"):
            self.assertTrue(gpu_check.HOST_LIBRARIES.match(name), name)
        for name in ("libgrpc++.so.1.51", "libabsl_status.so.20220623", "libcares.so.2", "libprotobuf.so.32"):
            self.assertFalse(gpu_check.HOST_LIBRARIES.match(name), name)


if __name__ == "__main__":
    unittest.main()
