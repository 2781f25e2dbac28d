"""PASCAL VOC as it is downloaded. Needs no framework.

Layout `{root}/{year}/ImageSets/Main/{set}.txt`, `{year}/JPEGImages/{id}.jpg`, `{year}/Annotations/{id}.xml`.
Trained on trainval of VOC2007 and VOC2012, validated on test of VOC2007: what is called 07+12.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from spnas_hw.errors import DataError

SETS = {"train": (("VOC2007", "trainval"), ("VOC2012", "trainval")), "val": (("VOC2007", "test"),)}
"""The (year, image set) pairs of a split."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def list_path(year: str, image_set: str) -> str:
    """The list of an image set, relative to the root."""
    return f"{year}/ImageSets/Main/{image_set}.txt"


def find_images(root: Path, split: str) -> list[Path]:
    """The images of a split, sorted by path; their labels are read once to see that they can be.

    Raises:
        DataError: a list, an image or a label is missing or damaged.
    """
    found = []
    for year, image_set in SETS[split]:
        path = root / list_path(year, image_set)
        try:
            names = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror}): root is the folder of VOC2007/ and VOC2012/"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no list of images: {error}") from error
        if not names:
            raise DataError(f"{path} lists no images")
        for name in names:
            image = root / year / "JPEGImages" / f"{name}.jpg"
            if not image.is_file():
                raise DataError(f"{image} is missing, but listed in {path}")
            _check_label(root / year / "Annotations" / f"{name}.xml")
            found.append(image)
    return sorted(found)


def _check_label(path: Path) -> None:
    try:
        document = ElementTree.parse(path).getroot()
        int(document.findtext("size/width", "")), int(document.findtext("size/height", ""))
        for thing in document.findall("object"):
            int(thing.findtext("difficult", "0"))
            for corner in CORNERS:
                float(thing.findtext(f"bndbox/{corner}", ""))
            if thing.find("name") is None:
                raise ValueError("an object has no name")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path} is no VOC label: {error}") from error
