"""What makes an upstream's stream whole, whatever the upstream left out (docs/upstreams.md, U-1 to U-16).

    whole         the stage: an upstream's event in, the events that it stands for out
    identity      which output item an event is about, and what the item is called
    names         the two names of an item: ours, and its upstream's
    items         what an item of each kind must have, and how two tellings of it meet
    texts         the texts of items: opened, told, ended
    order         one item after the other: whose turn it is, and in `lanes` what waits
    arguments     how far the JSON of a call's arguments has come
    annotations   where the words of a text are from
    surrogates    halves of surrogate pairs, which no JSON in UTF-8 can hold

Pure, and known to no log: `scribe.py` asks it for the events and makes them records.
"""
