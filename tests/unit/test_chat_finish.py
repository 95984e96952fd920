"""services/executor/backends/chat/finish.py: finish reasons are an open vocabulary (U-45)."""

import pytest

from services.executor.backends.chat.finish import Verdict, verdict


@pytest.mark.parametrize(
    ("reasons", "says"),
    [
        ("stop STOP Stop end_turn endTurn eos_token stop_sequence COMPLETE FinishReason.STOP", Verdict.DONE),
        ("tool_calls tool-calls toolCalls TOOL_CALL tool_use function_call FINISH_REASON_STOP", Verdict.DONE),
        ("length LENGTH max_tokens MAX_TOKENS maxTokens model_length max_output_tokens", Verdict.LENGTH),
        ("model_context_window_exceeded context_length_exceeded ERROR_LIMIT", Verdict.LENGTH),
        ("content_filter contentFilter content-filter SAFETY sensitive refusal RECITATION", Verdict.FILTER),
        ("error ERROR abort network_error insufficient_system_resource cancelled", Verdict.BROKEN),
        ("MALFORMED_FUNCTION_CALL gpu_error stream_aborted", Verdict.BROKEN),
        ("other unknown pause_turn bored 完了", Verdict.UNKNOWN),
    ],
)
def test_a_reason_is_known_in_any_letter_case_and_spelling_or_is_no_success(
    reasons: str, says: Verdict
) -> None:
    assert {reason: verdict(reason) for reason in reasons.split()} == dict.fromkeys(reasons.split(), says)


@pytest.mark.parametrize("reason", ["", " ", "null", "None", "FINISH_REASON_UNSPECIFIED", "in_progress"])
def test_a_reason_that_says_nothing_ends_nothing(reason: str) -> None:
    assert verdict(reason) is None


def test_the_worse_is_the_higher() -> None:
    ranks = [Verdict.DONE, Verdict.LENGTH, Verdict.FILTER, Verdict.UNKNOWN, Verdict.BROKEN]
    assert sorted(ranks) == ranks
