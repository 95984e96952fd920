"""Certificates at internal ports: both sides show one (`REJOINDER_INTERNAL_CERT_FILE` and its like).

    who listens   takes who shows a certificate of the authorities, and who shows none. The `Edge` answers the
                  latter only where it is asked how the service is: a probe has no certificate
    who asks      takes a service whose certificate is of the authorities, and for the name that is asked

The files are read again when they change. What is read is for new connections: those that are open go on. An
authority that is added is taken; one that is removed holds until the process is started again, since a TLS
context cannot forget one.
"""

import ssl
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Self

from prometheus_client import Gauge

from schemas.errors import SettingsError
from services.settings import PREFIX, Settings
from services.web.watched import LOOK_S, FileBroken, Watched, read_plain

MOST_BYTES = 1 << 20
"""Bytes of the largest file."""
BROKEN = Gauge(
    "rejoinder_certificates_broken",
    "Whether the certificates of internal ports cannot be read as they are",
)


class Certificates:
    """What internal ports, and those who ask at them, use of TLS: nothing, unless the settings name files.

    Run each of `loops` as long as the process serves.
    """

    def __init__(self, files: tuple[Path, Path, Path] | None = None, look_s: float = LOOK_S) -> None:
        """`files`: certificate, key, authorities."""
        self.server: ssl.SSLContext | None = None
        self.client: ssl.SSLContext | None = None
        self.loops: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
        self._watched: Watched[bool] | None = None
        if files is not None:
            self._files = files
            self.server, self.client = _contexts()
            what = "the certificates of internal ports"
            self._watched = Watched(what, files, self._check, self._take, BROKEN, look_s)
            self.loops = (self._watched.run,)

    def __repr__(self) -> str:
        return f"<Certificates {self._watched}>"

    @classmethod
    async def of(cls, settings: Settings) -> Self:
        """Those of the settings, read. Raises SettingsError if they cannot be used."""
        given = settings.internal_cert_file, settings.internal_key_file, settings.internal_ca_file
        made = cls((Path(given[0]), Path(given[1]), Path(given[2])) if all(given) else None)
        try:
            await made.first()
        except FileBroken as error:
            raise SettingsError(f"{PREFIX}INTERNAL_CERT_FILE, …_KEY_FILE, …_CA_FILE: {error}") from error
        return made

    async def first(self) -> None:
        """Read the files. Raises FileBroken."""
        if self._watched is not None:
            await self._watched.first()

    def _check(self) -> bool:
        """Whether the files can be used: a context that fails to load them may have lost what it had."""
        for path in self._files:
            read_plain(path, MOST_BYTES)
        for context in _contexts():
            self._load(context)
        return True

    def _take(self, _: bool) -> None:
        for context in (self.server, self.client):
            assert context is not None
            self._load(context)

    def _load(self, context: ssl.SSLContext) -> None:
        cert, key, authorities = self._files
        try:
            context.load_cert_chain(cert, key, password=_no_password)
            context.load_verify_locations(authorities)
        except (ssl.SSLError, OSError, ValueError) as error:
            what = "cannot be used for TLS: PEM files without a password, and a key that is the certificate's"
            raise FileBroken(f"{cert}, {key}, {authorities} {what} ({error})") from None


def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For who listens, and for who asks."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.verify_mode = ssl.CERT_OPTIONAL
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    return server, client


def _no_password() -> str:
    """OpenSSL would ask for one on the terminal."""
    return ""
