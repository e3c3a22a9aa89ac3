"""The version. Generated from pyproject.toml by clients/generate.py; edit that instead."""

VERSION = "0.2.0"
