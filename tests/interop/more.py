"""Checks beside Prometheus itself."""
CHECKS = []
