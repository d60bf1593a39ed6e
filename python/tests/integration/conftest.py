"""tests/integration/cluster.py starts clusters for the C++ side's tests, too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests" / "integration"))
