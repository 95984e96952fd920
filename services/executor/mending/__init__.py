"""Makes an upstream's stream whole, whatever the upstream left out (docs/upstreams.md, U-1 to U-18).

    whole         the stage: an upstream's event in, the events that it becomes out
    identity      which output item an event is about, and the item's id
    names         the two names of an item: ours, and its upstream's
    places        the upstream's indexes of items and parts, where they are not ours
    items         the fields that an item of each kind must have, and how two versions of it are merged
    texts         the texts of items: opened, told, ended
    order         one item after the other: whose turn it is; `lanes` holds the events that wait
    arguments     how far the JSON of a call's arguments has come
    annotations   the sources of a text
    surrogates    halves of surrogate pairs, which no JSON in UTF-8 can hold

Pure, without the log: `scribe.py` asks for the events and makes records of them.
"""
