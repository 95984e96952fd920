"""Three shards behind nginx: the conformance suite through it, and the soak with shards among the dead."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.long import SOAK
from tests.reliability.conftest import Deploy
from tests.reliability.soak import Plan, soak
from tests.system import ORIGIN

SHARDS = 3
LEFT_OUT = (
    *("--ignore", "tests/conformance/test_webhooks.py"),  # no webhooks run here, which both need
    *("--ignore", "tests/conformance/test_openapi.py"),
    *("-k", "not x00 and not unknown_document"),  # nginx refuses a path with a zero byte itself
)
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not SOAK, reason="minutes: make soak takes them")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_conformance_suite_holds_behind_a_balancer(kafka: str, deploy: Deploy) -> None:
    with (
        deploy(kafka, shards=SHARDS, partitions=8, cors_origins=(ORIGIN,)) as rig,
        rig.behind("nginx") as url,
    ):
        rig.start_all()
        suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/conformance"]
        given = ["--base-url", url, "--cors-origin", ORIGIN, "--keepalive", "0.5", "--stall", "10"]
        done = subprocess.run(
            [*suite, *LEFT_OUT, *given], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-5000:]
        replays = [service for name in rig.replays for service in rig.named(name)]
        passed_on = sum(replay.metric("rejoinder_replay_passed_on_total") for replay in replays)
        assert passed_on == 0, "nginx knows the way"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_while_shards_are_killed(tmp_path: Path) -> None:
    plan = Plan(responses=120, events=50, kills=8, broker_kills=1, pace_s=2.5, at_once=24, shards=SHARDS)
    found = soak(plan, tmp_path)
    assert found["responses"] == plan.responses
