"""Miniature copies of published downloads: the same files, with a few tiny images."""

import pathlib

import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.photos import image

CUB_CLASSES = {1: "001.Auk", 2: "002.Wren", 101: "101.Pelican", 102: "102.Phoebe", 103: "103.Raven"}
CARS_CLASSES = (1, 98, 99, 100, 196)
SOP_CLASSES = {1: "bicycle_final", 2: "chair_final", 11319: "bicycle_final", 11320: "lamp_final"}


def write_photo(path: pathlib.Path, kind: int, variant: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image(kind, variant)).save(path, "JPEG", quality=95)


def write_lines(path: pathlib.Path, lines: list[str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())


def write_cub(root: pathlib.Path, variants: int = 3, end: str = "\n") -> pathlib.Path:
    """CUB_200_2011 with some of its classes; returns the folder."""
    folder, images = root / "CUB_200_2011", []
    for kind, (number, title) in enumerate(CUB_CLASSES.items()):
        for variant in range(variants):
            file = f"{title}/{title[4:]}_{variant:04d}_{number}.jpg"
            write_photo(folder / "images" / file, kind, variant)
            images.append((len(images) + 1, file, number))
    write_lines(folder / "images.txt", [f"{i} {file}" for i, file, _ in images], end)
    write_lines(folder / "image_class_labels.txt", [f"{i} {number}" for i, _, number in images], end)
    write_lines(folder / "classes.txt", [f"{number} {title}" for number, title in CUB_CLASSES.items()], end)
    write_lines(folder / "bounding_boxes.txt", [f"{i} {i}.0 2.0 10.0 20.5" for i, *_ in images], end)
    write_lines(folder / "parts" / "parts.txt", ["1 back", "2 left wing"], end)
    places = [f"{i} {part} {i}.5 {part}.0 {part - 1}" for i, *_ in images for part in (1, 2)]
    write_lines(folder / "parts" / "part_locs.txt", places, end)
    return folder


def write_cars(root: pathlib.Path, variants: int = 2, devkit: bool = False) -> pathlib.Path:
    """Cars196 with five cars of its 196 classes, in either of its two layouts; returns the folder."""
    titles = np.array([f"Car {i} 2012" for i in range(1, 197)], object)
    entries = [(kind, number, v) for v in range(variants) for kind, number in enumerate(CARS_CLASSES)]
    if not devkit:
        rows = []
        for i, (kind, number, variant) in enumerate(entries, start=1):
            write_photo(root / f"car_ims/{i:06d}.jpg", kind, variant)
            rows.append((f"car_ims/{i:06d}.jpg", 1, 2, 30 + i, 40, number, variant))
        fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
        annotations = np.array(rows, [(name, object) for name in fields])
        savemat(root / "cars_annos.mat", {"annotations": annotations, "class_names": titles})
        return root
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    for half, file in ((0, "devkit/cars_train_annos.mat"), (1, "cars_test_annos_withlabels.mat")):
        rows = []
        for i, (kind, number, variant) in enumerate(entries[half::2], start=1):
            write_photo(root / f"cars_{('train', 'test')[half]}/{i:05d}.jpg", kind, variant)
            rows.append((1, 2, 30 + i, 40, number, f"{i:05d}.jpg"))
        (root / "devkit").mkdir(exist_ok=True)
        savemat(root / file, {"annotations": np.array(rows, [(name, object) for name in fields])})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": titles})
    return root


def write_sop(root: pathlib.Path, variants: int = 3, end: str = "\n") -> pathlib.Path:
    """Stanford_Online_Products with two products a half; returns the folder."""
    folder, number = root / "Stanford_Online_Products", 0
    for half, products in (("train", (1, 2)), ("test", (11319, 11320))):
        lines = ["image_id class_id super_class_id path"]
        for kind, product in enumerate(products):
            for variant in range(variants):
                number += 1
                file = f"{SOP_CLASSES[product]}/{111000 + product}_{variant}.JPG"
                write_photo(folder / file, kind, variant)
                lines.append(f"{number} {product} {kind + 1} {file}")
        write_lines(folder / f"Ebay_{half}.txt", lines, end)
    return folder


# key: easting, northing (metres from the corner of the city), compass angle, pano, in subtask "all", night
CPH = {
    "database": {
        "d0": (0.0, 0.0, 10, False, True, False),
        "d1": (100.0, 0.0, 90, False, True, False),
        "d2": (1.0, 1.0, 0, True, True, False),  # a panorama: not in the search
        "d3": (200.0, 0.0, 350, False, True, True),
    },
    "query": {
        "q0": (15.0, 20.0, 20, False, True, False),  # 25 m from d0: found by the rule of 25 m
        "q1": (15.0, 20.001, 20, False, True, False),  # a millimetre more: without a positive
        "q2": (110.0, 0.0, 270, False, True, True),  # 10 m from d1, turned by 180 degrees
        "q3": (0.0, 1.0, 0, False, False, False),  # not in the subtask
        "q4": (0.0, 1.0, 0, True, True, False),  # a panorama
        "q5": (200.0, 5.0, 10, False, True, False),  # 5 m from d3, turned by 20 degrees over north
    },
}
# The same numbers as in cph, in another UTM zone: near by the numbers, on another continent.
SF = {
    "database": {"d5": (1.0, 0.0, 0, False, True, False), "d6": (300.0, 0.0, 0, False, True, False)},
    "query": {"q6": (290.0, 0.0, "", False, True, False)},  # its compass said nothing
}


def write_msls(root: pathlib.Path, end: str = "\n") -> pathlib.Path:
    """train_val with two small cities; returns the folder it lies in."""
    kind = 0
    for city, sides in (("cph", CPH), ("sf", SF)):
        for side, photos in sides.items():
            folder = root / "train_val" / city / side
            post, raw = [",key,easting,northing,unique_cluster,night,control_panel,view_direction"], []
            raw, tasks = [",key,lon,lat,ca,captured_at,pano"], [",key,all,s2w,w2s,o2n,n2o,d2n,n2d"]
            frames = [",key,sequence_key,frame_number"]
            for i, (key, (east, north, angle, pano, asked, night)) in enumerate(photos.items()):
                place = f"{340_000 + east!r},{6_170_000 + north!r}"
                post.append(f"{i},{key},{place},{i},{night},False,Forward")
                raw.append(f"{i},{key},12.5,55.6,{angle},2017-05-01,{pano}")
                tasks.append(f"{i},{key},{asked},False,False,False,False,{night},False")
                frames.append(f"{i},{key},sequence,{i}")
                write_photo(folder / "images" / f"{key}.jpg", kind % 5, i)
                kind += 1
            tables = {"postprocessed": post, "raw": raw, "subtask_index": tasks, "seq_info": frames}
            for name, lines in tables.items():
                write_lines(folder / f"{name}.csv", lines, end)
    return root
