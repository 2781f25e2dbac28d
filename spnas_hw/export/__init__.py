"""What ships: workloads to measure, and trained detectors as ONNX and engines."""
