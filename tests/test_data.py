"""Data sets: what is in them, how they are split, what bad input is told."""

import dataclasses
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import largest_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import rrvqlib
from rrvqlib import data
from rrvqlib.data.photos import PHOTO_SHRINKS, PHOTO_STEPS
from rrvqlib.data.torchvision_import import torchvision
from rrvqlib.data.torchvision_sets import CELEBA_KEY
from rrvqlib.errors import UserError

LIBRARY = Path(rrvqlib.__path__[0])


def random_images(count, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def channels_first(images):
    return torch.from_numpy(np.stack([np.stack([i[..., c] for c in range(3)]) for i in images]))


def assert_same_splits(first, second):
    for split in data.SPLITS:
        assert torch.equal(first[split], second[split])


def patch_hashes(images):
    return [hashlib.sha256(image.numpy().tobytes()).digest() for image in images]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def run_python(code, path_entry=None):
    entries = [str(path_entry)] if path_entry else []
    entries += [str(Path(rrvqlib.__path__[0]).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entries), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


# ------------------------------------------------------------------------------------- the module


def test_the_names_of_the_data_sets_need_no_torch():
    run = run_python(
        "import sys; from rrvqlib.data import DATASETS; print(*DATASETS, 'torch' in sys.modules)"
    )
    assert run.stdout.split() == [*data.DATASETS, "False"], run.stderr


def test_importing_every_loader_imports_no_image_library():
    heavy = ("torchvision", "skimage", "matplotlib", "scipy", "PIL")
    run = run_python(
        "import sys; from importlib import import_module; from rrvqlib.data import DATASETS;"
        "modules = {dataset.loader.partition(':')[0] for dataset in DATASETS.values()};"
        "[import_module(module) for module in ('rrvqlib.data.loading', *modules)];"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert run.stdout.strip() == "[]", run.stdout + run.stderr


def test_what_the_package_offers_stays_itself_whichever_module_comes_first():
    run = run_python(
        "import rrvqlib.data.loading, rrvqlib.data.splits; from rrvqlib import data;"
        "data.DATASETS, data.Splits, data.PHOTOS, data.SWATCHES;"
        "print(callable(data.load), callable(data.path_of), data.SPLITS)"
    )
    assert run.stdout.strip() == "True True ('train', 'valid', 'test')", run.stdout + run.stderr


def test_torchvision_is_imported_in_one_place_only():
    importing = re.compile(r"^\s*(import torchvision|from torchvision)", re.MULTILINE)
    files = [f.name for f in LIBRARY.rglob("*.py") if importing.search(f.read_text("utf-8"))]
    assert files == ["torchvision_import.py"]


FAKE_TORCHVISION = {
    # What a build for another torch does: it stops unless the operator is known.
    "mismatched": """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
""",
    # A good build defines the operator itself; to define it twice is an error in torch.
    "good": """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
""",
    "broken otherwise": "raise RuntimeError('no kernel for this device')",
}


@pytest.mark.parametrize("kind", FAKE_TORCHVISION)
def test_guard_mends_the_mismatch_and_nothing_else(kind, tmp_path):
    (tmp_path / "torchvision.py").write_text(FAKE_TORCHVISION[kind])
    run = run_python(
        "from rrvqlib.data.torchvision_import import torchvision; print(torchvision.__file__)",
        tmp_path,
    )
    if kind == "broken otherwise":
        assert run.returncode != 0 and "no kernel for this device" in run.stderr
    else:
        assert run.stdout.strip() == str(tmp_path / "torchvision.py"), run.stderr


def test_unknown_data_set_is_told_every_name():
    with pytest.raises(UserError) as raised:
        data.load("cifar")
    for name in data.DATASETS:
        assert name in str(raised.value)


def test_every_named_data_set_is_known(tmp_path, no_network):
    for name in data.DATASETS:
        try:
            data.load(name, data_dir=tmp_path)
        except UserError as error:
            assert "there is no data set" not in str(error)


@pytest.mark.parametrize(
    ("dataset", "image_size", "remedy"),
    [
        ("photos", 128, "image_size 32 or 64"),
        ("photos", 7, "image_size 32 or 64"),
        ("cifar10", 64, "image_size 32"),
        ("svhn", 64, "image_size 32"),
        ("celeba", 32, "image_size 64"),
        ("swatches", 0, "at least 1"),
        ("npz:", None, "npz:PATH"),
        ("folder:", None, "folder:PATH"),
        ("npz:nowhere.npz", None, "check the path"),
        ("folder:nowhere", None, "check the path"),
    ],
)
def test_impossible_requests_are_told_the_remedy(dataset, image_size, remedy, tmp_path):
    with pytest.raises(UserError, match=re.escape(remedy)):
        data.load(dataset, tmp_path, image_size)
    with pytest.raises(UserError, match=re.escape(remedy)):
        data.check(dataset, tmp_path, image_size)
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------- swatches


def test_swatches_are_constant_and_every_split_holds_the_nine_colours():
    swatches = data.load("swatches")
    assert swatches.image_size == 32 and swatches.name == "swatches"
    nine = set(data.SWATCHES.values())
    assert len(nine) == 9
    for split, count in (("train", 900), ("valid", 90), ("test", 90)):
        images = swatches[split]
        assert images.shape == (count, 3, 32, 32) and images.dtype == torch.uint8
        corner = images[:, :, :1, :1]
        assert torch.equal(images, corner.expand_as(images))
        colours = [tuple(pixel) for pixel in corner.flatten(1).tolist()]
        assert set(colours) == nine
        assert {colours.count(colour) for colour in nine} == {count // 9}
        assert set(colours[:9]) == nine


def test_unknown_split_is_told_the_three_names():
    with pytest.raises(UserError, match="train, valid, test"):
        data.load("swatches")["validation"]


# ----------------------------------------------------------------------------------------- photos


@pytest.fixture(scope="module", params=[32, 64])
def photos(request):
    return data.load("photos", image_size=request.param)


def test_a_photograph_is_in_one_split_and_stereo_views_stay_together():
    files = [file for split in data.SPLITS for file in data.PHOTOS[split]]
    assert len(files) == len(set(files))
    # A scene is a file name without the view: motorcycle_left, motorcycle_right.
    scenes = {
        split: {re.sub(r"_(left|right)$", "", Path(file).stem) for _, file in data.PHOTOS[split]}
        for split in data.SPLITS
    }
    assert "motorcycle" in scenes["train"]
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not scenes[a] & scenes[b]


def patches_by_slicing(photo, image_size, step, mirrored):
    """The hashes of all patches of a photograph (H, W, 3), cut one by one."""
    hashes = set()
    for factor in PHOTO_SHRINKS:
        pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1).double()
        mean = torch.nn.functional.avg_pool2d(pixels, factor)
        small = (mean + 0.5).floor().to(torch.uint8)
        for top in range(0, small.shape[1] - image_size + 1, step // factor):
            for left in range(0, small.shape[2] - image_size + 1, step // factor):
                patch = small[:, top : top + image_size, left : left + image_size]
                for view in (patch, patch.flip(2)) if mirrored else (patch,):
                    hashes.add(hashlib.sha256(view.contiguous().numpy().tobytes()).digest())
    return hashes


def test_photos_are_exactly_the_patches_of_their_photographs(photos):
    import matplotlib
    import skimage

    roots = {"skimage": skimage.__path__[0], "matplotlib": matplotlib.__path__[0]}
    held_out = set()
    for split in ("test", "valid", "train"):
        expected = set()
        for package, file in data.PHOTOS[split]:
            photo = np.asarray(Image.open(Path(roots[package]) / file))
            assert photo.ndim == 3 and photo.shape[2] == 3  # colour
            step = PHOTO_STEPS[split]
            expected |= patches_by_slicing(photo, photos.image_size, step, split == "train")
        expected -= held_out
        found = patch_hashes(photos[split])
        assert len(found) == len(set(found)), f"identical patches in {split}"
        assert set(found) == expected
        held_out |= expected


def test_photos_have_enough_patches_of_the_right_kind(photos):
    for split, least in (("train", 15_000), ("valid", 400), ("test", 500)):
        images = photos[split]
        assert images.shape[0] >= least and images.dtype == torch.uint8
        assert images.shape[1:] == (3, photos.image_size, photos.image_size)
        assert images.is_contiguous()
        some = images[:300].int()
        assert (some[:, 0] - some[:, 2]).abs().float().mean() > 5  # colour: channels differ


def test_the_first_photos_of_a_split_are_a_fair_sample_of_it(photos):
    for split in data.SPLITS:
        brightness = photos[split][:, :, ::4, ::4].float().mean((1, 2, 3))
        spread = brightness.std() / 200**0.5
        assert (brightness[:200].mean() - brightness.mean()).abs() < 4 * spread


def test_photos_are_the_same_in_another_process():
    photos = data.load("photos")
    code = (
        "import hashlib, sys; from rrvqlib.data import load; photos = load('photos');"
        "print([hashlib.sha256(photos[s].numpy()).hexdigest() for s in ('train', 'valid', 'test')],"
        "[m for m in ('skimage', 'matplotlib') if m in sys.modules])"
    )
    run = run_python(code)
    digests = [hashlib.sha256(photos[split].numpy()).hexdigest() for split in data.SPLITS]
    # The second list: neither package was imported, which would be slow and might download.
    assert run.stdout.strip() == f"{digests} []", run.stdout + run.stderr


def test_a_patch_of_two_splits_is_kept_out_of_the_training(monkeypatch):
    """No such patch occurs in the photographs; one photograph in both splits makes many."""
    cat, astronaut = (("skimage", "data/chelsea.png"),), (("skimage", "data/astronaut.png"),)
    pictures = {"train": cat, "valid": astronaut, "test": cat}
    monkeypatch.setattr("rrvqlib.data.photos.PHOTOS", pictures)
    photos = data.load("photos")
    train, test = set(patch_hashes(photos.train)), set(patch_hashes(photos.test))
    assert not train & test
    assert len(test) == 11 * 7 + 10 * 6 + 9 * 5  # a grid at each scale, none left out
    assert len(train) > 2000


def test_photos_without_the_package_name_the_pip_command(monkeypatch):
    for package, name in (("skimage", "scikit-image"), ("matplotlib", "matplotlib")):
        monkeypatch.setattr(
            "rrvqlib.data.photos.find_spec",
            lambda p, gone=package: None if p == gone else find_spec(p),
        )
        with pytest.raises(UserError, match=f"pip install {name}"):
            data.load("photos")


def test_a_photograph_that_a_version_lacks_is_named(monkeypatch):
    monkeypatch.setitem(data.PHOTOS, "valid", (("skimage", "data/not_there.png"),))
    with pytest.raises(UserError, match="not_there.png.*scikit-image"):
        data.load("photos")


# -------------------------------------------------------------------------------------------- npz


def save_npz(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_npz_takes_both_orders_of_axes(tmp_path):
    train, valid, test = (random_images(n, seed=n) for n in (20, 5, 6))
    last = data.load(
        save_npz(tmp_path / "last.npz", train_images=train, valid_images=valid, test_images=test)
    )
    first = data.load(
        save_npz(
            tmp_path / "first.npz",
            train_images=train.transpose(0, 3, 1, 2),
            valid_images=valid.transpose(0, 3, 1, 2),
            test_images=test.transpose(0, 3, 1, 2),
        )
    )
    assert_same_splits(last, first)
    for split, images in (("train", train), ("valid", valid), ("test", test)):
        assert torch.equal(last[split], channels_first(images))
        assert last[split].is_contiguous()
    assert last.name == "npz:last.npz" and last.image_size == 8
    assert str(tmp_path) not in last.description


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 60))
def test_npz_without_validation_gives_up_its_last_tenth(tmp_path_factory, count):
    path = tmp_path_factory.mktemp("npz") / "set.npz"
    train = random_images(count)
    splits = data.load(save_npz(path, train_images=train, test_images=random_images(3)))
    assert len(splits.valid) == max(1, count // 10)
    assert torch.equal(torch.cat([splits.train, splits.valid]), channels_first(train))


@settings(max_examples=30, deadline=None)
@given(
    official=st.sampled_from([1000, 2000, 5000]),
    missing=st.floats(0.0, 0.9),
    seed=st.integers(0, 2**32 - 1),
)
def test_npz_with_positions_is_split_where_the_official_set_is(
    tmp_path_factory, official, missing, seed
):
    """Road one: the loader. Road two: sort (position, image) pairs, compare with nine tenths."""
    generator = np.random.default_rng(seed)
    keep = generator.random(official) >= missing
    keep[-1] = keep[0] = True  # else the official size, or both splits, are not certain
    index = generator.permutation(np.flatnonzero(keep)).astype(np.int32)
    images = np.zeros((len(index), 2, 2, 3), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = index // 256, index % 256  # an image tells its place
    path = tmp_path_factory.mktemp("npz") / "set.npz"
    splits = data.load(
        save_npz(path, train_images=images, train_index=index, test_images=images[:2])
    )

    def places(split):
        return (256 * split[:, 0, 0, 0].int() + split[:, 1, 0, 0].int()).tolist()

    boundary = official * 9 // 10
    assert places(splits.train) == sorted(i for i in index.tolist() if i < boundary)
    assert places(splits.valid) == sorted(i for i in index.tolist() if i >= boundary)


GOOD = {"train_images": random_images(20), "test_images": random_images(4)}


@pytest.mark.parametrize(
    ("arrays", "image_size", "message"),
    [
        ({"test_images": None}, None, "holds no array test_images"),
        ({"train_images": None}, None, "holds no array train_images"),
        ({"train_images": GOOD["train_images"] / 255}, None, "numpy.uint8"),
        ({"train_images": GOOD["train_images"][:, :6]}, None, "shape (20, 6, 8, 3); save square"),
        ({"train_images": GOOD["train_images"][..., 0]}, None, "channels (train 1, test 3)"),
        ({"train_images": GOOD["train_images"][..., :1]}, None, "channels (train 1, test 3)"),
        ({"train_images": GOOD["train_images"][..., :2]}, None, "(N, H, W, 3)"),
        ({"train_images": GOOD["train_images"][0, ..., 0]}, None, "(N, H, W, 3)"),
        ({"train_images": GOOD["train_images"][:0]}, None, "empty"),
        ({"train_images": GOOD["train_images"][:1]}, None, "valid_images"),
        ({"test_images": random_images(4, size=9)}, None, "test 9x9"),
        ({}, 4, "or image_size 8"),
        ({}, 16, "or image_size 8"),
        ({"train_images": np.array([{"a": 1}], dtype=object)}, None, "plain arrays"),
        ({"train_index": np.arange(19)}, None, "one integer per training image"),
        ({"train_index": np.linspace(0, 1, 20)}, None, "one integer per training image"),
        ({"train_index": np.zeros(20, int)}, None, "distinct"),
        ({"train_index": np.arange(20) - 1}, None, "distinct"),
        ({"train_index": np.arange(20)}, None, "add valid_images"),
        ({"train_index": np.arange(20) + 980}, None, "add valid_images"),
    ],
)
def test_unfit_npz_is_told_what_is_wrong(arrays, image_size, message, tmp_path):
    arrays = {name: array for name, array in (GOOD | arrays).items() if array is not None}
    dataset = save_npz(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        data.load(dataset, image_size=image_size)
    assert "set.npz" in str(raised.value)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    witness = tmp_path / "witness"

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (witness,))

    bomb = np.array([Bomb()], dtype=object)
    np.savez(tmp_path / "bomb.npz", train_images=bomb, test_images=bomb)
    with pytest.raises(UserError, match="pickled objects"):
        data.load(f"npz:{tmp_path / 'bomb.npz'}")
    assert not witness.exists()
    with np.load(tmp_path / "bomb.npz", allow_pickle=True) as file:
        file["train_images"]
    assert witness.exists()  # the bomb was live


def test_single_array_is_told_to_use_savez(tmp_path):
    np.save(tmp_path / "one.npy", random_images(3))
    with pytest.raises(UserError, match="numpy.savez"):
        data.load(f"npz:{tmp_path / 'one.npy'}")


@pytest.fixture(scope="module", params=[np.savez, np.savez_compressed])
def npz_bytes(request):
    file = io.BytesIO()
    request.param(file, **GOOD)
    return file.getvalue()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.floats(0, 1), spoiled=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255))))
def test_damaged_npz_never_ends_in_a_traceback(npz_bytes, tmp_path, cut, spoiled):
    damaged = bytearray(npz_bytes)
    for place, change in spoiled:
        damaged[int(place * (len(damaged) - 1))] ^= change
    if not spoiled:
        damaged = damaged[: int(cut * (len(damaged) - 1))]
    path = tmp_path / "damaged.npz"
    path.write_bytes(damaged)
    try:
        splits = data.load(f"npz:{path}")
    except UserError as error:
        assert "damaged.npz" in str(error)
    else:
        # Bytes that zip and NumPy do not use, such as time stamps; a cut file is never read.
        assert spoiled
        both = torch.cat([splits.train, splits.valid])
        assert torch.equal(both, channels_first(GOOD["train_images"]))


@pytest.mark.parametrize(
    ("offset", "value"), [(8, 1), (10, 99)], ids=["encrypted", "unknown compression"]
)
def test_zip_that_python_cannot_unpack_is_refused(offset, value, tmp_path):
    np.savez(tmp_path / "set.npz", **GOOD)
    content = bytearray((tmp_path / "set.npz").read_bytes())
    entry = content.index(b"PK\x01\x02")  # the first entry of the central directory
    content[entry + offset] = value
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(UserError, match="set.npz.*copy it or make it again"):
        data.load(f"npz:{tmp_path / 'set.npz'}")


def test_array_beyond_all_memory_is_refused(tmp_path):
    header = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": (2**45, 8, 8, 3)}
    np.lib.format.write_array_header_1_0(header, layout)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as file:
        file.writestr("train_images.npy", header.getvalue())
    with pytest.raises(UserError, match="set.npz.*copy it or make it again"):
        data.load(f"npz:{tmp_path / 'set.npz'}")


@pytest.mark.skipif("RRVQ_CIFAR10_NPZ" not in os.environ, reason="RRVQ_CIFAR10_NPZ names no file")
def test_npz_of_cifar10_holds_the_official_images():
    path = os.environ["RRVQ_CIFAR10_NPZ"]
    cifar10 = data.load(f"npz:{path}")
    assert cifar10.image_size == 32
    assert cifar10.train[0, :, 0, 0].tolist() == [59, 62, 63]
    assert cifar10.test[0, :, 0, 0].tolist() == [158, 112, 49]
    means = cifar10.train.float().mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)
    with np.load(path, allow_pickle=False) as file:
        if "train_index" in file.files:
            late = file["train_index"] >= 45_000
            assert torch.equal(cifar10.valid, channels_first(file["train_images"][late]))


# ------------------------------------------------------------------------------- CIFAR-10 and SVHN


def write_cifar10(folder, images, seed=0):
    """Files of five training batches and a test batch, as the publisher documents them."""
    labels = np.random.default_rng(seed).integers(0, 10, len(images), dtype=np.uint8)
    names = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    folder.mkdir(parents=True)
    for part, name in enumerate(names):
        with open(folder / name, "wb") as file:
            for image, label in list(zip(images, labels, strict=True))[20 * part : 20 * part + 20]:
                file.write(bytes([label]))
                file.writelines(image[:, :, channel].tobytes() for channel in range(3))


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch, no_network):
    monkeypatch.setattr("rrvqlib.data.torchvision_sets.CIFAR10_BATCH_SIZE", 20)
    images = random_images(120, size=32)
    write_cifar10(tmp_path / "cifar-10-batches-bin", images)
    return images


def assert_is_small_cifar10(splits, images):
    assert torch.equal(splits.train, channels_first(images[:90]))
    assert torch.equal(splits.valid, channels_first(images[90:100]))
    assert torch.equal(splits.test, channels_first(images[100:]))


def test_cifar10_reads_back_what_was_written(small_cifar10, tmp_path):
    assert_is_small_cifar10(data.load("cifar10", tmp_path), small_cifar10)


def test_cifar10_is_extracted_from_its_archive(small_cifar10, tmp_path, monkeypatch):
    archive = tmp_path / "elsewhere" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
    with pytest.raises(UserError, match="put cifar-10-binary.tar.gz there.*photos.*npz:PATH"):
        data.load("cifar10", archive.parent)  # not the official archive, and no network
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr("rrvqlib.data.torchvision_sets.CIFAR10_MD5", md5)
    assert_is_small_cifar10(data.load("cifar10", archive.parent), small_cifar10)


def test_cifar10_without_network_names_the_remedies(tmp_path, no_network):
    with pytest.raises(UserError, match="no network.*put cifar-10-binary.tar.gz there.*photos"):
        data.load("cifar10", tmp_path / "new")


def test_truncated_cifar10_names_the_file_and_the_remedy(small_cifar10, tmp_path):
    victim = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(UserError, match="data_batch_3.bin has 61459 bytes.*remove the folder"):
        data.load("cifar10", tmp_path)


@pytest.fixture
def small_svhn(tmp_path, monkeypatch, no_network):
    from scipy.io import savemat

    train, test = random_images(40, 32), random_images(7, 32, seed=1)
    split_list = {}
    for split, images in (("train", train), ("test", test)):
        name = f"{split}_32x32.mat"
        labels = np.ones((len(images), 1), dtype=np.uint8)
        savemat(tmp_path / name, {"X": images.transpose(1, 2, 3, 0), "y": labels})
        md5 = hashlib.md5((tmp_path / name).read_bytes()).hexdigest()
        split_list[split] = [f"http://localhost/{name}", name, md5]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", split_list)
    return train, test


def test_svhn_reads_back_what_was_written(small_svhn, tmp_path):
    train, test = small_svhn
    svhn = data.load("svhn", tmp_path)
    assert torch.equal(svhn.train, channels_first(train[:36]))
    assert torch.equal(svhn.valid, channels_first(train[36:]))
    assert torch.equal(svhn.test, channels_first(test))
    assert svhn.train.is_contiguous()


@pytest.mark.parametrize("victim", ["train_32x32.mat", "test_32x32.mat"])
@pytest.mark.parametrize("checked", [True, False])
def test_damaged_svhn_names_the_remedies(victim, checked, small_svhn, tmp_path):
    path = tmp_path / victim
    path.write_bytes(path.read_bytes()[:5000])
    if not checked:  # let the damaged file reach the reader of .mat files
        torchvision.datasets.SVHN.split_list[victim.split("_")[0]][2] = None
    with pytest.raises(UserError, match="SVHN.*test_32x32.mat there.*photos.*npz:PATH"):
        data.load("svhn", tmp_path)


def test_a_missing_reader_names_the_pip_command(small_svhn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match="SVHN needs scipy.*pip install scipy"):
        data.load("svhn", tmp_path)


# ----------------------------------------------------------------------------------------- CelebA


@pytest.fixture
def small_celeba(tmp_path, monkeypatch):
    """Twelve images of 178x218, red on the square that is kept, its rows and columns marked."""
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    names = [f"{n:06}.jpg" for n in range(1, 13)]
    images = []
    for number, name in enumerate(names):
        pixels = np.full((218, 178, 3), 255, dtype=np.uint8)
        pixels[40:188, 15:163] = (200, 10 * number, 0)
        # PNG bytes under the official name: no loss, so that pixels can be compared.
        Image.fromarray(pixels).save(folder / name, format="png")
        images.append(pixels)
    partition = [0] * 6 + [1] * 2 + [2] * 4
    lists = tmp_path / "celeba"

    def write(name, header, row):
        lines = [f"{n} {row}" for n in names]
        (lists / name).write_text("\n".join(header + lines) + "\n")

    rows = [f"{n} {p}" for n, p in zip(names, partition, strict=True)]
    (lists / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")
    write("identity_CelebA.txt", [], "1")
    write("list_bbox_celeba.txt", ["12", "image_id x_1 y_1 width height"], "1 1 9 9")
    write("list_landmarks_align_celeba.txt", ["12", "x y"], "1 1")
    write("list_attr_celeba.txt", ["12", "Smiling"], "1")
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    return folder


def test_celeba_keeps_the_square_and_the_official_partition(small_celeba, tmp_path):
    celeba = data.load("celeba", tmp_path)
    assert celeba.name == "celeba" and celeba.image_size == 64
    for split, numbers in (("train", range(6)), ("valid", range(6, 8)), ("test", range(8, 12))):
        colours = torch.tensor([[200, 10 * n, 0] for n in numbers], dtype=torch.uint8)
        expected = colours[:, :, None, None].expand(-1, -1, 64, 64)
        assert torch.equal(celeba[split], expected)  # no white border: the box is right


def test_celeba_is_decoded_once(small_celeba, tmp_path):
    first = data.load("celeba", tmp_path)
    for image in small_celeba.iterdir():
        image.unlink()
    assert_same_splits(first, data.load("celeba", tmp_path))


def test_a_damaged_celeba_image_names_the_remedy_a_damaged_cache_none(small_celeba, tmp_path):
    image = small_celeba / "000007.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    with pytest.raises(UserError, match="CelebA.*put the folder celeba"):
        data.load("celeba", tmp_path)
    image.write_bytes(whole)
    data.load("celeba", tmp_path)
    first = data.load("celeba", tmp_path)
    cache = tmp_path / "decoded" / f"{CELEBA_KEY}.npy"
    whole = cache.read_bytes()
    cache.unlink()  # `first` goes on reading the old file
    cache.write_bytes(whole[:-500])
    assert_same_splits(first, data.load("celeba", tmp_path))


def test_a_full_disk_leaves_no_half_cache(small_celeba, tmp_path):
    with largest_file(1000), pytest.raises(UserError, match="cannot write.*free some disk space"):
        data.load("celeba", tmp_path)
    assert list((tmp_path / "decoded").iterdir()) == []


def test_celeba_without_network_names_the_remedies(tmp_path, monkeypatch, no_network):
    def refuse(*args):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets.celeba, "download_file_from_google_drive", refuse)
    with pytest.raises(UserError, match="no network.*put the folder celeba.*photos"):
        data.load("celeba", tmp_path)


# ----------------------------------------------------------------------------------------- folder


def write_images(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}.png")


def test_folder_is_split_alike_in_every_class(tmp_path):
    cats, dogs = random_images(20, seed=1), random_images(10, seed=2)
    write_images(tmp_path / "set" / "cat", cats)
    write_images(tmp_path / "set" / "dog", dogs)
    splits = data.load(f"folder:{tmp_path / 'set'}", image_size=8)
    expected = {"train": [], "valid": [], "test": []}
    for number, image in enumerate([*cats, *dogs]):
        place = {8: "valid", 9: "test"}.get(number % 10, "train")
        expected[place].append(image)
    for split in data.SPLITS:
        assert torch.equal(splits[split], channels_first(expected[split]))
    assert splits.name == "folder:set" and str(tmp_path) not in splits.description


@pytest.mark.parametrize("with_valid", [True, False])
def test_folder_keeps_the_split_it_comes_with(with_valid, tmp_path):
    train, valid, test = (random_images(n, seed=n) for n in (20, 3, 4))
    write_images(tmp_path / "train" / "a", train)
    write_images(tmp_path / "test" / "a", test)
    if with_valid:
        write_images(tmp_path / "valid" / "a", valid)
    else:
        train, valid = np.delete(train, [9, 19], axis=0), train[[9, 19]]
    splits = data.load(f"folder:{tmp_path}", image_size=8)
    for split, images in (("train", train), ("valid", valid), ("test", test)):
        assert torch.equal(splits[split], channels_first(images))


def test_folder_takes_the_central_square(tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (10, 8, 20, 3), dtype=np.uint8)
    write_images(tmp_path, wide)
    splits = data.load(f"folder:{tmp_path}", image_size=8)
    assert torch.equal(splits.train, channels_first(wide[:8, :, 6:14]))
    # Twice the size: every 2x2 block becomes one pixel, whose neighbours weigh in as well.
    block = np.kron(random_images(10, size=4), np.ones((1, 8, 8, 1), dtype=np.uint8))
    write_images(tmp_path / "large", block)
    splits = data.load(f"folder:{tmp_path / 'large'}", image_size=16)
    inside = splits.train[:, :, 1::4, 1::4].int() - channels_first(block[:8, ::8, ::8]).int()
    assert inside.abs().max() <= 1


def test_folder_reads_every_kind_of_colour(tmp_path):
    grey = Image.new("L", (8, 8), 77)
    for number, mode in enumerate(["L", "RGB", "RGBA", "P", "LA", "CMYK"]):
        grey.convert(mode).save(tmp_path / f"{number}.{'tif' if mode == 'CMYK' else 'png'}")
    for number, suffix in enumerate(["bmp", "gif", "ppm", "webp"], start=6):
        grey.save(tmp_path / f"{number}.{suffix}", lossless=True)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._0.png").write_text("what some systems leave beside an image")
    splits = data.load(f"folder:{tmp_path}")
    assert splits.image_size == 32 and len(splits.train) == 8
    for split in data.SPLITS:
        assert (splits[split] == 77).all()


def test_hidden_folders_and_folders_named_as_images_hold_no_images(tmp_path):
    write_images(tmp_path, random_images(10))
    expected = data.load(f"folder:{tmp_path}")
    write_images(tmp_path / ".ipynb_checkpoints", random_images(3, seed=1))
    (tmp_path / "000.5.png").mkdir()
    assert_same_splits(expected, data.load(f"folder:{tmp_path}"))


def test_no_bar_is_drawn_where_there_is_no_terminal(tmp_path, monkeypatch):
    write_images(tmp_path, random_images(10))
    monkeypatch.setenv("TQDM_DISABLE", "")  # which would hide it
    done = run_python(f"from rrvqlib import data; data.load('folder:{tmp_path}')")
    assert done.returncode == 0 and done.stderr == ""


def test_an_image_of_16_bits_is_refused(tmp_path):
    write_images(tmp_path, random_images(12))
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match="deep.png.*more than 8 bits"):
        data.load(f"folder:{tmp_path}")


def test_an_unreadable_image_is_named(tmp_path):
    write_images(tmp_path / "a", random_images(12))
    victim = tmp_path / "a" / "005.png"
    victim.write_bytes(victim.read_bytes()[:-60])
    with pytest.raises(UserError, match="005.png.*fix or remove"):
        data.load(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, "holds no image"),
        ({"cat": 9}, "at least 10"),
        ({"train/cat": 12}, "none named test"),
        ({"test/cat": 12}, "none named train"),
        ({"train/cat": 9, "test/cat": 2}, "add a folder valid"),
    ],
)
def test_unfit_folder_is_told_what_is_wrong(folders, message, tmp_path):
    for folder, count in folders.items():
        write_images(tmp_path / folder, random_images(count))
    with pytest.raises(UserError, match=message):
        data.load(f"folder:{tmp_path}")


def test_the_digest_is_of_every_pixel_and_of_the_splits(tmp_path):
    splits = data.load("swatches", image_size=8)
    assert splits.digest == data.load("swatches", image_size=8).digest
    other = splits.test.clone()
    other[-1, -1, -1, -1] ^= 1
    assert dataclasses.replace(splits, test=other).digest != splits.digest
    fewer = dataclasses.replace(splits, train=splits.train[:-1])
    assert fewer.digest != splits.digest


@pytest.mark.parametrize("name", ["valid", "val", "validation"])
def test_folder_knows_the_usual_names_of_validation(name, tmp_path):
    images = random_images(9)
    for number, split in enumerate(("train", name, "test")):
        write_images(tmp_path / split, images[3 * number : 3 * number + 3])
    splits = data.load(f"folder:{tmp_path}", image_size=8)
    assert torch.equal(splits.valid, channels_first(images[3:6]))
    write_images(tmp_path / ("val" if name != "val" else "valid"), images)
    with pytest.raises(UserError, match="keep one of them"):
        data.load(f"folder:{tmp_path}")


def test_folder_follows_links_but_in_no_circle(tmp_path):
    write_images(tmp_path / "elsewhere" / "cat", random_images(12))
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        (tmp_path / "images" / name).symlink_to(tmp_path / "elsewhere" / "cat")
    (tmp_path / "elsewhere" / "cat" / "up").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    splits = data.load(f"folder:{tmp_path / 'images'}", image_size=8)
    assert sum(len(splits[split]) for split in data.SPLITS) == 24
    assert "1 x link that leads nowhere" in splits.description


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_folder_knows_its_splits_in_capitals(split, tmp_path):
    """Else test images would be pooled with the others, and trained on."""
    images = random_images(30)
    for number, name in enumerate(("Train", "VALID", "Test")):
        write_images(tmp_path / name, images[10 * number : 10 * number + 10])
    splits = data.load(f"folder:{tmp_path}", image_size=8)
    assert torch.equal(splits.test, channels_first(images[20:]))
    assert "Train, VALID, Test" in splits.description
    if not (tmp_path / split).exists():  # a disk that tells capitals from small letters
        write_images(tmp_path / split, images)
        with pytest.raises(UserError, match="has folders .* and .*; keep one of them"):
            data.load(f"folder:{tmp_path}")


@pytest.mark.parametrize("split", ["", "train"])
def test_a_folder_that_cannot_be_read_is_refused(split, tmp_path, monkeypatch):
    """Passed over, its images would be missing and nobody would know."""
    for name in ("train", "test") if split else ("a",):
        write_images(tmp_path / name, random_images(12))
    closed = tmp_path / split / "closed"
    write_images(closed, random_images(12))
    look = os.scandir

    def forbidden(path="."):  # as a folder of mode 0 is for anybody but root
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(UserError, match="closed cannot be read .Permission denied.; allow it"):
        data.load(f"folder:{tmp_path}")


def test_folder_says_what_it_left_out_and_did_not_keep(tmp_path):
    for split in ("train", "test", "extra"):
        write_images(tmp_path / split, random_images(12))
    (tmp_path / "loose.png").touch()
    (tmp_path / "more.png").touch()
    (tmp_path / "new\x1b[2J").mkdir()
    (tmp_path / "train" / "labels.csv").touch()
    (tmp_path / "train" / ".DS_Store").touch()
    glass = Image.new("RGBA", (8, 8), (9, 9, 9, 0))
    glass.save(tmp_path / "test" / "glass.png")
    splits = data.load(f"folder:{tmp_path}", image_size=8)
    assert (splits.test[-1] == 255).all()  # white, not the colour that nobody sees
    for said in ("1 x .csv file", "1 x extra/", "1 x transparent pixels"):
        assert said in splits.description, splits.description
    assert "DS_Store" not in splits.description
    for said in ("1 x .csv file", "1 x extra/", "2 x image beside the folders", r"'new\x1b[2J'/"):
        assert said in splits.left_out, splits.left_out
    assert not data.load("swatches").left_out


@pytest.mark.parametrize("suffix", ["pgm", "avif", "jfif", "jp2"])
def test_folder_takes_every_format_that_can_be_read_exactly(suffix, tmp_path):
    for number in range(10):
        mode = "L" if suffix == "pgm" else "RGB"
        kind = {"jfif": "JPEG"}.get(suffix)
        Image.new(mode, (8, 8), 77 if mode == "L" else (77, 77, 77)).save(
            tmp_path / f"{number}.{suffix}", format=kind
        )
    splits = data.load(f"folder:{tmp_path}", image_size=8)
    assert (splits.train.int() - 77).abs().max() <= 2


def test_an_npz_member_that_is_no_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("train_images", b"not an array")
    with pytest.raises(UserError, match="cannot read|no array"):
        data.load(f"npz:{tmp_path / 'x.npz'}")
