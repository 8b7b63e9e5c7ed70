"""The lowest versions that pyproject.toml allows of what Preface needs, one a line, as a constraints file for pip."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
needed = [*project["dependencies"], *project["optional-dependencies"]["peft"], "pytest>=8", "hypothesis>=6.100"]
print("\n".join(line.replace(">=", "==") for line in needed if ">=" in line))
