"""The style test finds what it should, and nothing else."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "tools"))
import tidy  # noqa: E402


class TidyTest(unittest.TestCase):
    def includes(self, path, line):
        findings = tidy.Findings()
        tidy.check_includes(path, [line], findings)
        return findings.lines

    def test_layers(self):
        self.assertFalse(self.includes("kv_store/kv_shard.h", '#include "attention/shape.h"'))
        self.assertTrue(self.includes("attention/shape.h", '#include "kv_store/kv_shard.h"'))
        self.assertTrue(self.includes("base/ids.h", '#include "attention/shape.h"'))
        self.assertTrue(self.includes("gpu_worker/step/decode_step.h", '#include "proto/convert.h"'))
        self.assertTrue(self.includes("gpu_worker/step/decode_step.cc", '#include "transport/ucx/ucx_data_plane.h"'))

    def test_a_policy_is_known_to_its_own_folders_alone(self):
        line = '#include "policy/hgca/maw.h"'
        self.assertFalse(self.includes("cpu_attention_service/policy/hgca/hgca_shard.cc", line))
        self.assertFalse(self.includes("gpu_worker/device/host/policy/hgca/host_maw.cc", line))
        self.assertTrue(self.includes("policy/policy.h", line))
        self.assertTrue(self.includes("cpu_attention_service/policy/shard_policy.h", line))
        self.assertTrue(self.includes("gpu_worker/device/facet.h", line))
        self.assertTrue(self.includes("gpu_worker/step/decode_step.cc", line))

    def test_services_never_include_each_other(self):
        self.assertTrue(self.includes("gpu_worker/engine/x.cc", '#include "coordinator/core/admission.h"'))
        self.assertTrue(self.includes("gpu_worker/edge/gpu_worker_main.cc", '#include "coordinator/core/admission.h"'))
        self.assertFalse(self.includes("tests/sim/cluster.cc", '#include "coordinator/core/admission.h"'))

    def test_inside_a_service_nothing_points_back(self):
        self.assertTrue(self.includes("gpu_worker/spill/spill.h", '#include "gpu_worker/step/decode_step.h"'))
        self.assertFalse(self.includes("gpu_worker/step/decode_step.h", '#include "gpu_worker/spill/spill.h"'))
        self.assertTrue(self.includes("gpu_worker/device/cuda/storage/a.cc",
                                      '#include "gpu_worker/device/cuda/forward/cuda_decode.h"'))
        self.assertFalse(self.includes("gpu_worker/device/cuda/forward/a.cc",
                                       '#include "gpu_worker/device/cuda/storage/cuda_weights.h"'))
        self.assertTrue(tidy.has_no_room("gpu_worker/x.cc"))
        self.assertFalse(tidy.has_no_room("gpu_worker/device/device.h"))
        self.assertFalse(tidy.has_no_room("kv_store/kv_shard.h"))

    def test_edges_may_know_grpc_and_cores_may_not(self):
        self.assertFalse(self.includes("coordinator/edge/coordinator_service.cc", "#include <grpcpp/server.h>"))
        self.assertTrue(self.includes("coordinator/core/coordinator_core.cc", '#include "grpcpp/server.h"'))
        self.assertTrue(
            self.includes("coordinator/core/admission.h", '#include "coordinator/edge/coordinator_service.h"'))

    def test_channels_and_servers_are_made_in_one_place(self):
        for header in ("create_channel.h", "server_builder.h", "security/credentials.h", "grpcpp.h"):
            line = f'#include "grpcpp/{header}"'
            self.assertFalse(self.includes("rpc/rpc_server.cc", line))
            self.assertTrue(self.includes("coordinator/edge/coordinator_service.cc", line))
            self.assertTrue(self.includes("client/api/client.cc", line))
            self.assertFalse(self.includes("tests/unit/rpc/rpc_server_test.cc", line))

    def test_locks_are_those_that_the_analysis_knows(self):
        self.assertTrue(self.line_findings("base/thread_pool.h", "  std::mutex mutex_;"))
        self.assertTrue(self.line_findings("rpc/a.cc", "std::lock_guard lock(mutex_);"))
        self.assertFalse(self.line_findings("base/mutex.h", "  std::mutex mutex_;"))
        self.assertFalse(self.line_findings("tests/unit/base/a_test.cc", "  std::mutex mutex_;"))

    def test_third_party_stays_in_its_folder(self):
        self.assertFalse(self.includes("transport/ucx/ucx_worker.h", "#include <ucp/api/ucp.h>"))
        self.assertTrue(self.includes("gpu_worker/edge/gpu_worker_main.cc", "#include <ucp/api/ucp.h>"))
        self.assertFalse(self.includes("telemetry/x.cc", '#include "prometheus/exposer.h"'))
        self.assertTrue(self.includes("coordinator/edge/coordinator_main.cc", '#include "prometheus/exposer.h"'))
        self.assertTrue(self.includes("attention/merge.h", "#include <immintrin.h>"))

    def function_findings(self, text):
        findings = tidy.Findings()
        tidy.check_functions("a.cc", text, findings)
        return findings.lines

    def test_long_functions(self):
        body = "  Work();\n" * 80
        self.assertTrue(self.function_findings("namespace a {\nvoid F(int x) {\n" + body + "}\n}\n"))
        self.assertTrue(self.function_findings("class A {\n  int F() const {\n" + body + "  }\n};\n"))
        self.assertTrue(self.function_findings("void F() {\n  if (x) {\n" + body + "  }\n}\n"))

    def test_long_classes_tables_and_comments_are_no_functions(self):
        self.assertFalse(self.function_findings("class A {\n" + "  int F();\n" * 80 + "};\n"))
        self.assertFalse(self.function_findings("constexpr int kTable[] = {\n" + "  1,\n" * 80 + "};\n"))
        self.assertFalse(self.function_findings("// void F() {\n" + "void G();\n" * 80))
        self.assertFalse(self.function_findings('const char* kBrace = "{";\n' + "void G();\n" * 80))

    def line_findings(self, path, *lines):
        findings = tidy.Findings()
        tidy.check_lines(path, list(lines), findings)
        return findings.lines

    def test_lines(self):
        self.assertTrue(self.line_findings("a.cc", "int x = " + "1" * 120 + ";"))
        self.assertFalse(self.line_findings("a.cc", "// " + "a" * 110))
        self.assertTrue(self.line_findings("a.cc", "// " + "a" * 125))
        self.assertTrue(self.line_findings("a.cc", *["x"] * 601))
        self.assertTrue(self.line_findings("a.cc", "int x; "))

    def test_words_of_a_policy_stay_in_its_folders(self):
        def findings(path, line):
            found = tidy.Findings()
            tidy.check_policy_words(path, [line], found)
            return found.lines
        self.assertTrue(findings("coordinator/core/placement.cc", "// how salient a token is"))
        self.assertTrue(findings("kv_store/row_cache.h", "class ContextCache;"))
        self.assertTrue(findings("policy/policy.h", "float maw_alpha = 0;"))
        self.assertTrue(findings("cpu_attention_service/policy/dense/x.cc", "// As HGCA does."))
        self.assertFalse(findings("policy/selection.h", "// how salient a token is"))
        self.assertFalse(findings("policy/hgca/hgca.h", "uint32_t keep_next = 0;"))
        self.assertFalse(findings("gpu_worker/device/host/policy/hgca/x.cc", "maw"))

    def test_texts_name_files_that_are_there(self):
        paths = tidy.NamedPaths(["policy/hgca/hgca.h", "policy/hgca/hgca.cc", "base/check.h", "docs/a.md"])

        def missing(line, path="docs/a.md"):
            return paths.missing(path, line)
        self.assertFalse(missing("`policy/hgca/hgca.{h,cc}`, `hgca.h` there, `policy/NAME/`, `policy/*/NAME.cc`"))
        self.assertFalse(missing("`n/a`, `a.b`, `Check()`, `--flag`, `config.json`, `base/check`"))
        self.assertEqual(missing("`policy/hgca/hgca.{h,cu}`"), ["policy/hgca/hgca.{h,cu}"])
        self.assertEqual(missing("`hcga.h`, `policy/fluxion/`"), ["hcga.h", "policy/fluxion/"])
        self.assertFalse(missing("// As in base/check.h, and \"other/x.h\".", "base/check.h"))
        self.assertEqual(missing("int x;  // base/chek.h says why.", "base/check.h"), ["base/chek.h"])

    def test_banned_words(self):
        for line in ("// TO" + "DO: later", "-ff" + "ast-math", "assert(x)", "using namespace std;"):
            self.assertTrue(self.line_findings("a.cc", line), line)
        self.assertFalse(self.line_findings("a.cc", "static_assert(sizeof(int) == 4);"))
        self.assertFalse(self.line_findings("a.py", "assert(x)"))


if __name__ == "__main__":
    unittest.main()
