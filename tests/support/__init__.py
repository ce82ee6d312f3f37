"""Helpers of the tests: rows of op tables, and how one row is checked."""
