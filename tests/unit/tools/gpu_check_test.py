"""Tests of tools/gpu_check's own parts; what it runs needs a GPU."""

import contextlib
import importlib.machinery
import importlib.util
import io
import pathlib
import sys
import unittest

TOOL = pathlib.Path(__file__).resolve().parents[3] / "tools" / "gpu_check"
sys.path.insert(0, str(TOOL.parent))  # as a script has it
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


class CpuFiguresTest(unittest.TestCase):
    figures = gpu_check.cpu_figures

    def row(self, dtype, threads, ratio, path="dense", bytes_per_token=1.0):
        return {"name": f"{dtype}/t{threads}", "dtype_k": dtype, "dtype_v": dtype, "path": path, "block_tokens": 0,
                "group_size": 4, "threads": threads, "ratio_to_ceiling": ratio, "tokens": 1000,
                "bytes": 1000 * bytes_per_token, "gb_per_s": 50.0, "ceiling_gb_per_s": 60.0}

    def rows(self, *rows, what="scaling"):
        return {row["name"]: row for row in self.figures.report_rows(what, rows, cores=16)}

    def test_threads_to_all_cores(self):
        self.assertEqual(self.figures.thread_counts(16), [1, 2, 4, 8, 12, 16])
        self.assertEqual(self.figures.thread_counts(2), [1, 2])
        self.assertEqual(self.figures.thread_counts(1), [1])

    def test_bars_hold_at_all_cores_only(self):
        rows = self.rows(self.row("bf16", 8, 0.7), self.row("bf16", 16, 0.89), self.row("int8", 16, 0.8,
                                                                                       bytes_per_token=0.5))
        self.assertNotIn("ok", rows["cpu scaling: bf16/t8"])
        self.assertFalse(rows["cpu scaling: bf16/t16"]["ok"])
        against = rows["cpu scaling: tokens/s against bf16, int8/t16"]
        self.assertAlmostEqual(against["value"], 0.8 / 0.5 / 0.89)
        self.assertFalse(against["ok"])

    def test_kernels_that_the_cpu_lacks_are_left_out(self):
        words = self.figures.available("--isa amx,avx512_bf16,avx2 --threads 2", {"avx2", "avx512_bf16"})
        self.assertEqual(words, "--isa avx512_bf16,avx2 --threads 2")


if __name__ == "__main__":
    unittest.main()
