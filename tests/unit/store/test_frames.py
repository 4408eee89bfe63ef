from hypothesis import given
from hypothesis import strategies as st

from rung.store.frames import HEADER_BYTES, Frame, Gap, erased, frames, scan

payloads = st.lists(st.binary(min_size=1, max_size=40), max_size=8)
salts = st.integers(0, 2**32 - 1)


def whole(data: bytes, salt: int) -> list[bytes]:
    return [piece.payload for piece in scan(data, salt) if isinstance(piece, Frame) and not piece.erased]


@given(payloads, salts)
def test_what_was_framed_comes_back(items, salt):
    data = b"".join(frames(items, salt))
    pieces = list(scan(data, salt))
    assert [piece.payload for piece in pieces] == items
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]


@given(payloads, salts, st.integers(0, 500))
def test_a_file_cut_anywhere_gives_the_frames_before_the_cut(items, salt, cut):
    framed = frames(items, salt)
    data = b"".join(framed)[:cut]
    fit = 0
    while fit < len(framed) and sum(map(len, framed[: fit + 1])) <= cut:
        fit += 1
    assert whole(data, salt) == items[:fit]


@given(payloads.filter(len), salts, st.data())
def test_a_flipped_bit_costs_one_frame_and_invents_none(items, salt, draw):
    framed = frames(items, salt)
    data = bytearray(b"".join(framed))
    place = draw.draw(st.integers(0, len(data) - 1))
    data[place] ^= 1 << draw.draw(st.integers(0, 7))
    hit, end = 0, len(framed[0])
    while place >= end:
        hit += 1
        end += len(framed[hit])
    found = whole(bytes(data), salt)
    # The frame that was hit is gone. (Payloads that happen to be equal cannot be told apart.)
    assert found == items[:hit] + items[hit + 1 :]


def test_damage_is_told_with_its_place():
    framed = frames([b"one", b"two", b"three"], 7)
    data = bytearray(b"".join(framed))
    data[len(framed[0]) + HEADER_BYTES] ^= 1
    start = len(framed[0])
    assert [p for p in scan(bytes(data), 7, base=1000) if isinstance(p, Gap)] == [
        Gap(1000 + start, 1000 + start + len(framed[1]))
    ]


def test_a_frame_inside_a_body_is_no_frame_of_ours_after_damage():
    forged = frames([b"forged"], 0)[0]
    framed = frames([b"body:" + forged, b"next"], 0xDEADBEEF)
    data = bytearray(b"".join(framed))
    data[0] ^= 0xFF  # the header of the one with the body
    assert whole(bytes(data), 0xDEADBEEF) == [b"next"]


def test_an_erased_frame_keeps_the_length_and_says_nothing():
    framed = frames([b"secret", b"kept"], 3)
    blank = erased(len(b"secret"), 3)
    assert len(blank) == len(framed[0])
    pieces = list(scan(blank + framed[1], 3))
    assert pieces[0].erased
    assert b"secret" not in blank
    assert pieces[1].payload == b"kept"
