"""The options of a job, a module for each group of them, as `--help` shows them."""
