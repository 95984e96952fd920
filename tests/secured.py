"""A broker that asks for TLS, SCRAM, client certificates, tokens and ACLs.

One broker, a port for each way in:

    SCRAM     SASL_SSL, users by SCRAM-SHA-512
    MTLS      SSL, a client's certificate is asked for
    OAUTH     SASL_SSL, unsecured tokens by OAUTHBEARER, as Kafka takes them for tests
    PLAINTEXT for the tests themselves, which may do everything

A user may only do what an ACL allows.
"""

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trustme
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from services.broker import ClusterNode, EmbeddedKafka
from services.broker.data import new_cluster_id
from services.broker.tcp import LOOPBACK, free_port

USER, PASSWORD = "rejoinder", "the password of rejoinder"
WAYS = ("SCRAM", "MTLS", "OAUTH")
AUDIT = "-Dorg.slf4j.simpleLogger.log.kafka.authorizer.logger=debug"
"""An option of Java with which the broker logs each right that was used, beside each that was missed."""
REAUTH_MS = 3000
"""Milliseconds after which the OAUTH port ends a connection that brought no new token."""
TOPIC, GROUP, CLUSTER = 2, 3, 4
LITERAL, PREFIXED = 3, 4
ALLOW = 3
OPERATIONS = {
    "Read": 3, "Write": 4, "Create": 5, "Delete": 6, "Alter": 7, "Describe": 8, "DescribeConfigs": 10,
    "AlterConfigs": 11,
}  # fmt: skip
"""Kafka's numbers for the operations of ACLs."""

Acl = tuple[int, str, str]
"""An allowed operation: a kind of resource, the beginning of its name, the operation."""


class Secured:
    """The broker's ports, and the files and users that open them."""

    def __init__(self, folder: Path, ports: Mapping[str, int]) -> None:
        self.folder = folder
        self.log_path = folder / "broker" / "kafka.log"
        """Has a line for each use of a right, and each lack of one, since the broker has started."""
        self.ports = ports
        self.bootstrap = {way: f"{LOOPBACK}:{port}" for way, port in ports.items()}
        self.authority = trustme.CA()
        self.stranger = trustme.CA()
        self.ca_file = self._write("ca.pem", self.authority.cert_pem.bytes())
        self.other_ca_file = self._write("other-ca.pem", self.stranger.cert_pem.bytes())
        self.cert_file, self.key_file = self._client(self.authority, "client")
        self.other_cert_file, self.other_key_file = self._client(self.stranger, "stranger")
        broker = self.authority.issue_cert(LOOPBACK)
        self.keystore = self._write("broker.pem", _pkcs8(broker) + b"".join(_chain(broker)))

    def environ(self, way: str, **more: str) -> dict[str, str]:
        """The variables of a client that comes in by `way`; `more` are others, without REJOINDER_KAFKA_."""
        own = {
            "SCRAM": {
                "security": "SASL_SSL",
                "sasl_mechanism": "SCRAM-SHA-512",
                "username": USER,
                "password": PASSWORD,
            },
            "MTLS": {"security": "SSL", "cert_file": str(self.cert_file), "key_file": str(self.key_file)},
            "OAUTH": {"security": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"},
            "PLAINTEXT": {},
        }[way]
        tls = {} if way == "PLAINTEXT" else {"ca_file": str(self.ca_file)}
        chosen = {f"REJOINDER_KAFKA_{name.upper()}": value for name, value in {**own, **tls, **more}.items()}
        return {"REJOINDER_KAFKA": self.bootstrap[way], **chosen}

    async def allow(self, principal: str, *acls: Acl, pattern: int = PREFIXED) -> None:
        """Give `principal` (`User:…`) these `acls`. Their names are whole ones if `pattern` is LITERAL."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap["PLAINTEXT"])
        await admin.start()
        try:
            for kind, name, operation in acls:
                request = CreateAclsRequest(kind, name, pattern, principal, "*", OPERATIONS[operation], ALLOW)
                answer = await admin._send_request(request)
                assert all(code == 0 for code, _ in answer.creation_responses), answer
        finally:
            await admin.close()

    def _client(self, authority: trustme.CA, name: str) -> tuple[Path, Path]:
        made = authority.issue_cert(f"{name}.example", common_name=name)
        cert = self._write(f"{name}.pem", b"".join(_chain(made)))
        return cert, self._write(f"{name}.key", made.private_key_pem.bytes())

    def _write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path


@asynccontextmanager
async def secured(folder: Path, users: Sequence[str] = (USER,)) -> AsyncIterator[Secured]:
    """The broker, running; it keeps its data in `folder`. All `users` of SCRAM have the same password."""
    ports = {way: free_port() for way in ("PLAINTEXT", *WAYS)}
    controller = free_port()
    files = Secured(folder, ports)
    broker = EmbeddedKafka(
        folder / "broker",
        port=ports["PLAINTEXT"],
        heap_mb=256,
        member=ClusterNode(1, new_cluster_id(), {1: controller}),
        properties=_properties(files, controller),
        format_options=[
            option
            for user in users
            for option in ("--add-scram", f"SCRAM-SHA-512=[name={user},password={PASSWORD}]")
        ],
    )
    try:
        await broker.start()
        yield files
    finally:
        await broker.stop()


def _properties(files: Secured, controller: int) -> dict[str, str]:
    module = "org.apache.kafka.common.security"
    ways = [f"{way}://{address}" for way, address in files.bootstrap.items()]
    return {
        "listeners": ",".join([*ways, f"CONTROLLER://{LOOPBACK}:{controller}"]),
        "advertised.listeners": ",".join(ways),
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SCRAM:SASL_SSL,MTLS:SSL,OAUTH:SASL_SSL"
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(files.keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(files.ca_file),
        "listener.name.mtls.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": "RULE:^.*?CN=([^,]+).*$/$1/",
        "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.scram.scram-sha-512.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
        "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.oauth.oauthbearer.sasl.jaas.config": (
            f'{module}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
        ),
        "listener.name.oauth.oauthbearer.connections.max.reauth.ms": str(REAUTH_MS),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }


def token(subject: str, lasts_s: float = 300) -> str:
    """An unsecured token for `subject` (RFC 7519, 6.1)."""
    now = time.time()
    parts = {"alg": "none"}, {"sub": subject, "iat": now, "exp": now + lasts_s}
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return f"{texts[0]}.{texts[1]}."


def _pkcs8(made: trustme.LeafCert) -> bytes:
    """The key as Java reads it."""
    key = load_pem_private_key(made.private_key_pem.bytes(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _chain(made: trustme.LeafCert) -> list[bytes]:
    return [blob.bytes() for blob in made.cert_chain_pems]
