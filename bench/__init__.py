"""Side-by-side benchmarks: each prints its ratio. `python -m bench --help` lists them."""
