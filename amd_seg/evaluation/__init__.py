"""Metrics, benchmark readers and reports."""
