"""`rejoinder dev`: the whole system on one machine.

system   a broker and one process of each service, in the order in which they start and stop
child    a service as a child process that is started again when it ends
"""
