"""The data sets by name; a new one is one file and one entry here. Imports no torch."""

from typing import NamedTuple


class DataSet(NamedTuple):
    """An entry of the table.

    Attributes:
        description: one line, for whoever chooses.
        loader: `module:function` of a function (place: Path, image_size: int | None) -> Splits,
            imported when it is used. `place` is PATH where the name has one, else the folder of
            downloads; image_size None is the data set's own size.
        checker: the same of a function with these arguments that raises UserError where `loader`
            would, as far as that shows without a download and without reading pixels; empty where
            nothing can go wrong.
    """

    description: str
    loader: str
    checker: str


DATASETS: dict[str, DataSet] = {
    "swatches": DataSet(
        "constant images in nine colours, 32x32; the toy data set of Appendix B",
        "rrvqlib.data.swatches:load_swatches",
        "",
    ),
    "photos": DataSet(
        "patches of the photographs inside scikit-image and matplotlib, 32x32 or 64x64",
        "rrvqlib.data.photos:load_photos",
        "rrvqlib.data.photos:check_photos",
    ),
    "cifar10": DataSet(
        "CIFAR-10, 32x32, downloaded (170 MB) into the data folder when first used",
        "rrvqlib.data.torchvision_sets:load_cifar10",
        "rrvqlib.data.torchvision_sets:check_32x32",
    ),
    "svhn": DataSet(
        "Street View House Numbers, 32x32, downloaded (250 MB) when first used",
        "rrvqlib.data.torchvision_sets:load_svhn",
        "rrvqlib.data.torchvision_sets:check_32x32",
    ),
    "celeba": DataSet(
        "CelebA faces, 64x64, downloaded (1.4 GB) when first used",
        "rrvqlib.data.torchvision_sets:load_celeba",
        "rrvqlib.data.torchvision_sets:check_celeba",
    ),
    "folder:PATH": DataSet(
        "images below PATH, one folder per class, or PATH/train, PATH/test and, if you like, "
        "PATH/valid (or val, or validation)",
        "rrvqlib.data.folder:load_folder",
        "rrvqlib.data.folder:check_folder",
    ),
    "npz:PATH": DataSet(
        "a NumPy file with the uint8 arrays train_images, test_images and, if you like, "
        "valid_images, each (N, H, W, 3)",
        "rrvqlib.data.npz:load_npz",
        "rrvqlib.data.npz:check_npz",
    ),
}
