"""Describes signs that a text may not be a transcript of speech, such as loops and silence."""

import dataclasses

from interventions.generation.transcripts import MAX_COMPRESSION_RATIO

SILENT_PEAK = 1e-3  # share of full scale (-60 dB); a recording whose peak is lower counts as silent


@dataclasses.dataclass(frozen=True)
class Signs:
    """Signs that a text may not be a transcript of speech.

    Attributes:
        loop: the part of the text that occurs several times in a row, from
            `interventions.generation.transcripts.longest_loop`. "" if no part does.
        times: how often `loop` occurs in a row.
        compression_ratio: bytes of the text divided by its compressed bytes.
        no_speech_prob: probability of <|nospeech|>.
        avg_logprob: mean natural-log probability of the text's tokens and its end.
        silent: whether `no_speech_prob` and `avg_logprob` meet openai-whisper's thresholds of
            silence. `jaxasr transcribe` leaves such a window out.
        ended: whether the model generated the end-of-text. Otherwise the text was cut off.
        peak: largest absolute sample, as a share of full scale. It is a sign, because Whisper may
            generate words, such as "you", from digital silence.
    """

    loop: str
    times: int
    compression_ratio: float
    no_speech_prob: float
    avg_logprob: float
    silent: bool
    ended: bool
    peak: float

    def lines(self) -> list[str]:
        """Returns a sentence for each sign that applies.

        Example:
            >>> Signs("", 0, 1.0, 0.0, -0.2, silent=False, ended=False, peak=0.5).lines()
            ['Cut off: the text reached the largest number of tokens.']
        """
        probabilities = (
            f"no-speech probability {self.no_speech_prob:.2f}, "
            f"mean log-probability {self.avg_logprob:.2f}"
        )
        sentences = {
            f"Loop: “{self.loop}” {self.times} times in a row.": self.times > 0,
            "Cut off: the text reached the largest number of tokens.": not self.ended,
            f"No speech: {probabilities}. By openai-whisper’s thresholds this is silence, so "
            "jaxasr transcribe leaves it out.": self.silent,
            f"Silent recording: the largest sample is {self.peak:.1g} of full scale.": (
                self.peak < SILENT_PEAK
            ),
            f"Compression ratio {self.compression_ratio:.1f}: above {MAX_COMPRESSION_RATIO}, "
            "openai-whisper treats a text as a repetition.": (
                self.compression_ratio > MAX_COMPRESSION_RATIO
            ),
        }
        return [line for line, applies in sentences.items() if applies]
