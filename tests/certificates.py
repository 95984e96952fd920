"""Certificates for services in tests: one authority for all of them, and a stranger's."""

import ssl
from pathlib import Path

import trustme

from tests.serving import HOST


class Authority:
    """Signs certificates, and writes them where services look for theirs."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    @property
    def pem(self) -> bytes:
        return bytes(self._ca.cert_pem.bytes())

    def write(self, folder: Path, name: str = HOST, *more: "Authority") -> dict[str, str]:
        """A fresh certificate for `name` in files of `folder`, with the authorities that its service trusts:
        this one and `more`. Returns the settings that name them.
        """
        folder.mkdir(exist_ok=True)
        made = self._ca.issue_cert(name)
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        files = {
            "cert": chain,
            "key": made.private_key_pem.bytes(),
            "ca": b"".join(each.pem for each in (self, *more)),
        }
        for file, content in files.items():
            fresh = folder / f"{file}.new"
            fresh.write_bytes(content)
            fresh.replace(folder / file)
        return {f"internal_{file}_file": str(folder / file) for file in files}


def client(authority: Authority, given: dict[str, str] | None = None) -> ssl.SSLContext:
    """Who takes services of `authority`, and shows the certificate `given`, if any."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if given is not None:
        context.load_cert_chain(given["internal_cert_file"], given["internal_key_file"])
    return context
