"""Metrics that mmdet does not have."""
