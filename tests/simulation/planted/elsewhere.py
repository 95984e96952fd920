"""Rules that the simulation cannot take away: why, and the test that holds them instead."""

from msgspec import Struct


class Elsewhere(Struct, frozen=True):
    """`why` the simulation does not know of it; `test` is a file of `tests` and a test in it."""

    why: str
    test: str


_SIZES = "nothing in the simulation is large"
_COUNTED = "it ends with the closings: what they come to is counted from these alone"
_HOOKS = "its consumers send nothing over HTTP: a worker is killed on a log in memory, with real receivers"
_GROWN = "its one world adds partitions once, when it stands where keys lead, and in the right order"
_KAFKA = "of Kafka's own doing, which the log in memory has not"

ELSEWHERE = {
    "P-9": Elsewhere(
        _SIZES, "unit/test_scribe.py::test_a_final_object_over_the_bound_is_an_honest_failure_that_fits"
    ),
    "P-10": Elsewhere(_KAFKA, "unit/test_kafka_wire.py::test_a_produce_request"),
    "P-11": Elsewhere(
        "nobody in the simulation appends what we did not write",
        "property/test_poison.py::test_nobody_falls_over_an_event_record_with_any_part_of_it_exchanged",
    ),
    "P-55": Elsewhere(
        "its lease is a setting, which may not be longer",
        "unit/test_liveness.py::test_the_longest_lease_ends_before_its_executor_can_be_counted_out",
    ),
    "P-59": Elsewhere(
        "whoever waits there is claimed before its deadline, whatever the order",
        "unit/test_slots.py::test_what_lost_its_executor_comes_before_what_waits",
    ),
    "P-135": Elsewhere(
        "retention takes no view there",
        "unit/test_replay_library.py::test_p135_an_entry_lives_while_what_it_names_does",
    ),
    "P-136": Elsewhere(
        "its projectors mend before compaction takes what an entry names",
        "unit/test_replay_library.py::test_p136_a_hint_that_fails_is_looked_up_again_before_anything_is_lost",
    ),
    "P-138": Elsewhere(
        "its projectors are all of today",
        "integration/test_projector_building.py::test_p138_what_an_older_version_stored_gets_its_entries_once",
    ),
    "P-137": Elsewhere(
        "its disks are whole",
        "unit/test_replay_store.py::test_p137_a_partition_that_may_have_missed_anything_is_read_anew",
    ),
    "P-68": Elsewhere(
        "what it is for is planted with P-97 and held with P-98",
        "unit/test_start.py::test_how_far_was_read_holds_for_the_checkpoint_that_said_so",
    ),
    "P-77": Elsewhere(
        "its topics are never lost",
        "integration/test_replay_service.py::test_views_that_are_made_anew_are_filled_from_the_log",
    ),
    "P-78": Elsewhere(
        "its readers ask for no response that only its creator sees",
        "integration/test_door_keys.py::test_what_is_not_stored_is_met_by_its_key_and_by_nobody_else",
    ),
    "P-87": Elsewhere(
        "its beats never expire",
        "unit/test_replay_ephemeral.py::test_what_all_expired_beats_had_ended_does_not_show_again",
    ),
    "P-88": Elsewhere(
        "its readers take every 503 for honest, and a guess that is right shows nothing",
        "unit/test_replay_ephemeral.py::test_where_the_beats_cannot_be_read_it_is_a_503_and_never_a_guess",
    ),
    "P-94": Elsewhere(
        "somebody comes late by minutes, and the owner dies within that beat while a response lasts: "
        "no seed of sixty met that",
        "unit/test_executor.py::test_what_came_late_is_erased_by_the_next_owner_whatever_holds_the_watermark",
    ),
    "P-98": Elsewhere(
        "P-94 leaves a late writer no more than the beat before its owner dies: no seed of 240 met that",
        "unit/test_erasures.py::test_what_closes_behind_where_the_floor_was_committed_is_late",
    ),
    "P-91": Elsewhere(
        "retention erases whatever the rules are: there is nothing to take away",
        "reliability/test_erasure.py::test_what_has_expired_is_not_found_at_any_cursor_and_never_half_there",
    ),
    "P-103": Elsewhere(
        "nothing in the simulation is secret",
        "unit/test_announcer.py::test_p103_no_content_leaves_with_a_closing",
    ),
    "P-109": Elsewhere(
        "its topics are never made anew",
        "unit/test_announcer.py::test_p109_a_log_that_is_made_anew_begins_anew",
    ),
    "P-110": Elsewhere(
        "its consumer reads each closing as it is written",
        "unit/test_closing_records.py::test_p110_what_was_removed_unread_is_known",
    ),
    "P-111": Elsewhere(
        "nobody in the simulation sets up topics",
        "unit/test_topics.py::test_closings_are_only_ever_appended_and_can_be_read_for_thirty_days_at_least",
    ),
    "P-114": Elsewhere(_COUNTED, "property/test_usage.py::test_the_sum_over_any_split_is_the_sum_of_all"),
    "P-115": Elsewhere(_COUNTED, "property/test_usage.py::test_without_the_rule_some_sum_is_wrong"),
    "P-116": Elsewhere(_COUNTED, "property/test_usage.py::test_without_the_rule_some_sum_is_wrong"),
    "P-117": Elsewhere(
        _COUNTED,
        "unit/test_usage_queries.py::test_p117_what_has_counted_more_stands_and_is_to_be_appended_again",
    ),
    "P-118": Elsewhere(
        _COUNTED, "property/test_usage.py::test_p118_what_is_told_late_is_counted_in_the_oldest_open_minute"
    ),
    "P-119": Elsewhere(
        _COUNTED,
        "integration/test_analytics.py::test_p119_closings_that_are_passed_over_end_the_process",
    ),
    "P-120": Elsewhere(
        _HOOKS,
        "unit/test_webhook_records.py::test_p120_what_stands_in_a_partition_that_is_not_its_own_is_passed_over",
    ),
    "P-121": Elsewhere(
        _HOOKS,
        "unit/test_webhook_records.py::test_p121_a_change_that_comes_after_the_delete_brings_nothing_back",
    ),
    "P-122": Elsewhere(_HOOKS, "integration/test_webhooks.py::test_p122_the_log_holds_no_secret"),
    "P-123": Elsewhere(
        _HOOKS,
        "integration/test_webhooks.py"
        "::test_p123_a_worker_may_die_anywhere_and_every_end_is_delivered_under_one_id",
    ),
    "P-124": Elsewhere(
        _HOOKS, "unit/test_webhook_records.py::test_p124_who_asked_for_it_and_was_there_hears_of_it"
    ),
    "P-125": Elsewhere(
        _HOOKS,
        "integration/test_webhooks.py"
        "::test_p125_an_endpoint_hears_of_every_end_after_it_was_made_whoever_owns_the_partition",
    ),
    "P-126": Elsewhere(
        _HOOKS, "unit/test_webhook_schedule.py::test_p126_a_delivery_is_tried_for_72_hours_and_no_longer"
    ),
    "P-127": Elsewhere(
        _HOOKS, "integration/test_webhooks.py::test_p127_a_closing_that_is_told_again_is_delivered_once"
    ),
    "P-128": Elsewhere(
        _HOOKS, "integration/test_webhooks.py::test_p128_what_leads_to_a_private_address_is_not_called"
    ),
    "P-129": Elsewhere(
        _HOOKS,
        "integration/test_webhooks.py::test_p129_a_worker_whose_group_has_not_answered_begins_nothing",
    ),
    "P-140": Elsewhere(
        _GROWN,
        "unit/test_installation.py::test_p140_the_first_holds_even_if_another_knew_of_more_partitions",
    ),
    "P-141": Elsewhere(
        _GROWN, "unit/test_installation.py::test_p141_it_is_written_once_however_many_ingests_start"
    ),
    "P-142": Elsewhere(
        _GROWN,
        "unit/test_installation.py::test_p142_before_it_is_written_it_is_how_many_partitions_there_are",
    ),
    "P-143": Elsewhere(
        _GROWN,
        "contract/test_kafka_topics.py"
        "::test_p143_partitions_are_added_to_the_events_last_and_an_interrupted_growth_goes_on",
    ),
    "P-145": Elsewhere(
        "what waits there for an owner is run all the same, only later",
        "unit/test_opening.py::test_p145_an_added_partition_opens_when_its_first_owner_has_committed",
    ),
    "P-100": Elsewhere(
        "its upstreams end with the stream that is read from them: there is nothing to stop",
        "unit/test_executor.py::test_a_drain_leaves_an_upstream_running_and_a_cancel_does_not",
    ),
    "P-101": Elsewhere(
        "its upstreams end with the stream that is read from them: there is nothing to stop",
        "unit/test_stopper.py::test_the_upstream_of_an_orphan_is_told_once",
    ),
}
