"""Chat Completions: the backend, and the two pure translations between it and the Responses API.

there   request     the request's body out of a response's, with
        messages    messages out of input items; `items` translates each item
        tools       tools and the choice of one; `custom` reads the input of custom tools
call    backend     the HTTP call, and the chunks in its stream
back    translate   events out of chunks, with
        reading     thoughts and parts of a message
        calls       tool calls, piece by piece: `pieces`, `turns`
        citations   annotations of a text
        repeats     texts that a server sends again
        output      the output items under way
        finish      how the stream ended; `usage` what it took
"""
