"""A few images of 64 x 128 pixels in the layouts of COCO and PASCAL VOC, as they are downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from spnas_hw.config import Dataset
from spnas_hw.detection.datasets import class_names

BOXES = ((10, 12, 40, 50), (60, 8, 110, 60))
"""Corners x0, y0, x1, y1 of the two things in every image; the second one is to be ignored."""


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), image)


def write_coco(root: Path, train: int = 3, val: int = 2) -> Dataset:
    """`train` and `val` images; category ids have gaps, as in COCO."""
    dataset = Dataset("coco", root)
    categories = [{"id": 2 * i + 1, "name": name} for i, name in enumerate(class_names(dataset))]
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        for index in range(count):
            image = {"id": 100 + index, "file_name": f"{index:012d}.jpg", "width": 128, "height": 64}
            images.append(image)
            write_image(root / f"{split}2017" / image["file_name"], index)
            for crowd, (x0, y0, x1, y1) in enumerate(BOXES):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        "category_id": categories[7]["id"],
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": crowd,
                        "segmentation": [[x0, y0, x1, y0, x1, y1]],
                    }
                )
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        document = {"images": images, "annotations": annotations, "categories": categories}
        path.write_text(json.dumps(document))
    return dataset


def write_voc(root: Path, count: int = 2) -> Dataset:
    """`count` images a set; the corners are written from 1, as in VOC."""
    for year, image_set in (("VOC2007", "trainval"), ("VOC2007", "test"), ("VOC2012", "trainval")):
        names = [f"{year[3:]}_{image_set}_{index}" for index in range(count)]
        for index, name in enumerate(names):
            write_image(root / year / "JPEGImages" / f"{name}.jpg", index)
            things = "".join(
                f"<object><name>bus</name><difficult>{difficult}</difficult><bndbox>"
                f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1 + 1}</xmax><ymax>{y1 + 1}</ymax>"
                "</bndbox></object>"
                for difficult, (x0, y0, x1, y1) in enumerate(BOXES)
            )
            label = root / year / "Annotations" / f"{name}.xml"
            label.parent.mkdir(exist_ok=True)
            size = "<size><width>128</width><height>64</height><depth>3</depth></size>"
            label.write_text(f"<annotation>{size}{things}</annotation>")
        path = root / year / "ImageSets" / "Main" / f"{image_set}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))
    return Dataset("voc", root)
