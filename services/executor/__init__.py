"""The executor: claims accepted responses, calls their model or agent, appends every event.

What lives where, in the order in which a response meets it:

    read        executor        the shell: loops, tasks, I/O. It does what the next two say
                engine          folds a record, says what is to be done
                steward         looks at what is open, every beat at all of it, and says what is to be done
                acts            what there is to do: Claim, Post, Start, Stop
                partition       the fold of one partition, and beside it
                  waiting         what is open, and waits for its first claim
                  claims          claims that are under way
                  erasures        what is to be erased
                  orphans         whose upstreams are to be told
                  turns           turns of conversations
    claimed     decide          whether to claim, what a claim means, how to go on: one response at a time
                fairness        whose turn it is when slots or places are short
                predecessors    what it follows has closed
                beats           this executor's own beats; `liveness` counts everybody's
    run         run             what was said and what of it counts: posting, reclaiming, handed over, over
                work            how a job is worked off, with
                  history         what the log has of it: its `past`
                  conversation    its whole input; `said` puts it together
                  narrator        the upstream's events, written down as they come
    called      backend         what a backend is
                backends        Chat Completions, Responses, scripted
    told        scribe          the events of the response: numbers, bounds, an honest end
                retelling       a scribe that goes on with what another executor told a part of
                mending         makes the upstream's stream whole
    ended       eraser          tombstones for what is to be erased
                stopper         tells upstreams that nobody wants their responses any more
    beside      app             builds it all; `listing` says which models there are; `metrics`

Decisions are pure: `engine`, `steward`, `decide`, `run` and all beside the fold read no clock, start no task
and touch no log. A record or a beat goes in, acts come out, and `Executor.do` does them in order.
"""
