"""Webhooks: tells tenants' endpoints of the ends of their responses (Standard Webhooks).

A closing, in the order in which it meets the modules:

    courier      follows `closings`; makes deliveries of a batch, reads them back, keeps marks and checkpoints
    endpoints    which endpoints are to hear of a closing; folded from the log by `registry`
    deliveries   what is due and what is over, of one partition; folded from the log
    schedule     which delivery is next, so that no endpoint holds up another
    dispatcher   attempts it, and has what came of it recorded
    signing      the body and the headers; `sealing` opens the endpoint's secrets
    sender       HTTPS, to addresses that `lookups` finds and `addresses` lets pass
    attempts     what an outcome means, and when the next attempt is due

A tenant's request meets `routes`, `bodies` (what it must be like) and `management`. `operator` is what
`rejoinder webhooks list` and `retry` do.
"""
