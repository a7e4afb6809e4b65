"""Processes, hosts and devices: who takes part, and how arrays are sharded."""
