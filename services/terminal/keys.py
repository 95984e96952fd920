"""`rejoinder keys add`, `list` and `revoke`: an operator makes API keys, and takes them away.

The file gets the hash of a new key. The key itself is printed once, on standard output, and is kept nowhere.
Services read the file again by themselves. Two commands at a time wait for each other.
"""

import fcntl
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from schemas.errors import SettingsError
from schemas.ids import TENANT
from services.settings import PREFIX as VARIABLE
from services.settings import Settings
from services.terminal.printing import say, until_enough
from services.web.api_keys import KEY_BYTES, PREFIX, ApiKey, KeysBroken, digest_of, parse_keys, parse_line
from services.web.key_file import MOST_BYTES
from services.web.watched import FileBroken, read_plain


def add_key(
    settings: Settings, name: str, *, tenant: str, admin: bool, lasts: timedelta | None, now: datetime
) -> int:
    """Make a key, print it, and append its hash to the file of `settings`. Returns 0.

    Raises SettingsError, KeysBroken or FileBroken; then there is no new key.
    """
    for what, text in (("name", name), ("tenant", tenant)):
        if text and not TENANT.fullmatch(text):
            raise SettingsError(f"{what}: {text!r} does not fit; it takes 1 to 128 letters, digits and ._:@-")
    if not tenant and not admin:
        raise SettingsError("tenant: needed, unless the key is an admin's: --tenant NAME, or --admin")
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    expires = None if lasts is None else now.astimezone(UTC).replace(microsecond=0) + lasts
    line = ApiKey(digest_of(key).hex(), name, tenant or None, admin, expires)
    with _locked(_path(settings), create=True) as file:
        raw = _content(file)
        if any(known.name == name for known in _parsed(file, raw)):
            mend = f"choose another name, or `rejoinder keys revoke {name}` first"
            raise KeysBroken(f"{file} has a key named {name}: {mend}")
        start = b"\n" if raw and not raw.endswith(b"\n") else b""
        _append(file, start + msgspec.json.encode(line) + b"\n")
    sys.stdout.write(f"{key}\n")
    sys.stderr.write(f"{file} has its hash, as {name}. The key is shown this once.\n")
    return 0


def list_keys(settings: Settings, *, tenant: str, now: datetime) -> int:
    """Print the keys of a `tenant` ("" for all): name, whose, until when. Returns 0."""
    path = _path(settings)
    lines = [_shown(key, now) for key in _parsed(path, _content(path)) if tenant in ("", key.tenant)]
    until_enough(lambda: say("".join(f"{line}\n" for line in lines)))
    return 0


def revoke_key(settings: Settings, name: str) -> int:
    """Take the line of the key `name` out of the file. Returns 0. Raises KeysBroken if there is none."""
    with _locked(_path(settings)) as file:
        raw = _content(file)
        if all(key.name != name for key in _parsed(file, raw)):
            raise KeysBroken(f"{file} has no key named {name}: `rejoinder keys list` shows what it has")
        others = (line for line in raw.splitlines(keepends=True) if not _is_of(line, name))
        _put_in_place(file, b"".join(others))
    sys.stdout.write(f"{name} is revoked: services refuse it within seconds\n")
    return 0


def _shown(key: ApiKey, now: datetime) -> str:
    whose = " ".join(part for part in (key.tenant or "", "(admin)" if key.admin else "") if part)
    if key.expires is None:
        return f"{key.name}  {whose}"
    return f"{key.name}  {whose}  {'expired' if key.expires <= now else 'until'} {key.expires.isoformat()}"


def _path(settings: Settings) -> Path:
    """The file itself, where the setting names a link to it."""
    if not settings.api_keys_file:
        raise SettingsError(f"{VARIABLE}API_KEYS_FILE: needed, or --api-keys-file: which file has the keys?")
    return Path(settings.api_keys_file).resolve()


def _content(file: Path) -> bytes:
    return read_plain(file, MOST_BYTES)


def _parsed(file: Path, raw: bytes) -> list[ApiKey]:
    try:
        return list(parse_keys(raw))
    except KeysBroken as error:
        raise KeysBroken(f"{file}: {error}: mend it first") from None


def _is_of(line: bytes, name: str) -> bool:
    with suppress(KeysBroken):
        return parse_line(line).name == name
    return False


@contextmanager
def _locked(file: Path, *, create: bool = False) -> Iterator[Path]:
    """`file`, for this command alone: also after another one has put a new file in its place."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_CREAT if create else 0)
    while True:
        try:
            opened = os.open(file, flags, 0o600)
        except OSError as error:
            raise FileBroken(f"cannot write {file}: {error.strerror}") from error
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(opened), file.stat()):
                    yield file
                    return
        finally:
            os.close(opened)


def _append(file: Path, line: bytes) -> None:
    with file.open("ab") as out:
        out.write(line)
        out.flush()
        os.fsync(out.fileno())


def _put_in_place(file: Path, content: bytes) -> None:
    """Put `content` into the place of the file, whole or not at all, with its rights and owner."""
    before = file.stat()
    made = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            os.fchmod(out.fileno(), before.st_mode & 0o777)
            with suppress(PermissionError):  # only root may, and only for root it would change
                os.fchown(out.fileno(), before.st_uid, before.st_gid)
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        made.replace(file)
    except OSError as error:
        raise FileBroken(f"cannot write {file}: {error.strerror}") from error
    finally:
        made.unlink(missing_ok=True)
