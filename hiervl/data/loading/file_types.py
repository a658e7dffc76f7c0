"""The type of a file, by its first bytes or its suffix, and how to use it."""

import importlib.util
import os
from pathlib import Path

from PIL import Image

from hiervl.utils.placeholder import HEAD, FileType, placeholder

# HEIC photographs, which pillow-heif decodes if installed, and AVIF images, which most versions of Pillow decode.
HEIC_SUFFIXES, AVIF_SUFFIX = (".heic", ".heif", ".hif"), ".avif"
HAS_HEIC = importlib.util.find_spec("pillow_heif") is not None
HAS_AVIF = ".avif" in Image.registered_extensions()
# Suffixes of the formats that ``readers.py`` can decode.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm",
    *(HEIC_SUFFIXES if HAS_HEIC else ()), *([AVIF_SUFFIX] if HAS_AVIF else []),
)  # fmt: skip
CONVERT = "convert to JPEG or PNG"


IMAGE = FileType("an image", "")
UNPACK = "unpack it and name the folder"
AS_IMAGES = "as PNG or TIFF: images with 8 or 16 bits, masks with one number per pixel"
ARRAY = f"save the arrays {AS_IMAGES}"
MEDICAL = f"export the slices {AS_IMAGES}"
RAW = FileType("a camera's raw file", "develop it, and export JPEG, TIFF or PNG")
RAW_SUFFIXES = (
    ".cr2 .cr3 .crw .nef .nrw .arw .sr2 .srf .dng .orf .rw2 .raf .pef .srw .x3f .3fr .iiq .erf .dcr .kdc .mrw"
)
SLIDE = FileType("a slide scanner's file", "cut it into tiles, saved as PNG")
MICROSCOPE = FileType("a microscope's file", "export its images as PNG or TIFF of 8 or 16 bits (Fiji: Save As)")
UNFINISHED = FileType("an unfinished download", "download it again")
RASTERIZE = "draw PNG masks of it (QGIS: Rasterize)"
PICKLE = f"it may run programs and is never opened; save what it holds {AS_IMAGES}"
PACKED = f"save its images and masks as files, {AS_IMAGES}"
ARCHIVE_SUFFIXES = ".zip .7z .rar .tar .gz .tgz .bz2 .tbz2 .xz .txz .zst .tar.gz .tar.bz2 .tar.xz .tar.zst"
VIDEO = "extract frames, for example with `ffmpeg -i FILE frames/%05d.png`"

# By suffix, in lower case. Annotation files are recognised by their content: ``folders/kinds.py``.
TYPES: dict[str, FileType] = {
    **dict.fromkeys(HEIC_SUFFIXES, FileType("a HEIC photograph", f"install pillow-heif, or {CONVERT}")),
    AVIF_SUFFIX: FileType("an AVIF image", f"install Pillow 11.3 or later, or {CONVERT}"),
    **dict.fromkeys(IMAGE_SUFFIXES, IMAGE),
    ".jxl": FileType("a JPEG XL image", CONVERT),
    **dict.fromkeys(".jp2 .j2k .jpx .jpf .j2c .jpc .jpeg2000".split(), FileType("a JPEG 2000 image", CONVERT)),
    ".exr": FileType("an OpenEXR image", "save it as PNG or TIFF of 8 or 16 bits"),
    **dict.fromkeys(RAW_SUFFIXES.split(), RAW),
    **dict.fromkeys((".crdownload", ".part", ".partial", ".download", ".opdownload"), UNFINISHED),
    **dict.fromkeys((".psd", ".psb"), FileType("a Photoshop file", "export it as PNG")),
    **dict.fromkeys((".xcf", ".kra", ".ora"), FileType("a painting program's file", "export it as PNG")),
    ".svg": FileType("an SVG drawing", "export it as PNG"),
    ".pdf": FileType("a PDF document", "export its pictures as PNG"),
    **dict.fromkeys(".docx .xlsx .pptx .odt .ods .odp".split(), FileType("an office document", "")),
    **dict.fromkeys((".dcm", ".dicom"), FileType("a DICOM file", MEDICAL)),
    **dict.fromkeys(".nii .nii.gz .nrrd .mha .mhd .mgz".split(), FileType("a medical volume", MEDICAL)),
    **dict.fromkeys((".svs", ".ndpi", ".mrxs", ".scn"), SLIDE),
    **dict.fromkeys(".czi .lif .nd2 .vsi .oib .oif .lsm .ims".split(), MICROSCOPE),
    **dict.fromkeys((".shp", ".gpkg", ".kml", ".kmz"), FileType("a file of outlines on a map", RASTERIZE)),
    ".npy": FileType("a NumPy array", ARRAY),
    ".npz": FileType("a NumPy archive", ARRAY),
    ".mat": FileType("a MATLAB file", ARRAY),
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), FileType("an HDF5 file", ARRAY)),
    ".nc": FileType("a NetCDF file", ARRAY),
    **dict.fromkeys(".pkl .pickle .joblib .pt .pth".split(), FileType("a Python pickle", PICKLE)),
    **dict.fromkeys((".parquet", ".arrow", ".feather"), FileType("a table of a data set", PACKED)),
    **dict.fromkeys((".tfrecord", ".tfrecords", ".mdb", ".lmdb"), FileType("a packed data set", PACKED)),
    **dict.fromkeys(ARCHIVE_SUFFIXES.split(), FileType("an archive", UNPACK)),
    **dict.fromkeys(".mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .wmv".split(), FileType("a video", VIDEO)),
}

SIGNATURES: tuple[tuple[int, bytes, FileType], ...] = (
    (0, b"\xff\xd8\xff", IMAGE),
    (0, b"\x89PNG\r\n\x1a\n", IMAGE),
    (0, b"II*\x00", IMAGE),
    (0, b"MM\x00*", IMAGE),
    (0, b"GIF8", IMAGE),
    (0, b"BM", IMAGE),
    (8, b"WEBP", IMAGE),
    (4, b"ftypheic", TYPES[".heic"]),
    (4, b"ftypheix", TYPES[".heic"]),
    (4, b"ftypmif1", TYPES[".heic"]),
    (4, b"ftypavif", TYPES[".avif"]),
    (4, b"ftypcrx", RAW),
    (4, b"ftyp", TYPES[".mp4"]),
    (0, b"\x00\x00\x00\x0cjP  ", TYPES[".jp2"]),
    (0, b"\xff\x4f\xff\x51", TYPES[".jp2"]),
    (0, b"\x00\x00\x00\x0cJXL ", TYPES[".jxl"]),
    (0, b"\x76\x2f\x31\x01", TYPES[".exr"]),
    (8, b"AVI ", TYPES[".avi"]),
    (0, b"\x1a\x45\xdf\xa3", TYPES[".webm"]),
    (344, b"n+1\x00", TYPES[".nii"]),
    (0, b"ZISRAWFILE", MICROSCOPE),
    (0, b"PAR1", TYPES[".parquet"]),
    (0, b"8BPS", TYPES[".psd"]),
    (0, b"%PDF", TYPES[".pdf"]),
    (128, b"DICM", TYPES[".dcm"]),
    (0, b"\x93NUMPY", TYPES[".npy"]),
    (0, b"MATLAB 5.0", TYPES[".mat"]),
    (0, b"\x89HDF\r\n\x1a\n", TYPES[".h5"]),
    (0, b"PK\x03\x04", TYPES[".zip"]),
    (0, b"7z\xbc\xaf\x27\x1c", TYPES[".zip"]),
    (0, b"Rar!", TYPES[".zip"]),
    (0, b"\x1f\x8b", TYPES[".zip"]),
    (0, b"BZh", TYPES[".zip"]),
    (0, b"\xfd7zXZ\x00", TYPES[".zip"]),
    (257, b"ustar", TYPES[".zip"]),
)


def suffix_of(path: str | Path) -> str:
    """The suffix in lower case; of two suffixes that belong together both, such as .nii.gz."""
    name = os.path.basename(path).lower()
    first, last = os.path.splitext(name)
    double = os.path.splitext(first)[1] + last
    return double if double in TYPES else last


def type_of_bytes(head: bytes) -> FileType | None:
    """The type of a file that begins with ``head``; None: unknown, including all kinds of text."""
    for offset, mark, file_type in SIGNATURES:
        if head[offset : offset + len(mark)] == mark:
            return file_type
    return placeholder(head)


def type_of_file(path: str | Path) -> FileType | None:
    """The type of a file, by its content if possible, else by its suffix; None: unknown."""
    try:
        with open(path, "rb") as file:
            found = type_of_bytes(file.read(HEAD))
    except OSError:
        found = None
    by_suffix = TYPES.get(suffix_of(path))
    if found is TYPES[".zip"] and by_suffix not in (None, IMAGE):
        return by_suffix  # .npz and many others are ZIP archives, too
    if found is IMAGE and by_suffix in (RAW, SLIDE, MICROSCOPE):
        return by_suffix  # many of them are TIFFs, with a small preview first
    if by_suffix is UNFINISHED:
        return by_suffix
    return found or (by_suffix if by_suffix is not IMAGE else None)
