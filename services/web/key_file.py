"""The file of API keys: read at the start, and again when it changes (`REJOINDER_API_KEYS_FILE`)."""

from pathlib import Path

from prometheus_client import Gauge

from services.web.api_keys import ApiKeys, Grant, KeysBroken, granted, parse_keys
from services.web.watched import LOOK_S, FileBroken, Watched, read_plain

MOST_BYTES = 64 << 20
"""Bytes of the largest file: some 400,000 keys."""
KEYS = Gauge("rejoinder_api_keys", "API keys in the file, expired ones included")
BROKEN = Gauge("rejoinder_api_keys_broken", "Whether the file of API keys cannot be read as it is now")


class KeyFile:
    """The keys in the file at `path`, as they were when it could be read last."""

    def __init__(self, path: Path, look_s: float = LOOK_S) -> None:
        self._path = path
        self._keys = ApiKeys()
        self._watched = Watched("the API keys", [path], self._read, self._take, BROKEN, look_s)

    def __repr__(self) -> str:
        return f"<KeyFile {self._path} with {len(self._keys)} keys>"

    def find(self, key: str) -> Grant | None:
        """Whose `key` is, expired or not; None if nobody's."""
        return self._keys.find(key)

    async def first(self) -> None:
        """Read the file. Raises FileBroken."""
        await self._watched.first()

    async def run(self) -> None:
        """Keep up with the file, for ever."""
        await self._watched.run()

    def _read(self) -> ApiKeys:
        try:
            return granted(parse_keys(read_plain(self._path, MOST_BYTES)))
        except KeysBroken as error:
            raise FileBroken(f"{self._path}: {error}") from None

    def _take(self, found: ApiKeys) -> None:
        self._keys = found
        KEYS.set(len(found))
