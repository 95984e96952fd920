"""Analytics counts what has ended, and answers for usage and costs.

    counting.py        a partition's closings → rows, names and a mark; pure
    prices.py          what a closing costs; pure
    counter.py         the shell: Faust's batches in, records of `usage` out, acknowledged in order
    changelog.py       Faust's table, whose changelog is `usage`
    faust_settings.py  how Faust is set up
    mended.py          what is mended in Faust
    lag.py             when a lag that does not move ends the process; pure
    reader.py          reads all of `usage`, into:
    index.py           the rows, by hour and partition, and what they come to
    packed_rows.py     rows that change no more, packed; pure
    queries.py         what is asked, and what is wrong with it; pure
    answers.py         the objects that answer; pure
    routes.py          the routes at the internal port
    app.py             the process

Only the counter, its changelog, its settings and what is mended know Faust.
"""
