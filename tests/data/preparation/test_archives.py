import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import pytest

from hiervl.data.preparation.archives import Archive, download, fetch_and_unpack, obtain, unpack
from hiervl.data.preparation.script import names_in
from hiervl.utils.errors import UserError

CONTENT = bytes(range(256)) * 40


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, from a given byte on if asked; remembers what was asked and may end too early."""

    ranges = True
    stop_after = None

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked[len("bytes=") : -1]) if asked and self.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.stop_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    server.url = f"http://127.0.0.1:{server.server_port}/a.zip"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


class TestDownload:
    def test_download_continues_where_it_was_interrupted(self, server, tmp_path, monkeypatch):
        target = tmp_path / "new" / "a.zip"
        monkeypatch.setattr(Handler, "stop_after", 1000)
        with pytest.raises(UserError, match="run it again to continue"):
            download(server.url, target, "copy it")
        assert not target.exists() and (target.parent / "a.zip.part").stat().st_size == 1000
        monkeypatch.setattr(Handler, "stop_after", None)
        download(server.url, target, "copy it")
        assert target.read_bytes() == CONTENT and server.asked == [None, "bytes=1000-"]
        assert [path.name for path in target.parent.iterdir()] == ["a.zip"]

    def test_download_starts_again_if_the_server_cannot_continue(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(Handler, "ranges", False)
        (tmp_path / "a.zip.part").write_bytes(b"something else")
        download(server.url, tmp_path / "a.zip", "copy it")
        assert (tmp_path / "a.zip").read_bytes() == CONTENT

    def test_complete_but_not_renamed(self, server, tmp_path):
        (tmp_path / "a.zip.part").write_bytes(CONTENT)
        download(server.url, tmp_path / "a.zip", "copy it")
        assert (tmp_path / "a.zip").read_bytes() == CONTENT

    def test_no_server_is_one_sentence(self, tmp_path):
        with pytest.raises(UserError, match="cannot be downloaded .*or copy it elsewhere[.]$"):
            download("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", "copy it elsewhere")

    def test_missing_file_is_one_sentence(self, tmp_path):
        with pytest.raises(UserError, match="none.zip cannot be downloaded"):
            download((tmp_path / "none.zip").as_uri(), tmp_path / "a.zip", "copy it")


def archive_of(path, url="", contents=None):
    return Archive(path.name, url, hashlib.md5(path.read_bytes()).hexdigest(), 0.0, contents or {}, "get it by hand.")


def zip_with(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


class TestObtain:
    def test_wrong_checksum_of_a_download_is_thrown_away(self, tmp_path):
        path = zip_with(tmp_path / "a.zip", {"x": b"1"})
        archive = archive_of(path, path.as_uri())
        path.write_bytes(b"damaged")
        with pytest.raises(UserError, match="is damaged: its MD5 is .* instead of .*; fetch it again"):
            obtain(archive, tmp_path / "root", None)
        assert not (tmp_path / "root" / "a.zip").exists()

    def test_wrong_checksum_of_the_users_file_leaves_it(self, tmp_path):
        path = zip_with(tmp_path / "a.zip", {"x": b"1"})
        archive = archive_of(path)
        path.write_bytes(b"damaged")
        with pytest.raises(UserError, match="is damaged"):
            obtain(archive, tmp_path / "root", tmp_path)
        assert path.read_bytes() == b"damaged"

    def test_archives_that_need_a_login_are_explained(self, tmp_path):
        archive = Archive("a.zip", "", "0", 0.0, {}, "get it by hand.")
        with pytest.raises(UserError, match="a.zip does not exist: get it by hand[.]$"):
            obtain(archive, tmp_path, None)
        with pytest.raises(UserError, match="--source names the folder that holds a.zip"):
            obtain(archive, tmp_path, tmp_path / "elsewhere")

    def test_too_little_room_is_said_before_the_download(self, tmp_path):
        with pytest.raises(UserError, match="GB left, but a.zip and its contents need 2,?0{9}"):
            obtain(Archive("a.zip", "http://127.0.0.1:9/a.zip", "0", 1e9), tmp_path, None)


class TestUnpack:
    @pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
    def test_wanted_members_at_their_places(self, tmp_path, suffix):
        members = {"./top/images/1.jpg": b"one", "top/notes.txt": b"no", "top/images/2.jpg": b"two"}
        path = tmp_path / f"a.{suffix}"
        if suffix == "zip":
            zip_with(path, members)
        else:
            with tarfile.open(path, "w:gz" if suffix == "tgz" else "w") as archive:
                for name, content in members.items():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        unpack(path, tmp_path / "out", lambda name: name[4:] if name.endswith(".jpg") else None)
        found = {file.relative_to(tmp_path / "out").as_posix(): file for file in (tmp_path / "out").rglob("*.*")}
        assert sorted(found) == ["images/1.jpg", "images/2.jpg"]
        assert found["images/2.jpg"].read_bytes() == b"two"

    def test_only_what_is_missing_or_cut_off_is_written(self, tmp_path):
        path = zip_with(tmp_path / "a.zip", {"1": b"one", "2": b"two"})
        out = tmp_path / "out"
        out.mkdir()
        (out / "1").write_bytes(b"ONE")  # of the right size: taken for unpacked
        (out / "2").write_bytes(b"t")
        unpack(path, out, lambda name: name)
        assert ((out / "1").read_bytes(), (out / "2").read_bytes()) == (b"ONE", b"two")

    @pytest.mark.parametrize("name", ["../evil", "x/../../evil", "/evil", "..\\evil", "C:/evil"])
    def test_no_member_leaves_the_folder(self, tmp_path, name):
        path = zip_with(tmp_path / "a.zip", {"good": b"1", name: b"2"})
        with pytest.raises(UserError, match="is not a plain file below"):
            unpack(path, tmp_path / "out", lambda member: member)
        assert not list(tmp_path.parent.rglob("evil"))

    def test_links_are_refused(self, tmp_path):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            entry = tarfile.TarInfo("images")
            entry.type, entry.linkname = tarfile.SYMTYPE, "/"
            archive.addfile(entry)
        with pytest.raises(UserError, match="is not a plain file below"):
            unpack(tmp_path / "a.tar", tmp_path / "out", lambda member: member)
        link = zipfile.ZipInfo("images")
        link.external_attr = 0o120777 << 16
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(link, "/")
        with pytest.raises(UserError, match="is not a plain file below"):
            unpack(tmp_path / "a.zip", tmp_path / "out", lambda member: member)

    def test_a_damaged_archive_is_one_sentence(self, tmp_path):
        path = zip_with(tmp_path / "a.zip", {"1": CONTENT})
        content = bytearray(path.read_bytes())
        content[100] ^= 255  # within the first member: its CRC no longer fits
        path.write_bytes(content)
        with pytest.raises(UserError, match="a.zip is damaged .*fetch it again"):
            unpack(path, tmp_path / "out", lambda member: member)
        assert names_in(tmp_path / "out", "") == set()
        (tmp_path / "b.tar").write_bytes(b"nothing")
        with pytest.raises(UserError, match="b.tar is damaged"):
            unpack(tmp_path / "b.tar", tmp_path / "out", lambda member: member)


class TestFetchAndUnpack:
    def test_downloads_unpacks_removes_and_does_nothing_the_second_time(self, tmp_path):
        path = zip_with(tmp_path / "a.zip", {"images/1.jpg": b"one"})
        archive = archive_of(path, path.as_uri(), {"images/*.jpg": 1})
        root = tmp_path / "root"
        fetch_and_unpack(archive, root, lambda name: name, None, keep=False)
        assert [file.name for file in root.iterdir()] == ["images"]
        path.unlink()
        fetch_and_unpack(archive, root, lambda name: name, None, keep=False)

    def test_an_archive_of_the_users_stays(self, tmp_path):
        path = zip_with(tmp_path / "a.zip", {"images/1.jpg": b"one"})
        fetch_and_unpack(archive_of(path), tmp_path / "root", lambda name: name, tmp_path, keep=False)
        assert path.exists()

    def test_too_few_files(self, tmp_path):
        path = zip_with(tmp_path / "a.zip", {"images/1.jpg": b"one"})
        archive = archive_of(path, path.as_uri(), {"images/*.jpg": 2})
        with pytest.raises(UserError, match="images/.*jpg are 1 files instead of 2"):
            fetch_and_unpack(archive, tmp_path / "root", lambda name: name, None, keep=False)
