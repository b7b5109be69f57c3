"""The file format refuses what it did not write; the command line loses nothing."""

import random
import struct
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_codec import make_model

from rrvqlib import cli, compress
from rrvqlib.coding import codec
from rrvqlib.coding.container import MAX_SIDE, Container, digest, fingerprint, pack, unpack
from rrvqlib.coding.tiles import Entry, cut, join
from rrvqlib.data.reader import depth_in_header
from rrvqlib.errors import UserError
from rrvqlib.models import save_model
from rrvqlib.runs.pictures import write_png

WORDS = np.arange(40, dtype=np.uint32) * 99_999_989
ENTRIES = (Entry("a.png", 30, 20), Entry("ü.jpg", 7, 9))
FILE = Container("lossy", 3, 8, b"12345678", b"abcdefgh", b"ABCDEFGH", ENTRIES, WORDS)
DATA = pack(FILE)


def test_a_file_is_unpacked_as_it_was_packed():
    again = unpack(DATA, "file")
    assert np.array_equal(again.words, WORDS)
    fields = ("mode", "layers", "tile", "model", "pixels", "first", "entries")
    assert all(getattr(again, f) == getattr(FILE, f) for f in fields)
    assert again.tiles == 4 * 3 + 1 * 2


@pytest.mark.parametrize(
    ("version", "remedy"), [(1, "write it anew"), (2, "write it anew"), (4, "update rrvqlib")]
)
def test_files_of_another_format_are_refused_by_its_number(version, remedy):
    data = DATA[:4] + bytes([version]) + DATA[5:-8]
    with pytest.raises(UserError, match=f"format {version}, this is format 3; {remedy}"):
        unpack(data + digest(data), "file")


damage = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, len(DATA) - 1)),
    st.tuples(st.just("flip"), st.integers(0, 8 * len(DATA) - 1)),
    st.tuples(st.just("byte"), st.integers(0, len(DATA) - 1), st.integers(1, 255)),
    st.tuples(st.just("append"), st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("foreign"), st.binary(max_size=200)),
)


@given(damage)
@settings(max_examples=10_000, deadline=None)
def test_no_damaged_file_is_taken(how):
    data = bytearray(DATA)
    match how:
        case "cut", length:
            data = data[:length]
        case "flip", bit:
            data[bit // 8] ^= 1 << bit % 8
        case "byte", at, change:
            data[at] ^= change
        case "append", more:
            data += more
        case "foreign", other:
            data = other
    with pytest.raises(UserError, match="damaged or incomplete|was not written by"):
        unpack(bytes(data), "file")


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=500, deadline=None)
def test_a_file_that_lies_about_itself_ends_in_an_error_or_in_what_it_says(seed):
    """Its checksum is right: somebody made it on purpose."""
    draw, data = random.Random(seed), bytearray(DATA[:-8])
    for _ in range(draw.randint(1, 4)):
        data[draw.randrange(4, len(data))] = draw.randrange(256)
    try:
        found = unpack(bytes(data) + digest(bytes(data)), "file")
    except UserError:
        return
    assert all("/" not in e.name and e.name not in ("", "..") for e in found.entries)


def test_names_lead_into_no_other_folder():
    hostile = replace(FILE, entries=(Entry("../../x.png", 8, 8),))
    assert unpack(pack(hostile), "file").entries[0].name == "x.png"


@pytest.mark.parametrize(("width", "height"), [(8, 8), (20, 9), (3, 17)])
def test_tiles_join_to_the_image(width, height):
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    tiles = cut(image, 8)
    assert len(tiles) == -(-width // 8) * -(-height // 8)
    entries = (Entry("a", width, height), Entry("b", width, height))
    first, second = join([*tiles, *tiles], entries)
    assert torch.equal(first, image) and torch.equal(second, image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, another model, and two pictures."""
    folder = tmp_path_factory.mktemp("compress")
    for name in ("model", "other"):
        (folder / name).mkdir()
    save_model(make_model(), folder / "model")
    save_model(make_model(embedding_dim=4), folder / "other")
    rng = np.random.default_rng(0)
    for name, size in (("one.png", (16, 8)), ("two.bmp", (9, 11))):
        coarse = rng.integers(0, 256, (-(-size[1] // 4), -(-size[0] // 4), 3), dtype=np.uint8)
        pixels = coarse.repeat(4, 0).repeat(4, 1)[: size[1], : size[0]]
        Image.fromarray(pixels).save(folder / name)
    return folder


def run(*arguments):
    """Exit code of the command line."""
    try:
        cli.run(compress.main, [str(a) for a in arguments])
    except SystemExit as end:
        return end.code or 0
    return 0


def test_pictures_make_the_round_trip(folder, tmp_path, capsys):
    pictures = [folder / "one.png", folder / "two.bmp"]
    assert run("encode", folder / "model", *pictures, "--out", tmp_path / "file") == 0
    assert "2 images" in capsys.readouterr().out
    assert run("decode", folder / "model", tmp_path / "file", "--out", tmp_path / "out") == 0
    for name, path in (("one.png", pictures[0]), ("two.png", pictures[1])):
        assert np.array_equal(Image.open(tmp_path / "out" / name), Image.open(path))
    # Nothing is overwritten.
    assert run("decode", folder / "model", tmp_path / "file", "--out", tmp_path / "out") == 2
    assert "exists; choose another --out" in capsys.readouterr().err


def test_pictures_of_like_names_are_all_kept(folder, tmp_path):
    paths = [tmp_path / name for name in ("a.png", "a.bmp", "a-1.png", "A-1.bmp")]
    for level, path in enumerate(paths):
        Image.new("RGB", (8, 8), (level, 0, 0)).save(path)
    assert run("encode", folder / "model", *paths, "--out", tmp_path / "file") == 0
    assert run("decode", folder / "model", tmp_path / "file", "--out", tmp_path / "out") == 0
    found = sorted((tmp_path / "out").iterdir(), key=lambda p: Image.open(p).getpixel((0, 0)))
    assert len({path.name.casefold() for path in found}) == 4
    assert [Image.open(path).getpixel((0, 0))[0] for path in found] == [0, 1, 2, 3]


def test_what_exists_is_replaced_with_force_alone(folder, tmp_path, capsys):
    picture = tmp_path / "mine.png"
    picture.write_bytes((folder / "one.png").read_bytes())
    for images, out in (
        ([picture], picture),
        ([folder / "two.bmp"], picture),
        ([picture], folder / "model" / "model.safetensors"),
    ):
        before = out.read_bytes()
        assert run("encode", folder / "model", *images, "--lossy", "--out", out) == 2
        assert "--force" in capsys.readouterr().err and out.read_bytes() == before
    file, out = tmp_path / "file", tmp_path / "out"
    for force in ((), ("--force",)):
        assert run("encode", folder / "model", picture, "--out", file, *force) == 0
        assert run("decode", folder / "model", file, "--out", out, *force) == 0
        assert run("encode", folder / "model", picture, "--out", file) == 2
        assert run("decode", folder / "model", file, "--out", out) == 2


def test_force_replaces_nothing_that_is_read(folder, tmp_path, capsys):
    model = tmp_path / "model"
    save_model(make_model(), model.mkdir() or model)
    picture, link = tmp_path / "file.png", tmp_path / "link"
    picture.write_bytes((folder / "one.png").read_bytes())
    link.symlink_to(picture)
    weights = model / "model.safetensors"
    index = model / "model.safetensors.index.json"  # not there, but would be read
    for out in (picture, link, weights, index, model / "config.json"):
        assert run("encode", model, picture, "--out", out, "--force") == 2
        assert "which this command reads" in capsys.readouterr().err
    file = tmp_path / "out" / "file.png"
    assert run("encode", model, picture, "--out", file, file.parent.mkdir() or "--force") == 0
    coded = file.read_bytes()
    assert run("decode", model, file, "--out", file.parent, "--force") == 2
    assert "which this command reads" in capsys.readouterr().err and file.read_bytes() == coded
    assert run("encode", model, picture, "--out", model / "file", "--force") == 0


def png_of_16_bits(path):
    """Colour, as other programs write it; Pillow cannot."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    rows = zlib.compress(8 * (b"\0" + 24 * b"\x9c\x41"))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def sgi_of_16_bits(path):
    head = struct.pack(">HBBHHHH", 474, 0, 2, 3, 8, 8, 3) + bytes(500)
    path.write_bytes(head + bytes(range(256)) + bytes(128))


def test_the_depth_of_an_avif_file_is_read_from_its_header(tmp_path):
    """Pillow writes 8 bits alone; the flags of the av1C box say more, once they are set."""
    Image.new("RGB", (8, 8)).save(tmp_path / "x.avif")
    data = bytearray((tmp_path / "x.avif").read_bytes())
    at = data.index(b"av1C") + 6
    for flags, depth in ((0, 8), (0x40, 10), (0x60, 12)):
        data[at] = data[at] & 0x9F | flags
        assert depth_in_header(bytes(data), "AVIF") == depth
    assert depth_in_header(b"nothing of the kind", "AVIF") == 16


def jpeg2000_of_16_bits(path):
    """As its SIZ marker says for three channels."""
    Image.new("RGB", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\x4f\xff\x51") + 42
    data[at : at + 9 : 3] = b"\x0f\x0f\x0f"
    path.write_bytes(data)


@pytest.fixture(scope="module")
def unfit(tmp_path_factory):
    """Pictures that hold more than 8-bit RGB."""
    where = tmp_path_factory.mktemp("unfit")
    grey = np.full((8, 8), 40_000, dtype=np.uint16)
    Image.fromarray(grey).save(where / "deep.png")
    Image.fromarray(np.float32(grey / 65535)).save(where / "float.tif")
    Image.fromarray(grey).save(where / "grey.jp2")
    png_of_16_bits(where / "colour.png")
    (where / "deep.ppm").write_bytes(b"P6 8 8 65535\n" + bytes(range(192)) * 2)
    (where / "ten.ppm").write_bytes(b"P6 8 8 1023\n" + bytes(384))
    (where / "plain.ppm").write_bytes(b"P3 2 1 65535\n1 2 3 65535 300 4\n")
    (where / "deep.pgm").write_bytes(b"P5 8 8 65535\n" + bytes(range(128)))
    sgi_of_16_bits(where / "deep.sgi")
    jpeg2000_of_16_bits(where / "deep.jp2")
    Image.new("RGBA", (8, 8), (1, 2, 3, 254)).save(where / "glass.png")
    Image.new("L", (8, 8)).save(where / "hole.png", transparency=0)
    Image.new("CMYK", (8, 8)).save(where / "ink.tif")
    frames = [Image.new("L", (8, 8), level) for level in (0, 99)]
    frames[0].save(where / "film.gif", save_all=True, append_images=frames[1:])
    return where


DEEP = "deep.png float.tif grey.jp2 colour.png deep.ppm ten.ppm plain.ppm deep.pgm deep.jp2".split()
REASONS = dict.fromkeys(DEEP, "8 bits") | {
    "glass.png": "transparent",
    "hole.png": "transparent",
    "ink.tif": "CMYK",
    "film.gif": "more than one frame",
    "deep.sgi": "cannot be read",
}


@pytest.mark.parametrize(("name", "reason"), REASONS.items(), ids=REASONS)
def test_a_picture_that_would_not_be_kept_is_refused(name, reason, unfit, folder, tmp_path, capsys):
    assert len(list(unfit.iterdir())) == len(REASONS) == 14
    out = tmp_path / "file"
    assert run("encode", folder / "model", unfit / name, "--out", out) == 2
    errors = capsys.readouterr().err
    assert name in errors and reason in errors
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("opaque.png", "RGBA", ""),
        ("grey.png", "L", "being grey"),
        ("palette.gif", "P", "palette"),
        ("bits.png", "1", "being grey"),
        ("plain.ppm", "RGB", ""),
        ("good.webp", "RGB", ""),
        ("good.tif", "RGB", ""),
        ("good.jp2", "RGB", ""),
    ],
)
def test_opaque_pictures_of_8_bits_are_kept(name, mode, said, folder, tmp_path, capsys):
    picture = Image.open(folder / "one.png").convert(mode)
    picture.save(tmp_path / name, **({"lossless": True} if name == "good.webp" else {}))
    expected = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(compress.read_exactly(tmp_path / name), expected)
    errors = capsys.readouterr().err
    assert said in errors and bool(said) == bool(errors)
    assert said == "palette" or "palette" not in errors


def test_a_picture_that_lies_on_its_side_is_kept_upright(folder, tmp_path):
    colours, exif = Image.open(folder / "one.png"), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    colours.save(tmp_path / "lying.png", exif=exif)
    standing = torch.from_numpy(np.array(colours.rotate(-90, expand=True))).permute(2, 0, 1)
    assert torch.equal(compress.read_exactly(tmp_path / "lying.png"), standing)


def test_a_colour_profile_is_said_to_be_left_out(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "p3.png", icc_profile=b"profile of some camera")
    compress.read_exactly(tmp_path / "p3.png")
    assert "its colour profile is not" in capsys.readouterr().err


def test_pictures_are_measured_before_they_are_decoded(folder, tmp_path, capsys):
    huge = tmp_path / "huge.png"
    Image.new("1", (13_000, 13_000)).save(huge)  # 20 kB, 169 million pixels
    start = time.process_time()
    assert run("encode", folder / "model", huge, "--out", tmp_path / "file") == 2
    assert "cut it in pieces" in capsys.readouterr().err
    assert time.process_time() - start < 5


def test_pictures_and_names_of_every_kind_are_kept_or_refused(
    folder, tmp_path, capsys, monkeypatch
):
    # Names: not UTF-8, and longer than a file of ours holds.
    for name in ("bad\udcff.png", "€" * 100 + ".png"):
        kept = unpack(pack(replace(FILE, entries=(Entry(name, 30, 20),))), "file").entries[0].name
        assert kept and len(kept.encode()) <= 255
    assert "€" * 66 + ".png" == kept
    long = tmp_path / "long.png"
    Image.new("L", (MAX_SIDE + 1, 1)).save(long)
    assert run("encode", folder / "model", long, "--out", tmp_path / "file") == 2
    assert "cut it" in capsys.readouterr().err

    def broken(*_):
        raise SyntaxError("Failed to decode frame 0")

    monkeypatch.setattr(Image.Image, "convert", broken)
    assert run("encode", folder / "model", folder / "one.png", "--out", tmp_path / "file") == 2
    assert "cannot be read as a picture" in capsys.readouterr().err


def test_a_disk_that_fills_up_leaves_no_picture(folder, tmp_path, capsys, monkeypatch):
    pictures = [folder / "one.png", folder / "two.bmp"]
    assert run("encode", folder / "model", *pictures, "--out", tmp_path / "file") == 0
    foreign = tmp_path / "out" / ".unfinished-mywork"
    foreign.mkdir(parents=True)
    write, decode = write_png, ("decode", folder / "model", tmp_path / "file")

    def full(path, picture):
        if path.name == "two.png":
            raise UserError("the disk is full")
        write(path, picture)

    with monkeypatch.context() as m:
        m.setattr("rrvqlib.runs.pictures.write_png", full)
        assert run(*decode, "--out", tmp_path / "out") == 2
    assert list((tmp_path / "out").iterdir()) == [foreign]
    assert run(*decode, "--out", tmp_path / "out") == 0  # once there is room


def test_lossy_files_shrink_with_the_layers(folder, tmp_path, capsys):
    sizes = []
    for layers in (1, 2):
        out = tmp_path / f"file{layers}"
        arguments = ("--lossy", "--layers", layers, "--out", out)
        assert run("encode", folder / "model", folder / "one.png", *arguments) == 0
        assert run("decode", folder / "model", out, "--out", tmp_path / str(layers)) == 0
        sizes.append(out.stat().st_size)
    assert sizes[0] < sizes[1] and "dB PSNR with 2 of 2 layers" in capsys.readouterr().out


@pytest.fixture(scope="module")
def files(folder):
    """Beside the models and pictures a coded file, and the first part of it."""
    assert run("encode", folder / "model", folder / "one.png", "--out", folder / "file") == 0
    (folder / "cut").write_bytes((folder / "file").read_bytes()[:-9])
    return folder


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("decode other file", "written with another model"),
        ("decode model cut", "damaged or incomplete"),
        ("decode model one.png", "was not written by"),
        ("decode model none", "cannot read"),
        ("encode model none.png", "does not exist"),
        ("encode model file", "cannot be read as a picture"),
        ("encode model one.png --lossy --layers 3", "this model has 1 to 2"),
        ("encode model one.png --layers 1", "add --lossy"),
        ("encode model one.png --out {here}", "exists"),
        ("encode model one.png --out {here} --force", "cannot write"),
    ],
)
def test_what_cannot_be_done_is_said(command, says, files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(files)
    verb, *words = command.split()
    words = [word.format(here=tmp_path) for word in words]
    assert run(verb, "--out", tmp_path / "out", *words) == 2
    errors = capsys.readouterr().err
    assert says in errors and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_other_arithmetic_is_noticed_and_no_picture_is_written(
    folder, tmp_path, capsys, monkeypatch
):
    arguments = ("--lossy", "--out", tmp_path / "file")
    assert run("encode", folder / "model", folder / "one.png", *arguments) == 0
    monkeypatch.setattr(codec, "reals_to_pixels", lambda mean: (mean * 0).to(torch.uint8))
    assert run("decode", folder / "model", tmp_path / "file", "--out", tmp_path / "out") == 2
    assert "comes out otherwise" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_the_fingerprint_is_of_weights_and_settings():
    model = make_model()
    before = fingerprint(model)
    assert fingerprint(make_model()) == before
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert fingerprint(model) != before


@pytest.mark.parametrize("flags", [(), ("--lossy",)])
def test_a_model_of_no_use_is_told_in_a_line(flags, folder, tmp_path, capsys):
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    save_model(model, tmp_path)
    assert run("encode", tmp_path, folder / "one.png", "--out", tmp_path / "file", *flags) == 2
    errors = capsys.readouterr().err
    assert "not a number" in errors and "Traceback" not in errors
    assert not (tmp_path / "file").exists()
