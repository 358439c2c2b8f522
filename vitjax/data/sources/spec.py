"""What a program is told about a dataset, whichever it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitjax.errors import UserError

SUBTASKS = ("all", "s2w", "w2s", "o2n", "n2o", "d2n", "n2d")  # summer, winter, old, new, day, night


@dataclass(frozen=True)
class DataSpec:
    """What says which images are meant; a dataset reads the fields that concern it.

    Attributes:
        path: folder of the files as published, or of prepared datasets.
        name: of the dataset among those of its folder.
        split: of it, where one split is searched or classified.
        gallery: folder of images to search in.
        query: folder of images to search for, or one image.
        train: folder, split or cities to learn from.
        test: folder, split or cities held out.
        cities: to search in.
        subtask: of `SUBTASKS`.
        split_file: which images of a folder are learned from and which held out; see `sources.split`.
        fields: by the name of one of the above, the field of a program's config that it comes from.
    """

    path: str = ""
    name: str = ""
    split: str = "validation"
    gallery: str = ""
    query: str = ""
    train: str = ""
    test: str = ""
    cities: tuple[str, ...] = ("cph", "sf")
    subtask: str = "all"
    split_file: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    def folder(self, name: str) -> str:
        """The folder that a field gives.

        Raises:
            UserError: it is empty.
        """
        if not (found := getattr(self, name)):
            fields = [self.fields[name]] if name in self.fields else []
            raise UserError(f"say where the images are: {name!r} is empty; give a folder", fields=fields)
        return found
