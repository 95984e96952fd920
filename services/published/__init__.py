"""Makes the published schemas of what others read and call: records, topics, HTTP API.

    python -m services.published              writes schemas/published/ anew
    python -m services.published --release    also makes it the baseline that later changes are held against

The documents are made of what the code itself uses: the functions that write records, the checks of a
request, the structs of an answer. Replay serves them at `/schemas` and `/openapi.json`.

    shapes.py       types, samples and keys → JSON Schema
    objects.py      the values of records and the bodies of answers, by name
    sample.py       the ids of examples
    kinds.py        the table of record kinds: a new kind of record is one entry there
    records.py      each kind → one JSON Schema of key, headers and value
    asyncapi.py     topics and kinds → AsyncAPI 3.0
    operations.py   what is said of each method of each path
    openapi.py      the paths that are served → OpenAPI 3.1
    documents.py    all of it, with its version, to and from files
    comparison.py   two schemas → whom a change breaks
    compatible.py   two versions of the documents → what breaks whoever reads or calls

No service imports this: what is served are the files.
"""
