"""How large an installation must be for a load. Pure, but for the reading of the costs.

demand      the load: what is asked of an installation
costs       what a unit of work costs, as measured (costs.toml)
deployment  how many processes, brokers and partitions there are
work        what a deployment does a second for a load, and the cores that it takes
sizing      the smallest deployment that carries a load
room        what such a deployment takes of disk, memory and network
"""
