"""The jobs: each is a module to run, and reads as its graph."""
