"""Content types, Accept headers and forms are read strictly, and nothing that comes over the wire breaks them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import InvalidInput, TooLarge
from rung.protocols.media import accepted, content_type, sniff
from rung.protocols.multipart import parse


def form(*parts, boundary="XX", end=b"--XX--\r\n"):
    return b"".join(b"--" + boundary.encode() + b"\r\n" + part + b"\r\n" for part in parts) + end


def test_a_form_of_curl():
    body = form(
        b'Content-Disposition: form-data; name="file"; filename="a \\"b\\".png"\r\n'
        b"Content-Type: image/png\r\n\r\n\x89PNG\r\n--X",
        b"content-disposition: form-data; name=note\r\n\r\n",
    )
    first, second = parse(body, "XX")
    assert (first.name, first.filename, first.media_type, first.body) == (
        "file",
        'a "b".png',
        "image/png",
        b"\x89PNG\r\n--X",
    )
    assert (second.name, second.filename, second.media_type, second.body) == ("note", None, "", b"")


HEADER = b'Content-Disposition: form-data; name="f"'


@pytest.mark.parametrize(
    ("body", "boundary", "reason"),
    [
        (form(HEADER + b"\r\n\r\nx"), "", "boundary"),
        (form(HEADER + b"\r\n\r\nx"), "YY", "does not begin"),
        (form(HEADER + b"\r\n\r\nx"), "X" * 71, "boundary"),
        (form(HEADER + b"\r\n\r\nx"), "X\nX", "boundary"),
        (b"", "XX", "does not begin"),
        (b"preamble\r\n" + form(HEADER + b"\r\n\r\nx"), "XX", "does not begin"),
        (form(HEADER + b"\r\n\r\nx", end=b""), "XX", "last boundary is missing"),
        (form(HEADER + b"\r\n\r\nx", end=b"--XX--\r\nmore"), "XX", "after the end"),
        (form(HEADER + b"\r\n\r\nx", end=b"--XXrest"), "XX", "does not end its line"),
        (form(b"x"), "XX", "no headers"),
        (form(b"\r\nx"), "XX", "Name: value"),
        (form(b"Content-Type: image/png\r\n\r\nx"), "XX", "form-data"),
        (form(b"Content-Disposition: attachment; name=a\r\n\r\nx"), "XX", "form-data"),
        (form(b"Content-Disposition: form-data\r\n\r\nx"), "XX", "no name"),
        (form(b'Content-Disposition: form-data; name="a\r\n\r\nx'), "XX", "cannot be read"),
        (form(HEADER + b"\r\nBad Header\r\n\r\nx"), "XX", "Name: value"),
        (form(HEADER + b"\r\nX: a\nY: b\r\n\r\nx"), "XX", "Name: value"),
        (form(HEADER + b"\r\nX: " + b"a" * 9000 + b"\r\n\r\nx"), "XX", "8192"),
    ],
)
def test_what_is_no_form_is_refused(body, boundary, reason):
    with pytest.raises(InvalidInput, match=reason):
        parse(body, boundary)


def test_the_number_of_parts_is_bounded():
    body = form(*[HEADER + b"\r\n\r\nx"] * 5)
    assert len(parse(body, "XX", max_parts=5)) == 5
    with pytest.raises(TooLarge, match="more than 4"):
        parse(body, "XX", max_parts=4)


@given(st.lists(st.binary(max_size=50).filter(lambda body: b"--XX" not in body), max_size=5))
def test_any_bytes_survive_a_form(bodies):
    whole = form(*[HEADER + b"\r\n\r\n" + body for body in bodies])
    if bodies:
        assert [part.body for part in parse(whole, "XX")] == bodies


@given(st.binary(max_size=120), st.text(max_size=10))
def test_noise_is_a_refusal(noise, boundary):
    for body in (noise, b"--XX\r\n" + noise, form(HEADER + noise)):
        for mark in (boundary, "XX"):
            try:
                parse(body, mark)
            except (InvalidInput, TooLarge):
                continue


@pytest.mark.parametrize(
    ("header", "order"),
    [
        (None, ("*/*",)),
        (b"", ("*/*",)),
        (b"*/*", ("*/*",)),
        (b"image/png, application/json", ("image/png", "application/json")),
        (b"image/png;q=0.5, application/json", ("application/json", "image/png")),
        (b"Text/HTML;level=1;q=0.1 , */*;q=0", ("text/html", "*/*;q=0")),
        (b"image/png;q=high, rubbish, */*", ("*/*",)),
        (b"image/png;q=nan, a/b;q=7, */*;q=0.2", ("*/*",)),
    ],
)
def test_accept(header, order):
    assert accepted(header) == order


def test_content_type():
    assert content_type(None) == ("", {})
    assert content_type(b'Multipart/Form-Data; Boundary="a b"; x') == ("multipart/form-data", {"boundary": "a b"})


def test_sniff():
    assert sniff(b"\x89PNG\r\n\x1a\nrest") == "image/png"
    assert sniff(b"\xff\xd8\xff\xe0") == "image/jpeg"
    assert sniff(b" \n [1]") == "application/json"
    assert sniff(b"hello") == ""


@given(st.binary(max_size=60))
def test_headers_of_noise_are_read(noise):
    content_type(noise)
    assert accepted(noise)
