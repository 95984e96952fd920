"""All that is borrowed of aiokafka. No other module imports it, so a new version is met here, and once.

aiokafka documents its producer and its consumer. We use neither: what the log is made of lies
under them, and may change with any version: it is pinned, and `tests/unit/test_borrowed.py` names each class
and attribute, what it is for, and how to mend it when one is gone.
"""

from aiokafka.abc import AbstractTokenProvider, ConsumerRebalanceListener
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.conn import AIOKafkaConnection, CloseReason, OAuthAuthenticator
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    CommitFailedError,
    CorruptRecordException,
    GroupAuthorizationFailedError,
    GroupIdNotFound,
    IllegalSaslStateError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    NonEmptyGroup,
    OffsetOutOfRangeError,
    RecordListTooLargeError,
    RequestTimedOutError,
    SaslAuthenticationFailed,
    StaleMetadata,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
    UnsupportedSaslMechanismError,
    for_code,
)
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as KafkaPartition

__all__ = [
    "AIOKafkaAdminClient",
    "AIOKafkaClient",
    "AIOKafkaConnection",
    "AbstractPartitionAssignor",
    "AbstractTokenProvider",
    "AuthenticationFailedError",
    "CloseReason",
    "ClusterAuthorizationFailedError",
    "CommitFailedError",
    "ConfigResource",
    "ConfigResourceType",
    "ConnectionGroup",
    "ConsumerProtocolMemberAssignment",
    "ConsumerProtocolMemberMetadata",
    "ConsumerRebalanceListener",
    "CoordinationType",
    "CorruptRecordException",
    "DefaultRecordBatchBuilder",
    "DeleteGroupsRequest",
    "GroupAuthorizationFailedError",
    "GroupCoordinator",
    "GroupIdNotFound",
    "IllegalSaslStateError",
    "IncompatibleBrokerVersion",
    "InitProducerIdRequest",
    "KafkaConnectionError",
    "KafkaError",
    "KafkaPartition",
    "MemoryRecords",
    "MessageSizeTooLargeError",
    "MetadataRequest",
    "NewPartitions",
    "NewTopic",
    "NodeNotReadyError",
    "NonEmptyGroup",
    "OAuthAuthenticator",
    "OffsetAndMetadata",
    "OffsetFetchRequest",
    "OffsetOutOfRangeError",
    "OffsetRequest",
    "RecordListTooLargeError",
    "RequestTimedOutError",
    "SaslAuthenticationFailed",
    "StaleMetadata",
    "SubscriptionState",
    "TopicAuthorizationFailedError",
    "UnsupportedCodecError",
    "UnsupportedSaslMechanismError",
    "for_code",
]
