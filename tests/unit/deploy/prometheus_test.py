"""deploy/prometheus and deploy/grafana: no label of a target is a metric's, too; each query has metrics and labels
that exist."""

import json
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
ADDED_BY_PROMETHEUS = {"job", "instance"}
OF_A_HISTOGRAM = {"_bucket": {"le"}, "_sum": set(), "_count": set()}


def labels_of_metrics():
    """{metric: its labels}, of docs/metrics.md, which another test compares with the code."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    found = {}
    for name, kind, labels in rows:
        found[name] = set(re.findall(r"`(\w+)`", labels))
        for suffix, more in OF_A_HISTOGRAM.items() if kind == "histogram" else ():
            found[name + suffix] = found[name] | more
    return found


def labels_of_targets():
    text = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    return {name for names in re.findall(r"labels: \{([^}]*)\}", text) for name in re.findall(r"(\w+):", names)}


def queries(node):
    """(expression, legend) of every query, however deep."""
    if isinstance(node, dict):
        if "expr" in node:
            yield node["expr"], node.get("legendFormat", "")
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from queries(child)


class PrometheusTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.metrics, cls.targets = labels_of_metrics(), labels_of_targets()

    def test_targets_have_no_label_of_a_metric(self):
        self.assertIn("role", self.metrics["tributary_members"])
        self.assertEqual(self.targets, {"process"})
        for metric, labels in self.metrics.items():
            self.assertFalse(labels & (self.targets | ADDED_BY_PROMETHEUS),
                             f"{metric}: Prometheus would call its label exported_...")

    def test_queries_use_what_there_is(self):
        found = list(queries(json.loads((ROOT / "deploy" / "grafana" / "decode.json").read_text())))
        self.assertGreater(len(found), 20)
        for expression, legend in found:
            names = set(re.findall(r"tributary_\w+", expression))
            self.assertLessEqual(names, set(self.metrics), expression)
            known = set.union(*(self.metrics[name] for name in names)) | self.targets | ADDED_BY_PROMETHEUS
            by = re.findall(r"(?:by|ignoring|on) \(([^)]*)\)|(?:by|ignoring|on)\(([^)]*)\)", expression)
            used = {label.strip() for pair in by for label in ",".join(filter(None, pair)).split(",")}
            used |= set(re.findall(r"[{,]\s*(\w+)\s*[=!]", expression)) | set(re.findall(r"\{\{(\w+)\}\}", legend))
            self.assertLessEqual(used, known, f"{expression} {legend}")


if __name__ == "__main__":
    unittest.main()
