"""Files of strangers, their checksums right: refused in a line, or decoded to what was encoded."""

import os
import random
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_codec import make_model
from test_compress import run

from rrvqlib.coding.codec import Codec
from rrvqlib.coding.container import (
    ENTRY,
    HEAD,
    MAX_BYTES,
    VERSION,
    Container,
    check_model,
    clean_name,
    digest,
    fingerprint,
    output_names,
    pack,
    pixel_digest,
    unpack,
)
from rrvqlib.coding.tiles import Entry, cut, join
from rrvqlib.compress import decode_images
from rrvqlib.data.pixels import MAX_PIXELS
from rrvqlib.errors import UserError
from rrvqlib.models import save_model
from rrvqlib.words import printable

pytest.importorskip("constriction", reason="needs pip's constriction")

CASES = int(os.environ.get("RRVQ_FUZZ", "3000"))


def make_picture(width, height, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, -(-height // 4), -(-width // 4)), dtype=np.uint8)
    return torch.from_numpy(coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width].copy())


def marks_of(model, entries, tiles):
    """What `encode` notes of the model and the pixels."""
    return fingerprint(model), pixel_digest(entries, tiles), pixel_digest((), tiles[-1:])


@dataclass
class Written:
    """A file as `encode` writes it, and the images that come out."""

    container: Container
    images: list[torch.Tensor]


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def codec(model):
    return Codec(model)


@pytest.fixture(scope="module")
def written(model, codec):
    """Honest files: lossless, lossy, and of one layer."""
    images = [make_picture(16, 8, 0), make_picture(7, 9, 1)]
    entries = (Entry("a.png", 16, 8), Entry("ü.jpg", 7, 9))
    tiles = [tile for image in images for tile in cut(image, 8)]
    files = []
    for layers in (None, 2, 1):
        if layers is None:
            coded, seen = codec.encode(tiles), tiles
        else:
            coded, seen = codec.encode_codes(tiles, layers)
        out = list(join(seen, entries))
        marks = marks_of(model, entries, seen)
        mode = "lossy" if layers else "lossless"
        files.append(Written(Container(mode, layers or 2, 8, *marks, entries, coded.words), out))
    return files


NUMBERS = [0, 1, 2, 3, 7, 8, 9, 16, 255, 8192, 65535, 1 << 20, 1 << 26, (1 << 32) - 1]
NAMES = [
    b"\x1b[2J\x1b]0;pwned\x07",
    b"..",
    b"/etc/passwd",
    b"C:\\x.png",
    b"a" * 300,
    b"",
    b"\0",
    b"a\nerror: b",
    b"CON.png",
    b"aux",
    b"-rf",
    b".bashrc",
    "\u202egnp.exe".encode(),
    "é.png".encode(),
    b"a.png",
    b"A.png",
    b"\xff\xfe",
    b" . ",
]


def lies(seed):
    """One to three changes of a file, each (what, value...)."""
    draw = random.Random(seed)

    def number():
        return draw.choice([*NUMBERS, draw.getrandbits(32), draw.randrange(100)])

    def name():
        return draw.choice([*NAMES, draw.randbytes(draw.randrange(40))])

    def words():
        count = draw.randrange(40)
        return draw.choice(
            [
                np.frombuffer(draw.randbytes(4 * count), np.uint32).copy(),
                np.zeros(0, np.uint32),
                np.full(10 * count, 0xFFFFFFFF, np.uint32),
            ]
        )

    kinds = {
        "mode": lambda: (draw.choice([0, 1, 2, 255]),),
        "layers": lambda: (number() % 65536,),
        "tile": lambda: (number() % 65536,),
        "mark": lambda: (draw.randrange(3), draw.randbytes(8)),
        "images": lambda: (number(),),
        "count": lambda: (number(),),
        "side": lambda: (draw.randrange(2), draw.choice(["width", "height"]), number()),
        "name": lambda: (draw.randrange(2), name()),
        "words": lambda: (words(),),
        "word": lambda: (draw.randrange(10**4), draw.getrandbits(32)),
        "cut": lambda: (draw.randrange(10**4),),
        "swap": lambda: (),
        "more": lambda: (draw.choice([1, 2, 40]), number(), name()),
        "byte": lambda: (draw.randrange(4, 10**4), draw.randrange(256)),
        "end": lambda: (draw.randrange(1, 200),),
    }
    chosen = draw.choices(list(kinds), k=draw.randint(1, 3))
    return draw.randrange(3), [(kind, *kinds[kind]()) for kind in chosen]


def forge(file, changes):
    """The bytes of a file after some changes, with the checksum that fits."""
    c = file.container
    mode = ("lossless", "lossy").index(c.mode)
    entries = [[e.width, e.height, e.name.encode()] for e in c.entries]
    layers, tile, words = c.layers, c.tile, c.words.copy()
    marks, images, count = [c.model, c.pixels, c.first], None, None
    for change in changes:
        match change:
            case "mode", mode:
                pass
            case "layers", layers:
                pass
            case "tile", tile:
                pass
            case "mark", which, value:
                marks[which] = value
            case "images", images:
                pass
            case "count", count:
                pass
            case "side", which, axis, value:
                entries[which][axis == "height"] = value
            case "name", which, value:
                entries[which][2] = value
            case "words", words:
                words = words.copy()
            case "word", at, value:
                if len(words):
                    words[at % len(words)] = value
            case "cut", at:
                words = words[: at % (len(words) + 1)]
            case ("swap",):
                entries[:2] = entries[1::-1]
            case "more", times, side, name:
                entries += [[side, 8, name] for _ in range(times)]
    images = len(entries) if images is None else images
    count = len(words) if count is None else count
    head = HEAD.pack(b"RRVQ", VERSION, mode, layers, tile, *marks, images, count)
    body = b"".join(ENTRY.pack(w, h, len(name)) + name for w, h, name in entries)
    data = bytearray(head + body + words.astype("<u4").tobytes())
    for change in changes:
        match change:
            case "byte", at, value:
                data[4 + (at - 4) % (len(data) - 4)] = value
            case "end", length:
                del data[max(5, len(data) - length) :]
    return bytes(data) + digest(bytes(data))


def decode(data, codec):
    container = unpack(data, "file")
    check_model(container, codec.model, "file")
    output_names(container.entries)
    return container, list(decode_images(container, codec, "file"))


@given(st.integers(0, 2**48))
@settings(
    max_examples=CASES,
    deadline=10_000,  # ms that any file may take
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_forged_file_is_refused_or_gives_what_was_encoded(written, codec, seed):
    which, changes = lies(seed)
    data = forge(written[which], changes)
    before = peak_memory()
    try:
        container, images = decode(data, codec)
    except UserError as error:
        assert "\n" not in printable(str(error))
        return
    finally:
        assert peak_memory() - before < 300e6  # bytes
    assert len(images) == len(written[which].images)
    assert all(map(torch.equal, images, written[which].images))


def peak_memory():
    """Bytes that this process has held at most; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_honest_files_decode(written, codec):
    for file in written:
        _, images = decode(pack(file.container), codec)
        assert all(map(torch.equal, images, file.images))


@pytest.mark.parametrize("side", [1 << 20, 2896])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_few_bytes_that_declare_a_huge_picture_are_refused_at_once(written, codec, which, side):
    entries = (Entry("a.png", side, side),)
    for words in (written[which].container.words, np.zeros(0, np.uint32)):
        lie = replace(written[which].container, entries=entries, words=words)
        with pytest.raises(UserError, match="contradicts itself|comes out otherwise|do not decode"):
            decode(pack(lie), codec)


def test_a_picture_of_free_codes_is_decoded_once_and_repeated(model, codec):
    """No words at all: code 0 everywhere, as often as the file says; its digests are right."""
    tile = codec.decode_codes(np.zeros(0, np.uint32), 1, 2)[0]
    entries = (Entry("a.png", 4096, 2048),)
    tiles = [tile] * (512 * 256)
    marks = marks_of(model, entries, tiles)
    file = Container("lossy", 2, 8, *marks, entries, np.zeros(0, np.uint32))
    _, again = decode(pack(file), codec)
    assert torch.equal(again[0], next(join(tiles, entries)))


def test_the_same_bytes_under_another_shape_are_another_picture(model, codec):
    """A constant picture has the same bytes whatever its sides: the digest is of these too."""
    images = [torch.full((3, 8, 16), 99, dtype=torch.uint8)]
    tiles = list(cut(images[0], 8))
    coded, entries = codec.encode(tiles), (Entry("a.png", 16, 8),)
    marks = marks_of(model, entries, tiles)
    file = Container("lossless", 2, 8, *marks, entries, coded.words)
    assert torch.equal(decode(pack(file), codec)[1][0], images[0])
    with pytest.raises(UserError, match="comes out otherwise"):
        decode(pack(replace(file, entries=(Entry("a.png", 8, 16),))), codec)


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda b: b.decode("latin-1")))
@settings(max_examples=2000, deadline=None)
def test_clean_names_fit_every_disk_and_terminal(name):
    clean = clean_name(name)
    assert clean and clean == clean_name(clean)
    assert len(clean.encode()) <= 230 and clean.isprintable()
    assert not set(clean) & set('/\\<>:"|?*') and clean[0] not in ". " and clean[-1] not in ". "
    assert clean.split(".")[0].lower() not in ("con", "nul", "com1")


def test_names_that_some_system_takes_for_one_are_told_apart():
    names = ["a.png", "A.jpg", "é.png", "é.png", "x.png", "x.png", "x-5.png"]
    out = output_names([Entry(name, 1, 1) for name in names])
    import unicodedata

    keys = {unicodedata.normalize("NFC", name).casefold() for name in out}
    assert len(keys) == len(names) and all(name.endswith(".png") for name in out)
    assert out[0] == "a.png"


def test_many_names_are_numbered_in_no_time():
    assert len(set(output_names([Entry("x", 1, 1)] * 65536))) == 65536


HOSTILE = {  # honest files, lossless and lossy -> a hostile one
    "huge": lambda _, lossy: pack(replace(lossy, entries=(Entry("a", 1 << 20, 1 << 20),))),
    "tile": lambda _, lossy: pack(replace(lossy, tile=4)),
    "layers": lambda _, lossy: pack(replace(lossy, layers=3)),
    "none": lambda _, lossy: pack(replace(lossy, layers=0)),
    "few": lambda lossless, _: pack(replace(lossless, layers=1)),
    "empty": lambda _, lossy: pack(replace(lossy, entries=())),
    "words": lambda lossless, _: pack(replace(lossless, words=np.zeros(3, np.uint32))),
    "version": lambda *_: b"RRVQ\1" + bytes(60) + digest(b"RRVQ\1" + bytes(60)),
    "short": lambda *_: b"RRVQ",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_command_refuses_in_one_line(name, written, model, tmp_path, capsys):
    save_model(model, tmp_path)
    file = tmp_path / f"{name}\x1b[2J"
    file.write_bytes(HOSTILE[name](written[0].container, written[1].container))
    assert run("decode", tmp_path, file, "--out", tmp_path / "out") == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1 and "\x1b" not in errors
    assert not list(tmp_path.glob("out/*"))


def test_names_of_strangers_reach_neither_terminal_nor_other_folders(
    written, model, tmp_path, capsys
):
    save_model(model, tmp_path)
    names = [b"\x1b[2J\x1b[31mred.png", "../../" + "ü" * 126 + ".png"]
    changes = [("name", 0, names[0]), ("name", 1, names[1].encode())]
    (tmp_path / "f").write_bytes(forge(written[1], changes))
    assert run("decode", tmp_path, tmp_path / "f", "--out", tmp_path / "out") == 0
    assert "\x1b" not in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_decode_follows_no_link_that_leads_nowhere(written, model, tmp_path, capsys):
    save_model(model, tmp_path)
    (tmp_path / "f").write_bytes(pack(written[1].container))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "elsewhere.png")
    assert run("decode", tmp_path, tmp_path / "f", "--out", tmp_path / "out") == 2
    assert "exists" in capsys.readouterr().err and not (tmp_path / "elsewhere.png").exists()


def test_devices_and_huge_files_are_not_read(tmp_path, capsys):
    assert run("decode", tmp_path, "/dev/zero", "--out", tmp_path / "out") == 2
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.write(b"RRVQ")
        file.truncate(MAX_BYTES + 1)
    assert run("decode", tmp_path, huge, "--out", tmp_path / "out") == 2
    assert "more than" in capsys.readouterr().err
    assert MAX_BYTES > MAX_PIXELS
