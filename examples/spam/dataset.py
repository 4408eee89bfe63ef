"""5,574 real text messages, 747 of them spam.

UCI SMS Spam Collection v.1, CC BY 4.0: Almeida, Gomez Hidalgo and Yamakami, DocEng 2011. Looked for in `RUNG_DATA`,
beside the repository, and on the web, in that order; always with this checksum.
"""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

__all__ = ["rows"]

SHA256 = "55341228082b25b832a5868a5ab4b038142a57f70c676c123280af6ff457fe46"
FOLDER, FILE = "sms_spam", "SMSSpamCollection.tsv"
PUBLIC = (
    "https://raw.githubusercontent.com/krishnaik06/Huggingfacetransformer/"
    "8e97d009508252d1a31ac1fdbd2722f310d99d92/SMSSpamCollection"
)
BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[3] / "shared" / "data"


def rows() -> Iterator[dict[str, str]]:
    """One message a row; each text once, since copies in training and test would flatter the model."""
    seen = set()
    for line in _content().decode().splitlines():
        label, _, text = line.partition("\t")
        if text not in seen:
            seen.add(text)
            yield {"label": label, "text": text}


def _content() -> bytes:
    asked = os.environ.get("RUNG_DATA")
    for place in [Path(asked).expanduser()] if asked else [BESIDE_THE_REPOSITORY]:
        for path in (place / FILE, place / FOLDER / FILE):
            if path.is_file():
                return _checked(path.read_bytes(), str(path))
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rung" / FOLDER / FILE
    if not cached.is_file():
        try:
            with urllib.request.urlopen(PUBLIC, timeout=20) as response:
                content = _checked(response.read(), PUBLIC)
        except (OSError, urllib.error.URLError) as error:
            raise FileNotFoundError(
                f"there is no {FOLDER}/{FILE} in {asked or BESIDE_THE_REPOSITORY}, and {PUBLIC} cannot be had "
                f"({error}): set RUNG_DATA to the folder that holds it"
            ) from None
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(content)
    return _checked(cached.read_bytes(), str(cached))


def _checked(content: bytes, where: str) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(f"{where} is not the file that this example is about: its SHA-256 is {found[:12]}...")
    return content
