"""Explains Kafka's refusals of credentials, certificates and ACLs, and names the setting to mend. Pure.

aiokafka wraps a refusal into an error that only says that there is no connection. The refusal itself is in
the error's chain of causes. Our own settings tell which of its possible reasons it is.
"""

import asyncio
import ssl
from collections.abc import Iterator

from services.eventlog.kafka_borrowed import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from services.eventlog.kafka_settings import KafkaSettings
from services.eventlog.kafka_tokens import NoToken

ACLS = "`rejoinder acls` prints those that Rejoinder needs"
FORBIDDEN = (TopicAuthorizationFailedError, GroupAuthorizationFailedError, ClusterAuthorizationFailedError)
"""What brokers answer where their ACLs do not allow something."""
_WRONG_NAME = frozenset({62, 64})
"""OpenSSL's codes for a certificate that has another name, or another address."""
_EXPIRED = 10
_ALERTS_OF_NO_CERTIFICATE = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "HANDSHAKE_FAILURE")
"""What servers say when a client shows no certificate: by TLS 1.3, by Java, by older ones."""
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER", "UNEXPECTED_MESSAGE", "HTTP_REQUEST")


def explain(error: BaseException, ours: KafkaSettings) -> str | None:
    """Why a broker refuses us, and what to do; None when `error` is no refusal."""
    chain = list(_chain(error))
    for told in (_sasl, _tls, _acl, _hung_up):
        for each in chain:
            if reason := told(each, ours):
                return reason
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _sasl(error: BaseException, ours: KafkaSettings) -> str | None:
    match error:
        case NoToken():
            return str(error.args[0])
        case SaslAuthenticationFailed() | AuthenticationFailedError() if ours.sasl_mechanism == "OAUTHBEARER":
            return (
                f"it does not accept our token ({error.args[0]}): see to where it comes from, "
                "REJOINDER_KAFKA_OAUTH_TOKEN_FILE or …_URL"
            )
        case SaslAuthenticationFailed() | AuthenticationFailedError():
            return (
                f"it does not know user {ours.username} with this password by {ours.sasl_mechanism}: are "
                "REJOINDER_KAFKA_USERNAME, …_PASSWORD and …_SASL_MECHANISM right?"
            )
        case UnsupportedSaslMechanismError():
            return (
                f"it does not offer {ours.sasl_mechanism}: set REJOINDER_KAFKA_SASL_MECHANISM to what it does"
            )
        case IllegalSaslStateError():
            return "its port wants no SASL: set REJOINDER_KAFKA_SECURITY to SSL or PLAINTEXT, or take another"
    return None


def _tls(error: BaseException, ours: KafkaSettings) -> str | None:
    match error:
        case ssl.SSLCertVerificationError(verify_code=code, verify_message=said) if code in _WRONG_NAME:
            return f"its certificate is another's ({said}): call it in REJOINDER_KAFKA by a name that it has"
        case ssl.SSLCertVerificationError(verify_code=code) if code == _EXPIRED:
            return "its certificate has expired: give it a new one"
        case ssl.SSLCertVerificationError(verify_message=said):
            where = ours.ca_file or "the system's authorities"
            return (
                f"nobody in {where} signed its certificate ({said}): set REJOINDER_KAFKA_CA_FILE to a file "
                "with who did"
            )
        case ssl.SSLError(reason=str(reason)) if "ALERT" in reason:
            if not ours.cert_file and any(alert in reason for alert in _ALERTS_OF_NO_CERTIFICATE):
                return "it asks for a client's certificate: set REJOINDER_KAFKA_CERT_FILE and …_KEY_FILE"
            return f"it does not accept the certificate in REJOINDER_KAFKA_CERT_FILE ({reason})"
        case ssl.SSLError(reason=str(reason)) if any(sign in reason for sign in _NO_TLS):
            return (
                "its port does not speak TLS: set REJOINDER_KAFKA_SECURITY to what it does, or take another"
            )
    return None


def _acl(error: BaseException, ours: KafkaSettings) -> str | None:
    who = f"User:{ours.username}" if "SASL" in ours.security and ours.username else "this client"
    match error:
        case TopicAuthorizationFailedError():
            topic = f"topic {error.args[0]}" if error.args and error.args[0] else "a topic"
            return f"its ACLs keep {who} from {topic}, or it does not exist: {ACLS}"
        case GroupAuthorizationFailedError():
            return f"its ACLs keep {who} from the consumer groups: {ACLS}"
        case ClusterAuthorizationFailedError():
            return f"its ACLs keep {who} from what changes the cluster, or from writing at all: {ACLS}"
    return None


def _hung_up(error: BaseException, ours: KafkaSettings) -> str | None:
    """A broker that closes a connection at once says nothing: the likeliest reasons for our settings."""
    if not isinstance(error, asyncio.IncompleteReadError | ConnectionResetError | ssl.SSLEOFError):
        return None
    match ours.security:
        case "PLAINTEXT":
            doubt = "does its port want TLS or SASL (REJOINDER_KAFKA_SECURITY)?"
        case "SASL_PLAINTEXT":
            doubt = "does its port want TLS (REJOINDER_KAFKA_SECURITY=SASL_SSL)?"
        case "SSL" if not ours.cert_file:
            doubt = (
                "does it want a client's certificate (REJOINDER_KAFKA_CERT_FILE, …_KEY_FILE), SASL, or no "
                "TLS (REJOINDER_KAFKA_SECURITY)?"
            )
        case _:
            doubt = "does its port want TLS and SASL as REJOINDER_KAFKA_SECURITY says?"
    return f"it hangs up: {doubt}"
