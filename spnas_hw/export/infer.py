"""Runs the detector of this folder on a picture: python infer.py [picture] [--engine | --provider NAME]

Needs numpy and onnxruntime, or what engine_session.py says; Pillow for other pictures than binary PPM. Draws
into <picture>_detections.ppm."""

import argparse
import hashlib
import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "metadata.json").read_text())


def load(engine, provider):
    """The network, if it is the one that was exported."""
    name = "model.engine" if engine else "model.onnx"
    content = (HERE / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != ABOUT["files"].get(name):
        raise SystemExit(f"{name} is not the file that was exported")
    if engine:
        return import_module("engine_session").EngineSession(content, ABOUT["engine"]["runtime"])
    return import_module("onnxruntime").InferenceSession(content, providers=[provider])


def read(path):
    """[height, width, 3] uint8, RGB."""
    content = path.read_bytes()
    header = re.match(rb"P6(?:\s+#[^\n]*)*\s+(\d+)(?:\s+#[^\n]*)*\s+(\d+)", content)
    if header is None:
        return np.array(import_module("PIL.Image").open(path).convert("RGB"))
    width, height = map(int, header.groups())
    return np.frombuffer(content[-width * height * 3 :], np.uint8).reshape(height, width, 3).copy()


def resized(rows, new):
    """[old, width, 3] -> [new, width, 3], bilinear."""
    place = np.clip((np.arange(new) + 0.5) * len(rows) / new - 0.5, 0, len(rows) - 1)
    low = place.astype(int)
    share = (place - low).astype(np.float32)[:, None, None]
    return rows[low] * (1 - share) + rows[np.minimum(low + 1, len(rows) - 1)] * share


def detect(session, picture):
    """Boxes [n, 4] in pixels of the picture, scores [n], labels [n]."""
    _, _, height, width = ABOUT["input"]["shape"]
    columns = resized(resized(picture.astype(np.float32), height).swapaxes(0, 1), width)
    mean, std = (np.float32(ABOUT["input"][name]) for name in ("mean", "std"))
    image = np.ascontiguousarray(((np.round(columns) - mean) / std).transpose(2, 1, 0)[None])
    *found, converged = session.run(["boxes", "scores", "labels", "nms_converged"], {"image": image})
    assert converged, "the suppression of doubles did not settle: these are no detections"
    boxes, scores, labels = (output[found[2] >= 0] for output in found)
    return boxes * ([picture.shape[1] / width, picture.shape[0] / height] * 2), scores, labels


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, nargs="?", default=HERE / "sample.ppm")
    parser.add_argument("--engine", action="store_true", help="run model.engine, not model.onnx")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="of ONNX Runtime")
    given = parser.parse_args()
    drawn = read(given.picture)
    for box, score, label in zip(*detect(load(given.engine, given.provider), drawn), strict=True):
        print(f"{ABOUT['classes'][label]} {score:.4f} " + " ".join(f"{value:.2f}" for value in box))
        x0, y0, x1, y1 = np.clip(box.round().astype(int), 0, [drawn.shape[1] - 1, drawn.shape[0] - 1] * 2)
        if score >= 0.3:
            drawn[[y0, y1], x0 : x1 + 1] = drawn[y0 : y1 + 1, [x0, x1]] = 255, 220 - 180 * (label % 2), 0
    content = f"P6 {drawn.shape[1]} {drawn.shape[0]} 255\n".encode() + drawn.tobytes()
    Path(f"{given.picture.stem}_detections.ppm").write_bytes(content)


try:
    if __name__ == "__main__":
        main()
except (OSError, ImportError) as error:
    raise SystemExit(f"error: {error}") from error
