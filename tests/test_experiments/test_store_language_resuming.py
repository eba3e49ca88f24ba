"""An interrupted store of an audio language model continues to the bit."""

from small_speech import tones
from small_stores import kill_after_the_first_batch, variable_files

import jaxasr
from experiments import store
from jaxasr.language.toy import write_toy

# Extracts a store slowly, 0.25 s per recording, so that the process can be killed halfway.
_SLOW_EXTRACTION = """
import sys, time, dataclasses
import jaxasr
from small_speech import tones
from experiments import store
corpus = tones({lengths})
def delayed(utterance):
    return dataclasses.replace(utterance, read=lambda: (time.sleep(0.25), utterance.read())[1])
corpus = dataclasses.replace(corpus, utterances=tuple(map(delayed, corpus.utterances)))
store.extract(jaxasr.load(sys.argv[1]), corpus, sys.argv[2], **{options})
"""


def test_a_killed_and_resumed_store_is_bitwise_the_uninterrupted_one(tmp_path):
    toy, lengths = write_toy(tmp_path / "toy"), [0.2 + 0.1 * i for i in range(12)]
    sites = ("encoder.project", "decoder.resid_post")
    options = {"sites": sites, "pool": ("audio", "frames"), "batch": 2, "max_new_tokens": 3}
    path = tmp_path / "killed"
    code = _SLOW_EXTRACTION.format(lengths=lengths, options=options)
    kill_after_the_first_batch(code, str(toy), str(path), path=path)
    done = len(store.open(path).done_rows)
    assert 0 < done < len(lengths)
    asr, progress = jaxasr.load(toy), []
    report = lambda n, total: progress.append(n)  # noqa: E731
    resumed = store.extract(asr, tones(lengths), path, **options, progress=report)
    assert progress[0] == done
    whole = store.extract(asr, tones(lengths), tmp_path / "whole", **options)
    assert variable_files(path) == variable_files(whole.path)
    assert resumed.attrs["checksums"] == whole.attrs["checksums"]
