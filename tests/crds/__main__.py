"""Takes schemas from CustomResourceDefinitions: see the package."""

import sys
from pathlib import Path

from tests.crds import FOLDER, taken

origin, *paths = sys.argv[1:]
for path in paths:
    name, text = taken(Path(path).read_bytes(), origin)
    (FOLDER / name).write_text(text)
