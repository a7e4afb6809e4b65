"""Throughput by the number of processes and devices."""
