"""The data sets by name; a new one is one file and one entry here. Imports no torch."""

from typing import NamedTuple

MAX_CLASSES = 100_000  # of a data set


class DataSet(NamedTuple):
    """An entry of the table.

    Attributes:
        description: one line, for whoever chooses.
        loader: `module:function` of a function (place: Path, wanted: Wanted) -> Splits, imported
            when it is used. `place` is PATH where the name has one, else the folder of downloads.
        checker: the same of a function with these arguments that raises UserError where `loader`
            would, as far as that shows without a download and without reading pixels; empty where
            nothing can go wrong.
        channels: of the images, 3 or 1; None where PATH decides.
    """

    description: str
    loader: str
    checker: str
    channels: int | None = 3


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
    "mnist": DataSet(
        "MNIST's handwritten digits, grey, 28x28, downloaded (12 MB) when first used",
        "rrvqlib.data.torchvision_grey:load_mnist",
        "rrvqlib.data.torchvision_grey:check_28x28",
        channels=1,
    ),
    "fashion-mnist": DataSet(
        "Fashion-MNIST's articles of clothing, grey, 28x28, downloaded (30 MB) when first used",
        "rrvqlib.data.torchvision_grey:load_fashion_mnist",
        "rrvqlib.data.torchvision_grey:check_28x28",
        channels=1,
    ),
    "folder:PATH": DataSet(
        "images below PATH, one folder per class, or PATH/train, PATH/test and, if you like, "
        "PATH/valid (or val, or validation)",
        "rrvqlib.data.folder:load_folder",
        "rrvqlib.data.folder:check_folder",
        channels=None,
    ),
    "npz:PATH": DataSet(
        "a NumPy file with the uint8 arrays train_images, test_images and, if you like, "
        "valid_images, each (N, H, W, 3), or (N, H, W) if they are grey",
        "rrvqlib.data.npz:load_npz",
        "rrvqlib.data.npz:check_npz",
        channels=None,
    ),
}
