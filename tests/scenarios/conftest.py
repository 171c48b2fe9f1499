"""Makes the language of the scenarios importable by the test beside it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
