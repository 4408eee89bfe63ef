import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "nuclei"
# The example is a folder of scripts, not a package: it is found as `python examples/nuclei/demo.py` finds it.
sys.path.insert(0, str(EXAMPLE))
