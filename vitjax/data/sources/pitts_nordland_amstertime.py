"""Places: Pittsburgh 250k and 30k, Nordland, AmsterTime, as downloaded or with positions in file names.

Each is two sides of photos with positions: relevant are those within a radius. Pittsburgh's are in its
.mat structs; the others have none, and get positions that make the usual 25 m say what their protocols
say. All three are also read as the folders images/test/database and images/test/queries with names
@UTM_EAST@UTM_NORTH@...@, into which VPR benchmarks bring them.
"""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float64

from vitjax.data.sources.base import FolderSource, ListedSource
from vitjax.data.sources.folders import SUFFIXES, list_folder
from vitjax.data.sources.mat_file import read_mat
from vitjax.data.sources.msls import PlaceSource
from vitjax.data.sources.utm_names import places_in_names
from vitjax.errors import UserError
from vitjax.system.files import expanded

FRAME = 2.4  # metres between frames of Nordland: 10 frames are within 25 m, as VPR benchmarks arrange them
PAIR = 1000.0  # metres between the places of AmsterTime
Sides = tuple[PlaceSource, PlaceSource]


def read_pittsburgh(root: str | os.PathLike[str], name: str) -> Sides:
    """Pittsburgh 250k or 30k (Torii et al. 2013), test sets as NetVLAD splits them: gallery and queries.

    Args:
        root: folder with the photos 000/ to 010/ and queries_real/, and NAME_test.mat in it, in datasets/ or
            in groundtruth/; or with images/test/.
        name: "pitts250k" or "pitts30k".

    Raises:
        UserError: a file is missing, or not as published.
    """
    folder = Path(expanded(root))
    if arranged := _arranged(folder, name):
        return arranged
    file = f"{name}_test.mat"
    path = next(
        (folder / at / file for at in (".", "datasets", "groundtruth") if (folder / at / file).is_file()),
        None,
    )
    if path is None:
        raise UserError(
            f"{os.fspath(root)!r} holds neither {file}, also not in datasets/, nor images/test; download it"
        )
    (record,) = read_mat(path, "dbStruct")["dbStruct"].ravel()[:1]
    fields = record.dtype.names or () if isinstance(record, np.void) else ()
    if missing := {"dbImageFns", "utmDb", "qImageFns", "utmQ"} - set(fields):
        raise UserError(f"{path}: dbStruct holds no {sorted(missing)[0]!r}; is it the published file?")
    asked = "queries_real/" if (folder / "queries_real").is_dir() else "queries/"
    sides = []
    for names, utm, below in (("dbImageFns", "utmDb", ""), ("qImageFns", "utmQ", asked)):
        files = [_inside(str(entry), path) for entry in np.atleast_1d(record[names]).ravel()]
        places = np.asarray(record[utm], np.float64)
        places = places.reshape(2, -1).T
        if places.shape != (len(files), 2) or not np.isfinite(places).all():
            raise UserError(
                f"{path}: {utm} holds no position for each of {len(files)} photos; download it again"
            )
        sides.append(_side(folder, [below + file for file in files], places, name))
    return sides[0], sides[1]


def read_nordland(root: str | os.PathLike[str], *, query: str = "winter", gallery: str = "summer") -> Sides:
    """Nordland (Sunderhauf et al. 2013): frames of one season searched among those of another.

    Frame i of either season, counting those that are there, is at FRAME * i metres: within 25 m are 10
    frames, the usual tolerance. The frames of Patch-NetVLAD lie sqrt(2) apart and count within 10, so 7
    frames: a radius of 17 m.

    Args:
        root: folder with a folder of frames for each season, of the same names; or with images/test/.
        query: season that is searched for.
        gallery: season that is searched.

    Raises:
        UserError: a season is missing, or the seasons have other frames.
    """
    folder = Path(expanded(root))
    if arranged := _arranged(folder, "nordland"):
        return arranged
    frames = {season: _frames(folder / season) for season in (gallery, query)}
    if frames[gallery].keys() != frames[query].keys():
        (frame,) = sorted(frames[gallery].keys() ^ frames[query].keys())[:1]
        raise UserError(
            f"{folder}: only one of {gallery} and {query} has frame {frame!r}; is the download whole?"
        )
    sides = []
    for season in (gallery, query):
        files = [f"{season}/{file}" for _, file in sorted(frames[season].items())]
        places = np.stack([np.zeros(len(files)), FRAME * np.arange(len(files))], axis=1)
        sides.append(_side(folder, files, places, "nordland"))
    return sides[0], sides[1]


def read_amstertime(root: str | os.PathLike[str]) -> Sides:
    """AmsterTime (Yildiz et al. 2022): historical photos searched among today's, each of which has one name.

    Args:
        root: folder with new/ and old/, as AmsterTime-v1.0.zip has them; or with images/test/.

    Raises:
        UserError: a folder is missing, or a photo has no partner.
    """
    folder = Path(expanded(root))
    if arranged := _arranged(folder, "amstertime"):
        return arranged
    new, old = (_frames(folder / side) for side in ("new", "old"))
    if alone := sorted(new.keys() ^ old.keys()):
        raise UserError(f"{folder}: only one of new and old has photo {alone[0]!r}; is the download whole?")
    row = {name: i for i, name in enumerate(sorted(new))}
    sides = []
    for side, photos in (("new", new), ("old", old)):
        places = np.array([(0.0, PAIR * row[name]) for name in sorted(photos)]).reshape(-1, 2)
        sides.append(
            _side(folder, [f"{side}/{photos[name]}" for name in sorted(photos)], places, "amstertime")
        )
    return sides[0], sides[1]


def _arranged(folder: Path, name: str) -> Sides | None:
    """Both sides where names say the positions; None where there is no images/test."""
    sides = []
    for side in ("database", "queries"):
        if not (folder / "images" / "test" / side).is_dir():
            return None
        files = FolderSource(folder / "images" / "test" / side).names
        found = places_in_names(files)
        if found is None:
            raise UserError(f"{folder}/images/test/{side}: no name says a position, @UTM_EAST@UTM_NORTH@...@")
        paths = [f"images/test/{side}/{file}" for file in files]
        sides.append(_side(folder, paths, found.places, name, found.angles))
    return sides[0], sides[1]


def _side(
    folder: Path,
    files: Sequence[str],
    places: Float64[np.ndarray, "n 2"],
    name: str,
    angles: Float64[np.ndarray, " n"] | None = None,
) -> PlaceSource:
    """Photos of one place, named for the set, which is searched as a whole."""
    images = ListedSource(folder, files, np.zeros(len(files), np.int32), [name])
    unknown = np.full(len(files), np.nan)
    return PlaceSource(
        images,
        places=places,
        angles=unknown if angles is None else angles,
        night=np.zeros(len(files), bool),
    )


def _frames(folder: Path) -> dict[str, str]:
    """Path of each photo by its name without suffix."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; is the download whole?")
    files = list_folder(folder).images
    found = {PurePosixPath(file).stem: file for file in files}
    if len(found) < len(files) or not found:
        raise UserError(
            f"{folder} holds {len(files)} photos of {len(found)} names; is it the published folder?"
        )
    return found


def _inside(file: str, path: Path) -> str:
    found = PurePosixPath(file)
    if found.is_absolute() or ".." in found.parts or "\\" in file or "\0" in file:
        raise UserError(f"{path}: {file!r} is no relative path inside of the download")
    if found.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: {file!r} does not end in one of {', '.join(SUFFIXES)}")
    return found.as_posix()
