"""The executor: claims accepted responses, calls their model or agent, appends every event.

What lives where, in the order in which a response meets it:

    read        executor        the shell: loops, tasks, I/O. It does the acts that the next two return
                engine          folds a record, and returns acts
                steward         looks at the open responses, at all of them with every beat, and returns acts
                acts            the acts: Claim, Post, Start, Stop
                partition       the fold of one partition, and beside it
                  waiting         the open responses, and those that wait for their first claim
                  claims          the claims that are under way
                  erasures        the records that must be erased
                  orphans         the responses whose upstreams must be told to stop
                  turns           turns of conversations
    claimed     decide          whether to claim, what a claim means, how to go on: one response at a time
                fairness        whose turn it is when slots or places are short
                predecessors    whether the responses before one have closed
                beats           this executor's own beats; `liveness` counts those of all executors
    run         run             the events that a run told, and which of them count; the state of the run
                work            does the job of a run, with
                  history         what the log has of the response: its `past`
                  conversation    the run's whole input; `said` puts it together
                  narrator        writes the upstream's events down as they come
    called      backend         what a backend is
                backends        Chat Completions, Responses, scripted
                call            how soon it answers and how it fails, for metrics; `run_spans` for traces
    told        scribe          the events of the response: numbers, bounds, an honest end
                retelling       a scribe that goes on with a response of which another executor told a part
                mending         makes the upstream's stream whole
    ended       eraser          appends tombstones for the erasures
                stopper         cancels responses at upstreams whose run is gone
    beside      app             builds it all; `listing` names the models that the executor serves; `metrics`

Decisions read no clock and touch no log: `engine`, `steward`, `decide`, `run` and all beside the fold. A
record or a beat goes in, acts come out, and `Executor.do` does them in order. They start no task, but for
one: where no fold knows whether a predecessor has closed, the steward's question has `predecessors` ask
replay. Until the answer is there, the response waits.
"""
