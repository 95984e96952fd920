"""Reads why a Chat Completions server stopped: its finish reason, an open vocabulary. Pure.

    finish_reason → `verdict` → DONE, a cut with the API's reason for it, BROKEN or UNKNOWN

Servers have their own words, in their own letter case. Only a word that is known as success is taken for
success (U-45): half an answer must never be told as a whole one.
"""

import re
from enum import IntEnum


class Finish(IntEnum):
    """The meaning of a finish reason. A higher one is worse, and the worst of a stream wins (U-46)."""

    DONE = 0
    """The model has ended its answer, or calls tools."""
    LENGTH = 1
    """A bound on tokens cut the answer: `max_output_tokens`."""
    FILTER = 2
    """A filter cut the answer: `content_filter`."""
    UNKNOWN = 3
    """The word is not known: the response fails and names it."""
    BROKEN = 4
    """The server admits that it did not finish."""


INCOMPLETE = {Finish.LENGTH: "max_output_tokens", Finish.FILTER: "content_filter"}
"""By a cut, the API's `incomplete_details.reason`."""

_WORDS = {
    Finish.DONE: """
        stop stop_sequence stop_sequences stop_token stop_string stop_str stop_word stop_reason_stop
        end end_turn end_of_turn end_of_text end_of_sequence endoftext eos eos_token eot eot_id
        complete completed done finish finished success succeeded normal natural
        tool_call tool_calls tool_use tool function_call function_calls function call
    """,
    Finish.LENGTH: """
        length max_length length_limit max_tokens max_token token_limit tokens_limit max_output_tokens
        max_completion_tokens max_new_tokens max_tokens_reached max_output_reached max_tokens_exceeded
        model_length model_max_length context_length context_limit context_window max_context_length
        context_length_exceeded context_window_exceeded model_context_window_exceeded max_model_len
        max_context context_full output_limit limit limit_reached truncated truncation error_limit
        length_capped max_seq_len
    """,
    Finish.FILTER: """
        content_filter content_filtered content_filter_triggered contentfilter filter filtered safety
        sensitive refusal refused recitation blocklist blocked prohibited_content spii image_safety
        image_prohibited_content image_recitation language guardrail guardrails guardrail_intervened
        moderation moderated content_moderation content_policy content_policy_violation policy_violation
        policy risk risk_control error_toxic toxic dlp
    """,
    Finish.BROKEN: """
        error errored abort aborted cancel canceled cancelled fail failed failure exception crash crashed
        network_error connection_error server_error internal_error internal_server_error api_error
        upstream_error provider_error model_error engine_error generation_error runtime_error
        insufficient_system_resource insufficient_resources resource_exhausted out_of_memory oom
        overloaded overloaded_error server_overloaded rate_limit rate_limited timeout timed_out time_limit
        deadline_exceeded interrupted disconnect disconnected preempted evicted unavailable
        malformed_function_call malformed_response malformed_tool_call unexpected_tool_call
        too_many_tool_calls missing_thought_signature no_response unexpected_error
    """,
}
_KNOWN = {word: verdict for verdict, words in _WORDS.items() for word in words.split()}
_GOES_ON = """
    null none undefined unspecified in_progress running generating ongoing processing streaming continue
    not_finished unfinished
"""
_NONE = frozenset(["", *_GOES_ON.split()])
"""Words of servers that have not stopped."""
_PREFIXES = ("finish_reason_", "finishreason_", "stop_reason_", "reason_")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_BETWEEN = re.compile(r"[\s.:/-]+|_+")
_FAILURES = frozenset({"error", "failed", "failure", "exception", "timeout", "aborted"})
"""An unknown word that contains one of these is a failure."""


def verdict(reason: str) -> Finish | None:
    """The meaning of `reason`, in any letter case and spelling (`MAX_TOKENS`, `maxTokens`,
    `FinishReason.STOP`). None if it says that the server has not stopped.
    """
    word = _BETWEEN.sub("_", _CAMEL.sub("_", reason.strip())).strip("_").lower()
    if word in _NONE:
        return None
    for prefix in _PREFIXES:
        word = word.removeprefix(prefix) or word
    if word in _NONE:
        return None
    if (known := _KNOWN.get(word)) is not None:
        return known
    return Finish.UNKNOWN if _FAILURES.isdisjoint(word.split("_")) else Finish.BROKEN
