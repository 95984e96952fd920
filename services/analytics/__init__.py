"""Analytics counts what has ended, and answers for usage and costs.

counting.py        a partition's closings → rows, names and a mark; pure
prices.py          what a closing costs; pure
counter.py         the shell: Faust's batches in, records of `usage` out, acknowledged in order
changelog.py       Faust's table, whose changelog is `usage`
faust_settings.py  how Faust is set up
mended.py          what is mended in Faust
app.py             the process
"""
