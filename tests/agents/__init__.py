"""Hosted agents for tests, each a program of its own."""
