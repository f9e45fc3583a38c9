"""The jobs: each is a module to run, and reads as its graph."""

import logging

# Importing Beam logs this whenever its Google Cloud extra, which nothing here uses, is not installed.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
