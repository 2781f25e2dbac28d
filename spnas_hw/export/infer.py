"""Runs the detector of this folder on a picture: python infer.py [picture] [--engine | --provider NAME]

Needs numpy and onnxruntime, or what engine_session.py says; pictures other than binary PPM need Pillow. Tells
each detection, boxes in pixels of the picture, and draws them into <picture>_detections.ppm.
"""

import argparse
import hashlib
import json
from importlib import import_module
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "metadata.json").read_text())


def load(engine, provider):
    """The network, if it is the one that was exported."""
    name = "model.engine" if engine else "model.onnx"
    content = (HERE / name).read_bytes() if (HERE / name).is_file() else b""
    if hashlib.sha256(content).hexdigest() != ABOUT["files"].get(name):
        raise SystemExit(f"{name} is missing, or not the file that was exported")
    if engine:
        return import_module("engine_session").EngineSession(content, ABOUT["engine"]["runtime"])
    return import_module("onnxruntime").InferenceSession(content, providers=[provider])


def read(path):
    """[height, width, 3] uint8, RGB."""
    content = path.read_bytes()
    if content[:2] != b"P6":
        return np.asarray(import_module("PIL.Image").open(path).convert("RGB"))
    _, width, height, _ = (int(word) if word.isdigit() else 0 for word in content.split(maxsplit=4)[:4])
    return np.frombuffer(content[-width * height * 3 :], np.uint8).reshape(height, width, 3)


def resized(picture, height, width):
    """Bilinear, aspect ratio not kept."""
    axes = []
    for old, new in zip(picture.shape, (height, width), strict=False):
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = place.astype(int)
        axes.append((low, np.minimum(low + 1, old - 1), (place - low).astype(np.float32)))
    (top, bottom, y), (left, right, x) = axes
    y, x, picture = y[:, None, None], x[None, :, None], picture.astype(np.float32)
    rows = picture[top] * (1 - y) + picture[bottom] * y
    return np.round(rows[:, left] * (1 - x) + rows[:, right] * x)


def detect(session, picture):
    """Boxes [n, 4] in pixels of the picture, scores [n], labels [n]."""
    _, _, height, width = ABOUT["input"]["shape"]
    mean, std = (np.float32(ABOUT["input"][name]) for name in ("mean", "std"))
    image = ((resized(picture, height, width) - mean) / std).transpose(2, 0, 1)[None]
    outputs = session.run(["boxes", "scores", "labels"], {"image": np.ascontiguousarray(image)})
    boxes, scores, labels = (output[outputs[2] >= 0] for output in outputs)
    return boxes * ([picture.shape[1] / width, picture.shape[0] / height] * 2), scores, labels


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, nargs="?", default=HERE / "sample.ppm")
    parser.add_argument("--engine", action="store_true", help="run model.engine, not model.onnx")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="of ONNX Runtime")
    parser.add_argument("--score", type=float, default=0.3, help="draw what is at least so likely")
    given = parser.parse_args()
    drawn = read(given.picture).copy()
    for box, score, label in zip(*detect(load(given.engine, given.provider), drawn), strict=True):
        print(f"{ABOUT['classes'][label]} {score:.4f} " + " ".join(f"{value:.2f}" for value in box))
        x0, y0, x1, y1 = np.clip(box.round().astype(int), 0, [drawn.shape[1] - 1, drawn.shape[0] - 1] * 2)
        if score >= given.score:
            drawn[[y0, y1], x0 : x1 + 1] = drawn[y0 : y1 + 1, [x0, x1]] = 255, 220 - 180 * (label % 2), 0
    content = f"P6 {drawn.shape[1]} {drawn.shape[0]} 255\n".encode() + drawn.tobytes()
    Path(f"{given.picture.stem}_detections.ppm").write_bytes(content)


if __name__ == "__main__":
    main()
