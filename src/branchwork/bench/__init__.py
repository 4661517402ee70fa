"""Measurements, each beside a peer in the same run; `branchwork bench NAME` runs one and prints its report."""
