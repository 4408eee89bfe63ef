"""The images of the example: where they are looked for, and what is refused."""

import csv
import hashlib
import io
import shutil
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import dataset
import numpy as np
import pytest
from PIL import Image

REAL = dataset.BESIDE_THE_REPOSITORY
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="the images do not lie beside the repository")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """Unless a test says otherwise, there is no folder, no environment, no network and an empty cache."""
    monkeypatch.delenv("RUNG_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(dataset, "BESIDE_THE_REPOSITORY", tmp_path / "absent")
    monkeypatch.setattr(dataset, "ARCHIVE", (tmp_path / "absent.zip").as_uri())


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(path, count=3):
    """A folder as it is shipped, with small pictures."""
    (path / "images").mkdir(parents=True)
    (path / "masks").mkdir()
    with (path / "manifest.csv").open("w") as file:
        file.write("id,split,image_sha256\n")
        for number in range(count):
            image = png(np.full((256, 256, 3), number, np.uint8))
            (path / "images" / f"{number:016x}.png").write_bytes(image)
            (path / "masks" / f"{number:016x}.png").write_bytes(png(np.eye(256, dtype=np.uint8)))
            file.write(f"{number:016x},train,{hashlib.sha256(image).hexdigest()}\n")
    return path


@pytest.mark.data
@needs_data
def test_size_and_colour_find_the_domain_that_the_manifest_names(monkeypatch):
    monkeypatch.setattr(dataset, "BESIDE_THE_REPOSITORY", REAL)
    with (REAL / "manifest.csv").open(newline="") as file:
        named = {row["id"]: (row["domain"], row["split"]) for row in csv.DictReader(file)}

    found = dataset.find()

    assert found.kind == "folder"
    assert {sample.id: (sample.domain, sample.split) for sample in found.samples} == named
    assert found.counts()["fluo_256"] == {"train": 144, "val": 36, "test": 60}
    assert all(set(np.unique(sample.mask)) <= {0, 1} for sample in found.samples)


@pytest.mark.data
@needs_data
def test_the_list_of_checksums_names_the_shipped_images():
    with (REAL / "manifest.csv").open(newline="") as file:
        shipped = {(row["id"], row["split"], row["image_sha256"]) for row in csv.DictReader(file)}
    with dataset.CHECKSUMS.open(newline="") as file:
        listed = {(row["id"], row["split"], row["sha256"]) for row in csv.DictReader(file)}

    assert listed == shipped


@pytest.mark.parametrize(
    ("colour", "size", "domain"),
    [
        ((12, 12, 12), (256, 256), "fluo_256"),
        ((12, 12, 12), (256, 320), "fluo_256"),
        ((12, 12, 12), (520, 696), "fluo_520x696"),
        ((220, 190, 215), (256, 320), "stained_256x320"),
        ((220, 190, 215), (256, 256), "stained_256"),
        ((210, 210, 210), (1024, 1024), "brightfield_1024"),
    ],
)
def test_domains(colour, size, domain):
    assert dataset.domain_of(np.broadcast_to(np.array(colour, np.uint8), (*size, 3))) == domain


def test_the_folder_that_was_asked_for_comes_first(monkeypatch, tmp_path):
    asked, environment = folder_of(tmp_path / "asked", 1), folder_of(tmp_path / "environment", 2)
    beside = folder_of(tmp_path / "beside", 3)
    monkeypatch.setattr(dataset, "BESIDE_THE_REPOSITORY", beside)
    assert len(dataset.find().samples) == 3
    monkeypatch.setenv("RUNG_DATA", str(environment))
    assert len(dataset.find().samples) == 2
    assert len(dataset.find(asked).samples) == 1


def test_a_folder_without_images_is_refused_and_never_replaced(tmp_path):
    with pytest.raises(dataset.DataError, match=r"does not hold the images: manifest\.csv"):
        dataset.find(tmp_path)


def test_a_changed_image_is_refused_by_name(tmp_path):
    folder = folder_of(tmp_path / "data")
    (folder / "images" / f"{1:016x}.png").write_bytes(png(np.zeros((256, 256, 3), np.uint8)))
    with pytest.raises(dataset.DataError, match=r"0000000000000001\.png"):
        dataset.find(folder)


def test_images_are_drawn_and_said_to_be_when_there_are_no_others():
    found = dataset.find()

    assert found.kind == "drawn"
    assert "DRAWN IMAGES, not real ones" in found.where
    assert found.counts() == {"fluo_256": {"train": 96, "val": 16, "test": 40}, "stained_256x320": {"test": 8}}
    again = dataset.find(download=False)
    assert [sample.image for sample in again.samples] == [sample.image for sample in found.samples]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *arguments):
        pass


@pytest.fixture
def site(tmp_path):
    """A web server with one folder; yields the folder and its address."""
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def archive_of(path, source, listed, damaged=()):
    """The official layout, with two nuclei a picture: ID/images/ID.png and ID/masks/*.png."""
    with (source / "manifest.csv").open(newline="") as file, zipfile.ZipFile(path, "w") as archive:
        rows = list(csv.DictReader(file))
        for number, row in enumerate(rows):
            key = row["id"] + 48 * "0"
            image = (source / "images" / f"{row['id']}.png").read_bytes()
            archive.writestr(f"{key}/images/{key}.png", image + b"x" * (number in damaged))
            for place in (0, 100):
                nucleus = np.zeros((256, 256), np.uint8)
                nucleus[place : place + 10, :10] = 255
                archive.writestr(f"{key}/masks/{place}.png", png(nucleus))
    with listed.open("w") as file:
        file.write("id,split,sha256\n")
        file.writelines(f"{row['id']},{row['split']},{row['image_sha256']}\n" for row in rows)


def test_the_archive_is_downloaded_once_checked_and_its_masks_are_joined(monkeypatch, tmp_path, site):
    folder, address = site
    monkeypatch.setattr(dataset, "CHECKSUMS", tmp_path / "checksums.csv")
    monkeypatch.setattr(dataset, "ARCHIVE", f"{address}/stage1_train.zip")
    archive_of(folder / "stage1_train.zip", folder_of(tmp_path / "source", 20), dataset.CHECKSUMS, damaged={7})
    size = (folder / "stage1_train.zip").stat().st_size
    seen = []

    found = dataset.find(notify=lambda *progress: seen.append(progress))

    assert (found.kind, len(found.samples)) == ("archive", 19)
    assert "19 of 20" in found.where
    assert seen[-1] == (size, size)
    assert found.samples[0].mask.sum() == 200
    (folder / "stage1_train.zip").unlink()
    assert dataset.find().kind == "archive"


@pytest.mark.parametrize("content", ["other images", "no archive"])
def test_an_archive_with_other_content_is_not_trained_on(monkeypatch, tmp_path, site, content):
    folder, address = site
    monkeypatch.setattr(dataset, "CHECKSUMS", tmp_path / "checksums.csv")
    monkeypatch.setattr(dataset, "ARCHIVE", f"{address}/stage1_train.zip")
    source = folder_of(tmp_path / "source", 10)
    archive_of(folder / "stage1_train.zip", source, dataset.CHECKSUMS, damaged={1, 2})
    if content == "no archive":
        (folder / "stage1_train.zip").write_bytes(b"<html>moved</html>")

    found = dataset.find()

    assert found.kind == "drawn"
    assert "stage1_train.zip cannot be used" in found.where
    # Else the next run would find it in the cache and never ask again.
    assert not list(tmp_path.glob("cache/**/*.zip"))


def test_a_download_that_breaks_off_leaves_nothing_to_mistake_for_the_archive(monkeypatch, tmp_path, site):
    folder, address = site
    shutil.copy(dataset.CHECKSUMS, folder / "stage1_train.zip")
    monkeypatch.setattr(dataset, "ARCHIVE", f"{address}/stage1_train.zip")

    class Short(Quiet):
        def send_header(self, keyword, value):
            super().send_header(keyword, str(int(value) + 1000) if keyword == "Content-Length" else value)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Short, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(dataset, "ARCHIVE", f"http://127.0.0.1:{server.server_address[1]}/stage1_train.zip")
        found = dataset.find()
        server.shutdown()
        thread.join()

    assert found.kind == "drawn"
    assert "ended after" in found.where
    assert not list(tmp_path.glob("cache/**/*.zip"))
