"""Checkpoints and signed notes: published vectors, rotation, and every flaw told apart."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_gateway import checkpoint
from privacy_gateway.checkpoint import BadNote, Checkpoint

# From the documentation of golang.org/x/mod/sumdb/note.
PETER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETER_PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_TEXT = (
    b"If you think cryptography is the answer to your problem,\n"
    b"then you don't know what your problem is.\n"
)
PETER_SIGNATURE = (
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
)

ORIGIN = "example.org/log"
HEAD = Checkpoint(ORIGIN, 42, bytes(range(32)))


def signer(number: int, name: str = ORIGIN) -> checkpoint.Signer:
    return checkpoint.new_signer(name, bytes([number]) * 32)


def flaw(note: str, *keys: checkpoint.Verifier) -> str:
    with pytest.raises(BadNote) as caught:
        checkpoint.verify(note, keys)
    return caught.value.flaw


def test_the_published_key_and_signature() -> None:
    private, public = checkpoint.read_signer(PETER), checkpoint.read_verifier(PETER_PUBLIC)
    assert private.verifier == public
    assert (private.secret(), str(public)) == (PETER, PETER_PUBLIC)
    made = private.sign(PETER_TEXT)
    assert base64.b64encode(made.key_id + made.signature).decode() == PETER_SIGNATURE
    assert public.accepts(PETER_TEXT, made.signature)
    assert not public.accepts(PETER_TEXT + b"\n", made.signature)


def test_the_note_is_what_the_specification_says() -> None:
    lines = checkpoint.seal(HEAD, [signer(1)]).split("\n")
    assert lines[:4] == [ORIGIN, "42", base64.b64encode(HEAD.root).decode(), ""]
    assert lines[4].startswith(f"\u2014 {ORIGIN} ")
    assert lines[5:] == [""]


def test_any_known_key_will_do_and_strangers_are_ignored() -> None:
    old, new, stranger = signer(1), signer(2), signer(3)
    note = checkpoint.seal(HEAD, [stranger, old, new])
    for known in ([old], [new], [old, new]):
        keys = [key.verifier for key in known]
        assert checkpoint.verify(note, keys) == (HEAD, tuple(keys))
    assert flaw(note) == "unknown_key"
    assert flaw(note, signer(4).verifier) == "unknown_key"
    assert flaw(note, signer(1, "another.org/log").verifier) == "unknown_key"


def test_a_forged_signature_is_not_a_missing_one() -> None:
    key, other = signer(1), signer(2)
    note = checkpoint.seal(HEAD, [key])
    changed = note.replace("\n42\n", "\n43\n")
    assert flaw(changed, key.verifier) == "bad_signature"
    both = checkpoint.seal(HEAD, [key, other]).replace("\n42\n", "\n43\n")
    assert flaw(both, other.verifier) == "bad_signature"


@given(st.data())
def test_no_flipped_bit_is_believed(data: st.DataObject) -> None:
    key = signer(1)
    note = bytearray(checkpoint.seal(HEAD, [key]).encode())
    note[data.draw(st.integers(0, len(note) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        text = note.decode()
    except UnicodeDecodeError:
        return
    assert flaw(text, key.verifier) in {"malformed", "unknown_key", "bad_signature"}


@pytest.mark.parametrize(
    "note",
    [
        "",
        "a\n1\n\n",
        f"{HEAD.body()}",
        f"{HEAD.body()}\n",
        f"{HEAD.body()}\nno dash\n",
        f"{HEAD.body()}\n\u2014 name !!!!\n",
        f"{HEAD.body()}\n\u2014 name QUI=\n",
        f"{HEAD.body()}\n\u2014 name QUJDREVGR0\n",
        f"{HEAD.body().replace('42', '042')}\n\u2014 name QUJDREVGRw==\n",
        f"{HEAD.body().replace('42', '-1')}\n\u2014 name QUJDREVGRw==\n",
        f"{HEAD.body().replace('42', '9223372036854775808')}\n\u2014 name QUJDREVGRw==\n",
        "origin\n1\nQUJD\n\n\u2014 name QUJDREVGRw==\n",
        "\n1\nQUJD\n\n\u2014 name QUJDREVGRw==\n",
        f"{'x' * 70_000}\n1\nQUJD\n\n\u2014 name QUJDREVGRw==\n",
        f"{HEAD.body()}\n" + "\u2014 name QUJDREVGRw==\n" * 65,
    ],
)
def test_what_is_no_note(note: str) -> None:
    assert flaw(note, signer(1).verifier) == "malformed"


def test_extensions_are_kept_and_signed() -> None:
    head = Checkpoint(ORIGIN, 1, HEAD.root, ("more", "and more"))
    assert checkpoint.verify(checkpoint.seal(head, [signer(1)]), [signer(1).verifier])[0] == head


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name+00000000",
        "na me+00000000+AAAA",
        "name+zz+AAAA",
        PETER_PUBLIC.replace("c74f20a3", "c74f20a4"),
        PETER_PUBLIC.replace("+ARpc", "+AhpC"),
        PETER_PUBLIC[:-4],
    ],
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(BadNote) as caught:
        checkpoint.read_verifier(text)
    assert caught.value.flaw == "malformed"
    with pytest.raises(BadNote) as caught:
        checkpoint.read_signer(f"PRIVATE+KEY+{text}")
    assert text == "" or text not in caught.value.detail


def test_secrets_stay_out_of_representations() -> None:
    key = signer(7)
    assert "seed" not in repr(key)
    with pytest.raises(ValueError, match="white space"):
        checkpoint.new_signer("two words")
    with pytest.raises(BadNote):
        checkpoint.read_signer(PETER_PUBLIC)
