"""What the scripts beside this package do; each starts a module or a package of its own name.

They use the servers of `tests/support`, and run with the repository's root in PYTHONPATH.
"""
