"""Signs that a text may not be a transcript of speech: loops and silence."""

import dataclasses

INAUDIBLE = 1e-3  # share of full scale: -60 dB
COMPRESSED = 2.4  # compression ratio above which Whisper takes a text for a repetition


@dataclasses.dataclass(frozen=True)
class Signs:
    """Signs that a text may not be a transcript of speech.

    Attributes:
        loop: the text that repeats back to back, "" if none does
            (`interventions.generation.transcripts.longest_loop`).
        times: how often it repeats.
        compression_ratio: of the text.
        no_speech_prob: probability of <|nospeech|>.
        avg_logprob: mean natural-log probability of the text's tokens and its end.
        silent: whether the last two are beyond Whisper's thresholds of silence, so that
            `transcribe` leaves the window out.
        ended: whether the end of the text was generated; otherwise it was cut off.
        peak: largest sample, as a share of full scale. From digital silence Whisper generates a
            word or two, such as "you".
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
        """Returns the signs that apply, as sentences."""
        probabilities = (
            f"no-speech probability {self.no_speech_prob:.2f}, "
            f"mean log-probability {self.avg_logprob:.2f}"
        )
        sentences = {
            f"Loop: “{self.loop}” {self.times} times in a row.": self.times > 0,
            "Cut off: the text reached the largest number of tokens.": not self.ended,
            f"No speech: {probabilities}. By Whisper’s thresholds this is silence, so "
            "jaxasr transcribe leaves it out.": self.silent,
            f"Silent recording: the largest sample is {self.peak:.1g} of full scale.": (
                self.peak < INAUDIBLE
            ),
            f"Compression ratio {self.compression_ratio:.1f}: above {COMPRESSED} Whisper takes a "
            "text for a repetition.": self.compression_ratio > COMPRESSED,
        }
        return [line for line, applies in sentences.items() if applies]
