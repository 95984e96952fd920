"""How Faust is set up: by the operator's settings, and by what was found to hold (docs/decisions)."""

import logging
from typing import Any

from faust import OAuthCredentials, SASLCredentials
from faust.auth import SSLCredentials
from mode.supervisors import CrashingSupervisor

from services.connect import kafka_settings
from services.fits import between_commas
from services.settings import Settings

SESSION_S = 10.0
"""Seconds until a worker that died is missed; Faust's 60 would be the gap after each death."""
HEARTBEAT_S = 3.0
REBALANCE_S = 10.0
COMMIT_S = 2.0
BUFFERED = 16_384
"""Closings that a stream buffers."""
QUIET = ("faust", "mode", "aiokafka")
"""Loggers that tell of each retry, hundreds a second while a broker is away."""


def faust_settings(settings: Settings, partitions: int) -> dict[str, Any]:
    """Keyword arguments of an App that counts so many partitions.

    A member that comes back under its own name gets what it had, without a rebalance. So the name says how
    many partitions it knows: with more of them it is another member, and the group shares all of them out.
    """
    instance = settings.analytics_instance
    return {
        "broker": ";".join(f"kafka://{address}" for address in between_commas(settings.kafka)),
        "broker_client_id": "rejoinder-analytics",
        "broker_credentials": _credentials(settings),
        "store": "memory://",
        "agent_supervisor": CrashingSupervisor,
        "autodiscover": False,
        "consumer_auto_offset_reset": "earliest",
        "consumer_group_instance_id": f"{instance}-{partitions}" if instance else None,
        "broker_session_timeout": SESSION_S,
        "broker_heartbeat_interval": HEARTBEAT_S,
        "broker_rebalance_timeout": REBALANCE_S,
        "broker_commit_interval": COMMIT_S,
        "broker_request_timeout": 40.0,
        "stream_buffer_maxsize": BUFFERED,
        "recovery_consistency_check": False,  # what is restored is not Faust's: see the changelog
        "stream_wait_empty": False,
        "table_standby_replicas": 0,
        "topic_disable_leader": True,
        "topic_allow_declare": False,
        "producer_acks": -1,
        "producer_linger": 0.005,
        "web_enabled": False,
        "logging_config": None,
    }


def quieten() -> None:
    """Let the libraries log errors only: what a broker that is away means is told by lag and readiness."""
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _credentials(settings: Settings) -> Any:
    chosen = kafka_settings(settings)
    options = chosen.options()
    context = options["ssl_context"]
    if "SASL" not in chosen.security:
        return None if context is None else SSLCredentials(context)
    if chosen.tokens is not None:
        return OAuthCredentials(oauth_cb=chosen.tokens, ssl_context=context)
    return SASLCredentials(
        username=chosen.username,
        password=chosen.password,
        mechanism=chosen.sasl_mechanism,
        ssl_context=context,
    )
