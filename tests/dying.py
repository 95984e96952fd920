"""A service that kills itself at a named point of its work: python -m tests.dying SERVICE GROUP:POINT N

It dies when the work comes to the point for the N-th time. GROUP is the point's first subject, if it matters.
"""

import os
import signal
import sys

from services import cli, points

SERVICE, WHERE, TIMES = sys.argv[1:4]
GROUP, _, POINT = WHERE.rpartition(":")
left = int(TIMES)


def watch(name: str, *subjects: object) -> None:
    global left
    if name == POINT and GROUP in ("", *(subject for subject in subjects[:1] if isinstance(subject, str))):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    points.watch = watch
    sys.exit(cli.run([SERVICE]))
