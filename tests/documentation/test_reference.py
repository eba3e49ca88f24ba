"""The reference lists every public name, and the examples in public docstrings run."""

import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import xarray as xr

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs/reference"))
import pages  # noqa: E402

NAMESPACES = pages.namespaces()


def loaded(namespace: str) -> ModuleType:
    return importlib.import_module(pages.resolve(namespace))


def public(module: ModuleType) -> set[str]:
    """Returns the public names of a module: no modules, and no names with a leading underscore."""
    package = hasattr(module, "__path__")
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and (package or getattr(value, "__module__", None) == module.__name__)
        and (package or inspect.isclass(value) or inspect.isroutine(value))
    }


OBJECTS = {
    path: getattr(loaded(namespace), name)
    for namespace, names in NAMESPACES.items()
    for name, path in names.items()
}


def example(value: object) -> str:
    """Returns the code of the ```python blocks and of the >>> lines of a docstring."""
    text = inspect.getdoc(value) or ""
    blocks = [
        textwrap.dedent(block)
        for block in re.findall(r"^[ \t]*```python\n(.*?)^[ \t]*```", text, re.M | re.S)
    ]
    return "\n".join([*blocks, *re.findall(r"^\s*(?:>>>|\.\.\.) ?(.*)$", text, re.M)])


def with_methods(value: object) -> list[tuple[str, object]]:
    """Returns the object and, for a class of this project, its public methods and properties."""
    members = vars(value) if inspect.isclass(value) else {}
    return [("", value)] + [
        (f".{name}", getattr(member, "__func__", member))
        for name, member in members.items()
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property))
    ]


def has_own_docstring(value: object) -> bool:
    """Returns whether a value is a class or a function, so that it has its own docstring."""
    return inspect.isclass(value) or inspect.isroutine(value)


EXAMPLES = {
    f"{path}{member}": example(part)
    for path, value in OBJECTS.items()
    for member, part in with_methods(value)
    if example(part)
}


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_public_name_has_an_entry(namespace):
    assert public(loaded(namespace)) == NAMESPACES[namespace].keys()
    entries = set(re.findall(r"^::: (\S+)", "\n".join(map(pages.page, NAMESPACES)), re.M))
    assert set(NAMESPACES[namespace].values()) <= entries


@pytest.mark.parametrize("path", OBJECTS)
def test_every_entry_begins_with_a_sentence(path):
    assert not has_own_docstring(OBJECTS[path]) or pages.first_line(path)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Returns the objects that examples may use without defining them, by name."""
    import interventions as iv
    import jaxasr
    from jaxasr.language.toy import write_toy
    from tests.audio_language import tiny_mel, tiny_model, tiny_tokens

    audio_lm = tiny_model()
    lm_mel = tiny_mel(audio_lm.config, np.array([40, 29]))
    prefix, _ = audio_lm.encode(lm_mel, lengths=[40, 29])
    lm_tokens, lm_positions = tiny_tokens(audio_lm.config, np.asarray(prefix.lengths))
    asr = jaxasr.load("tiny.en")
    audio = jaxasr.load_audio(ROOT / "experiments/assets/demo.flac")
    mel = jaxasr.log_mel(audio, asr.config.n_mels)
    noisy_mel = jaxasr.log_mel(iv.corruptions.noise(audio, snr_db=0, seed=0), asr.config.n_mels)
    prompt = np.array([asr.tokenizer.prompt()])
    text = asr.tokenizer.encode(" The captain read the old")
    tokens = np.concatenate([prompt, [text]], axis=1)
    memory, _ = asr.model.encode(mel[None])
    answer, foil = (asr.tokenizer.encode(word)[0] for word in (" letter", " book"))
    run = iv.Run(mel=mel[None], tokens=tokens)
    noisy = iv.Run(mel=noisy_mel[None], tokens=tokens)
    values = xr.DataArray(np.zeros((2, 4)), dims=("example", "layer"))
    return {
        "summary": iv.summarize(values, n=10),
        "np": np,
        "jax": importlib.import_module("jax"),
        "jnp": importlib.import_module("jax.numpy"),
        "jaxasr": jaxasr,
        "iv": iv,
        "interventions": iv,
        "asr": asr,
        "model": asr.model,
        "audio_lm": audio_lm,
        "lm_mel": lm_mel,
        "lm_tokens": lm_tokens,
        "lm_positions": lm_positions,
        "prefix": prefix,
        "lm_asr": jaxasr.load(write_toy(tmp_path_factory.mktemp("names") / "toy")),
        "tokenizer": asr.tokenizer,
        "audio": audio,
        "mel": mel,
        "memory": memory,
        "prompt": prompt,
        "tokens": tokens,
        "answer": answer,
        "foil": foil,
        "run": run,
        "target": noisy,
        "source": run,
        "clean": run,
        "noisy": noisy,
    }


@pytest.mark.parametrize("path", EXAMPLES)
def test_the_example_runs(path, names, tmp_path, monkeypatch):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)  # an example may write files
    module = next(key for key in OBJECTS if path == key or path.startswith(f"{key}."))
    own = vars(sys.modules[module.rpartition(".")[0]])  # like doctest, adds the module's names
    exec(compile(EXAMPLES[path], f"docstring of {path}", "exec"), {**own, **names})


def test_names_without_an_example_are_few():
    """`pytest -rP` lists these names. Lower the bound whenever an example is added."""
    callables = [path for path, value in OBJECTS.items() if has_own_docstring(value)]
    missing = sorted(
        path
        for path in callables
        if not any(key == path or key.startswith(f"{path}.") for key in EXAMPLES)
    )
    print(f"{len(missing)} of {len(callables)} public names have no example:", *missing, sep="\n  ")
    assert len(missing) <= MISSING_EXAMPLES


MISSING_EXAMPLES = 10
