"""Data sets larger than memory: decoded once into a file that is mapped."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import largest_file
from PIL import Image

from rrvqlib import data
from rrvqlib.data import folder, gathered, npz, npz_file
from rrvqlib.data.splits import SPLITS, digest_of
from rrvqlib.errors import UserError
from rrvqlib.runs.folder import images_of
from rrvqlib.settings.run import RunSettings


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


TRAIN, VALID, TEST = (random_images(count, 8, 8, 3) for count in (40, 7, 9))
FILES = {
    "plain": {"train_images": TRAIN, "test_images": TEST},
    "with validation images": {"train_images": TRAIN, "test_images": TEST, "valid_images": VALID},
    "channels first": {"train_images": TRAIN.transpose(0, 3, 1, 2).copy(), "test_images": TEST},
    "Fortran's order": {"train_images": np.asfortranarray(TRAIN), "test_images": TEST},
    "grey": {"train_images": TRAIN[..., 0], "test_images": TEST[..., 0]},
    "with positions": {
        "train_images": TRAIN,
        "test_images": TEST,
        "train_index": np.random.default_rng(1).permutation(1000)[:40],
    },
}


@pytest.fixture
def all_mapped(monkeypatch):
    """However small a data set is, it is not held in memory."""
    monkeypatch.setattr(gathered, "IN_MEMORY", 0)
    monkeypatch.setattr(
        npz_file, "PIECE", 8 * 8 * 3 * 6
    )  # six images; 40, 7 and 9 are no multiples


@pytest.fixture
def pictures(tmp_path):
    """A folder of twenty pictures, one of them with transparent pixels."""
    place = tmp_path / "pictures"
    place.mkdir()
    for number in range(20):
        pixels = random_images(12, 10, 4, seed=number)
        if number:
            pixels = pixels[..., :3]
        Image.fromarray(pixels).save(place / f"{number:02}.png")
    return place


def assert_same(first, second):
    for split in SPLITS:
        assert torch.equal(first[split], second[split])
    assert (first.name, first.description) == (second.name, second.description)
    assert first.digest == second.digest


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("arrays", FILES.values(), ids=FILES)
def test_mapped_and_in_memory_are_the_same_images(arrays, save, tmp_path, monkeypatch):
    path = tmp_path / "set.npz"
    save(path, **arrays)
    plain = data.load(f"npz:{path}", tmp_path / "data")
    assert not (tmp_path / "data").exists() and not plain.known_digest
    monkeypatch.setattr(gathered, "IN_MEMORY", 0)
    monkeypatch.setattr(npz_file, "PIECE", 8 * 8 * 3 * 6)
    mapped = data.load(f"npz:{path}", tmp_path / "data")
    assert mapped.known_digest == digest_of({split: plain[split] for split in SPLITS})
    assert_same(mapped, plain)


def test_an_npz_file_is_decoded_once(all_mapped, tmp_path, monkeypatch):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, **FILES["plain"])
    first = data.load(f"npz:{path}", tmp_path / "data")
    before = sorted((tmp_path / "data" / "decoded").iterdir())
    assert [file.suffix for file in before] == [".json", ".npy"]
    monkeypatch.setattr(npz, "_put_array", lambda *arguments: pytest.fail("decoded again"))
    moved = path.rename(tmp_path / "elsewhere.npz")  # the same images are found, wherever they lie
    assert_same(
        dataclasses.replace(first, name="", description=""),
        dataclasses.replace(data.load(f"npz:{moved}", tmp_path / "data"), name="", description=""),
    )


def test_other_pixels_are_other_images(all_mapped, tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, train_images=TRAIN, test_images=TEST)
    data.load(f"npz:{path}", tmp_path / "data")
    changed = TRAIN.copy()
    changed[3, 2, 1, 0] ^= 1
    np.savez(path, train_images=changed, test_images=TEST)
    again = data.load(f"npz:{path}", tmp_path / "data")
    assert again.train[3, 0, 2, 1] == changed[3, 2, 1, 0] != TRAIN[3, 2, 1, 0]


def test_a_folder_is_decoded_once_and_tells_the_same(pictures, tmp_path, monkeypatch):
    plain = data.load(f"folder:{pictures}", tmp_path / "data", image_size=8)
    assert "transparent pixels" in plain.description
    monkeypatch.setattr(gathered, "IN_MEMORY", 0)
    assert_same(data.load(f"folder:{pictures}", tmp_path / "data", image_size=8), plain)
    read, reads = folder.read_picture, []
    monkeypatch.setattr(folder, "read_picture", lambda path: reads.append(path) or read(path))
    assert_same(data.load(f"folder:{pictures}", tmp_path / "data", image_size=8), plain)
    assert not reads
    data.load(f"folder:{pictures}", tmp_path / "data", image_size=4)  # another size is another set
    assert len(reads) == 20
    Image.fromarray(random_images(12, 10, 3, seed=99)).save(pictures / "07.png")
    assert data.load(f"folder:{pictures}", tmp_path / "data", image_size=8).digest != plain.digest
    assert len(reads) == 40


@pytest.mark.parametrize("victim", [".json", ".npy"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "other"])
def test_damaged_files_are_made_again(victim, damage, all_mapped, tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, **FILES["plain"])
    first = data.load(f"npz:{path}", tmp_path / "data")
    (file,) = (tmp_path / "data" / "decoded").glob(f"*{victim}")
    whole = file.read_bytes()
    file.unlink()  # `first` goes on reading the old file
    if damage != "gone":
        file.write_bytes({"cut": whole[:-20], "empty": b"", "other": b"[1]"}[damage])
    assert_same(data.load(f"npz:{path}", tmp_path / "data"), first)
    assert file.read_bytes() == whole


def test_a_full_disk_is_told_and_leaves_nothing(all_mapped, tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, **FILES["plain"])
    with largest_file(5000), pytest.raises(UserError, match="cannot write.*free some disk space"):
        data.load(f"npz:{path}", tmp_path / "data")
    assert list((tmp_path / "data" / "decoded").iterdir()) == []


def test_no_room_in_memory_is_told(tmp_path, monkeypatch):
    def too_much(shape, dtype):
        raise MemoryError

    monkeypatch.setattr(gathered.np, "empty", too_much)
    with pytest.raises(UserError, match="memory"):
        gathered.gather(None, "k", dict.fromkeys(SPLITS, 1), (3, 2, 2), lambda rows: {})


def test_writing_to_an_image_leaves_the_file_as_it_is(all_mapped, tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, **FILES["plain"])
    images = data.load(f"npz:{path}", tmp_path / "data").train
    images.fill_(7)
    assert torch.equal(
        data.load(f"npz:{path}", tmp_path / "data").train[0],
        torch.from_numpy(TRAIN[0]).permute(2, 0, 1),
    )


def test_rows_refuse_what_does_not_fit():
    rows = gathered.Rows((4, 3, 2, 2))
    for at, shape in ((3, (2, 3, 2, 2)), (-1, (1, 3, 2, 2)), (0, (1, 1, 2, 2))):
        with pytest.raises(ValueError, match="of \\(4, 3, 2, 2\\)"):
            rows.put(at, np.zeros(shape, np.uint8))


def test_neighbours_are_joined_without_a_copy():
    whole = torch.arange(60, dtype=torch.uint8).view(10, 1, 2, 3)
    first, second, third = whole.split([5, 3, 2])
    both = gathered.joined(first, second)
    assert torch.equal(both, whole[:8]) and both.data_ptr() == whole.data_ptr()
    assert torch.equal(gathered.joined(second, third), whole[5:])
    for a, b in ((first, third), (second, first), (first, second.clone()), (first[::2], second)):
        assert torch.equal(gathered.joined(a, b), torch.cat([a, b]))


def test_selecting_on_test_copies_no_images(all_mapped, tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, **FILES["plain"])
    run = RunSettings()
    run = dataclasses.replace(
        run,
        data=dataclasses.replace(
            run.data, dataset=f"npz:{path}", data_dir=str(tmp_path / "data"), select_on="test"
        ),
        model=dataclasses.replace(run.model, image_size=8, pyramid=(4, 2)),
    )
    splits, usual = images_of(run), data.load(f"npz:{path}", tmp_path / "data")
    assert torch.equal(splits.train, torch.cat([usual.train, usual.valid]))
    assert splits.digest != usual.digest  # of other splits
    assert len(splits.train) == 40 and splits.train.storage_offset() == 0
    assert splits.train.untyped_storage().nbytes() > splits.train.numel()  # still the mapping


MEASURE = """
import sys
from pathlib import Path
import torch
from rrvqlib import data
from rrvqlib.data import gathered
def own():  # MB of memory that belong to the process alone
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) / 1024
gathered.IN_MEMORY = int(sys.argv[3])
torch.zeros(10)[torch.zeros(3, dtype=torch.long)]
before = own()
splits = data.load("npz:" + sys.argv[1], sys.argv[2])
for _ in range(200):
    splits.train[torch.randint(len(splits.train), (32,))].float()
print(own() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_mapped_images_take_no_memory(tmp_path):
    path = tmp_path / "set.npz"
    large = np.zeros((8000, 64, 64, 3), np.uint8)  # 94 MB
    np.savez(path, train_images=large, test_images=large[:2])

    def megabytes(in_memory):
        command = [sys.executable, "-c", MEASURE, path, tmp_path / "data", str(in_memory)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert megabytes(2**30) > 90
    assert megabytes(0) < 70  # while decoding, two pieces of 16 MB and what reading them takes
    assert megabytes(0) < 20  # decoded before
