"""Measures how long ONNX networks take on the device at hand; runs alone, without the search toolkit."""
