"""services/executor/backends/chat/finish.py: finish reasons are an open vocabulary (U-45)."""

import pytest

from services.executor.backends.chat.finish import Finish, verdict


@pytest.mark.parametrize(
    ("reasons", "says"),
    [
        ("stop STOP Stop end_turn endTurn eos_token stop_sequence COMPLETE FinishReason.STOP", Finish.DONE),
        ("tool_calls tool-calls toolCalls TOOL_CALL tool_use function_call FINISH_REASON_STOP", Finish.DONE),
        ("length LENGTH max_tokens MAX_TOKENS maxTokens model_length max_output_tokens", Finish.LENGTH),
        ("model_context_window_exceeded context_length_exceeded ERROR_LIMIT", Finish.LENGTH),
        ("content_filter contentFilter content-filter SAFETY sensitive refusal RECITATION", Finish.FILTER),
        ("error ERROR abort network_error insufficient_system_resource cancelled", Finish.BROKEN),
        ("MALFORMED_FUNCTION_CALL gpu_error stream_aborted", Finish.BROKEN),
        ("other unknown pause_turn bored 完了", Finish.UNKNOWN),
    ],
)
def test_a_reason_is_known_in_any_letter_case_and_spelling_or_is_no_success(
    reasons: str, says: Finish
) -> None:
    assert {reason: verdict(reason) for reason in reasons.split()} == dict.fromkeys(reasons.split(), says)


@pytest.mark.parametrize("reason", ["", " ", "null", "None", "FINISH_REASON_UNSPECIFIED", "in_progress"])
def test_a_reason_that_says_nothing_ends_nothing(reason: str) -> None:
    assert verdict(reason) is None


def test_the_worse_is_the_higher() -> None:
    ranks = [Finish.DONE, Finish.LENGTH, Finish.FILTER, Finish.UNKNOWN, Finish.BROKEN]
    assert sorted(ranks) == ranks
