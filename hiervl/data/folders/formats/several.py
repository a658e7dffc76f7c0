"""Several annotation files of one format for the images of one folder, such as a CVAT file for each job."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hiervl.data.classes.class_maps import ClassMap
from hiervl.data.folders.formats.source import Annotation, AnnotationSource
from hiervl.utils.errors import UserError


class SeveralFiles(AnnotationSource):
    """The annotations of several files, each of which lists some of the images. The entry of a key is its source."""

    def __init__(self, parts: Sequence[AnnotationSource], path: Path, class_map: ClassMap, images: Mapping[str, Path]):
        """
        Args:
            parts: the sources of the files.
            path: their folder.

        Raises:
            UserError: two files have objects for one image.
        """
        super().__init__(path, class_map, images)
        self.parts, self.kind = parts, parts[0].kind
        empty = 0
        for part in parts:
            self.notes += part.notes
            for key in part.keys:
                other = self.keys.setdefault(key, part)
                if other is part:
                    continue
                if not part.is_empty(key) and not other.is_empty(key):
                    raise UserError(
                        f"{other.path} and {part.path} both have objects for the image {key}: name the file that "
                        "counts as MASKS, or move the other one."
                    )
                empty += 1
                self.keys[key] = other if part.is_empty(key) else part
        if empty:
            self.notes.append(
                f"{path}: {empty} images are listed by two files, of which one has no object for them: the other one "
                "counts."
            )

    def add_images(self, images: Mapping[str, Path]) -> None:
        super().add_images(images)
        for part in self.parts:
            part.add_images(images)

    def annotation(self, key: str) -> Annotation:
        return self.keys[key].annotation(key)

    def file(self, key: str) -> Path:
        return self.keys[key].file(key)

    def files(self) -> set[Path]:
        return {path for part in self.parts for path in part.files()}

    def name(self, key: str) -> str:
        return self.keys[key].name(key)

    def label_of(self, name: str) -> int | None:
        return self.parts[0].label_of(name)
