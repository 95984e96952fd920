"""The pure domain: ids, records, the fold, events and the response object.

Standard library and msgspec only; no I/O, no event loop, no clock, no randomness of its own.
The rules are stated in `protocol.md` beside this file and cited here by number.
"""
