"""Chat Completions: the backend, and the two pure translations between it and the Responses API.

there   request     the request's body out of a response's, with
        messages    messages out of input items; `items` says what each item says
        tools       tools and the choice of one; `custom` carries those that are no functions
call    backend     the HTTP call, and what of its stream is a chunk
back    translate   events out of chunks, with
        reading     thoughts and parts of a message
        calls       tool calls, piece by piece: `pieces`, `turns`
        citations   annotations of a text
        repeats     what a server tells twice
        output      the output items under way
        finish      how the stream ended; `usage` what it took
"""
