"""Replay: serves clients streams and objects of responses, from the tail, the log by seek, and transcripts.

It is the front door as well: it hands commands over to ingest. What lives where:

    log in      feed            one tail of the events and one of the index, for all readers
                folding         one partition: the fold, a window for each response, the readers to tell
                beats           log time by the executors' beats
                services.web.barrier   waits until the fold has passed the log's end as of a request
    frames      window          the frames of a response in memory, by pages; `Memory` bounds and evicts them
                seek            brings an evicted page back from the log; `frames` makes its frames
                library         the transcripts of closed responses, chunk by chunk
                store           where each of them lies, in rows; `disk` keeps them
                reader          one reader: window, else transcript, else seek
    answers     replay          finds a response, and answers every question about it
                cursor          where a client goes on
                objects         final objects; `snapshot` makes that of an open response
                turn            what a response adds to its conversation; `items` finds what requests refer to
                input_items     pages of a response's input
                models          the models that executors list; `schemas`: the published documents
    commands    door            a create: an id, the hop to ingest, the answer from our own fold, or that of
                                another shard's
                ingest_client   the hop
                forwarding      routes of the services behind the front door
    shards      shards          the other shards: reads that are passed on, looks into their folds
    HTTP        routes          reads, public and internal; `door_routes`: commands
    beside      app             builds it all; `metrics`
"""
