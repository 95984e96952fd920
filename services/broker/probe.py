"""Asks a port which Kafka cluster serves there, by one Metadata request (version 2, no topics).

Written by hand because only the log's adapter may know a Kafka client: the request is 31 bytes, and of the
answer only the cluster's id matters. The id tells our broker from another one that took the port before ours
could.
"""

import asyncio
import struct

_METADATA, _VERSION, _CORRELATION = 3, 2, 7
_CLIENT = b"rejoinder"
_LARGEST = 1 << 20


def metadata_request() -> bytes:
    """The request with its length in front; an empty topic list asks for the cluster only."""
    header = struct.pack(f">hhih{len(_CLIENT)}s", _METADATA, _VERSION, _CORRELATION, len(_CLIENT), _CLIENT)
    body = header + struct.pack(">i", 0)
    return struct.pack(">i", len(body)) + body


def cluster_id(answer: bytes) -> str | None:
    """The cluster's id in a Metadata answer (without its length); None while no broker has joined it.

    Raises struct.error when the bytes are not such an answer.
    """
    correlation, brokers = struct.unpack_from(">ii", answer)
    if correlation != _CORRELATION or brokers < 1:
        return None
    at = 8
    for _ in range(brokers):
        _, at = _string(answer, at + 4)  # node id, host
        _, at = _string(answer, at + 4)  # port, rack
    return _string(answer, at)[0]


def _string(data: bytes, at: int) -> tuple[str | None, int]:
    """A nullable string at `at`, and where it ends."""
    (length,) = struct.unpack_from(">h", data, at)
    start = at + 2
    return (None, start) if length < 0 else (data[start : start + length].decode(), start + length)


async def serving_cluster(host: str, port: int, timeout: float = 1) -> str | None:
    """The id of the cluster that serves at `host:port`, None if none does within `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(metadata_request())
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                return cluster_id(await reader.readexactly(size)) if 8 <= size < _LARGEST else None
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError, struct.error, UnicodeDecodeError):
        return None
