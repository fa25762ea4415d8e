"""The tree against the recursive definitions of RFC 6962, and against its public vectors."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_gateway import merkle

# Inputs and roots of the reference implementation of certificate transparency.
REFERENCE_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
REFERENCE_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def split(size: int) -> int:
    power = 1
    while power * 2 < size:
        power *= 2
    return power


def naive_root(data: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word."""
    if not data:
        return hashlib.sha256(b"").digest()
    if len(data) == 1:
        return hashlib.sha256(b"\0" + data[0]).digest()
    k = split(len(data))
    return hashlib.sha256(b"\1" + naive_root(data[:k]) + naive_root(data[k:])).digest()


def naive_path(m: int, data: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962 §2.1.1."""
    if len(data) == 1:
        return []
    k = split(len(data))
    if m < k:
        return [*naive_path(m, data[:k]), naive_root(data[k:])]
    return [*naive_path(m - k, data[k:]), naive_root(data[:k])]


def naive_subproof(m: int, data: list[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962 §2.1.2."""
    if m == len(data):
        return [] if whole else [naive_root(data)]
    k = split(len(data))
    if m <= k:
        return [*naive_subproof(m, data[:k], whole), naive_root(data[k:])]
    return [*naive_subproof(m - k, data[k:], False), naive_root(data[:k])]


def grown(data: list[bytes]) -> tuple[merkle.Frontier, dict[tuple[int, int], bytes]]:
    frontier, nodes = merkle.Frontier(), {}
    for entry in data:
        for level, index, made in frontier.append(merkle.leaf_hash(entry)):
            assert (level, index) not in nodes
            nodes[level, index] = made
    return frontier, nodes


def leaves_of(size: int) -> list[bytes]:
    return [b"leaf %d" % number for number in range(size)]


def test_the_reference_roots() -> None:
    for size, root in enumerate(REFERENCE_ROOTS, start=1):
        assert grown(REFERENCE_LEAVES[:size])[0].root().hex() == root
    assert merkle.Frontier().root().hex() == hashlib.sha256(b"").hexdigest()


def test_the_reference_proofs() -> None:
    _, nodes = grown(REFERENCE_LEAVES)
    path = merkle.proof(merkle.inclusion_ranges(5, 8), nodes)
    assert [part.hex() for part in path] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    path = merkle.proof(merkle.consistency_ranges(6, 8), nodes)
    assert [part.hex() for part in path] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_roots_are_the_recursive_ones(data: list[bytes]) -> None:
    frontier, nodes = grown(data)
    assert frontier.root() == naive_root(data)
    peaks = [nodes[place] for place in merkle.cover(0, len(data))]
    again = merkle.Frontier(len(data), peaks)
    again.extend(merkle.leaf_hash(entry) for entry in data)
    assert again.root() == naive_root(data + data)
    assert again.size == 2 * len(data)


@given(st.integers(1, 90).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
def test_inclusion_proofs_are_the_recursive_ones_and_verify(place: tuple[int, int]) -> None:
    size, index = place
    data = leaves_of(size)
    frontier, nodes = grown(leaves_of(size + 7))
    path = merkle.proof(merkle.inclusion_ranges(index, size), nodes)
    root, leaf = naive_root(data), merkle.leaf_hash(data[index])
    assert path == naive_path(index, data)
    assert merkle.verify_inclusion(leaf, index, size, path, root)
    assert not merkle.verify_inclusion(merkle.leaf_hash(b"other"), index, size, path, root)
    assert not merkle.verify_inclusion(leaf, index, size, path, frontier.root())
    assert not merkle.verify_inclusion(leaf, index, size, [*path, root], root)
    for number in range(len(path)):
        damaged = [*path]
        damaged[number] = bytes([path[number][0] ^ 1]) + path[number][1:]
        assert not merkle.verify_inclusion(leaf, index, size, damaged, root)
        assert not merkle.verify_inclusion(leaf, index, size, path[:-1], root)


@given(st.integers(1, 90).flatmap(lambda size: st.tuples(st.integers(1, size), st.just(size))))
def test_consistency_proofs_are_the_recursive_ones_and_verify(sizes: tuple[int, int]) -> None:
    first, second = sizes
    data = leaves_of(second)
    _, nodes = grown(data)
    path = merkle.proof(merkle.consistency_ranges(first, second), nodes)
    old, new = naive_root(data[:first]), naive_root(data)
    assert path == naive_subproof(first, data, True)
    assert merkle.verify_consistency(first, second, old, new, path)
    assert not merkle.verify_consistency(first, second, new[::-1], new, path)
    assert not merkle.verify_consistency(first, second, old, new, [*path, new])
    if first < second:
        assert not merkle.verify_consistency(first, second, old, old, path)
        rewritten = naive_root([b"other", *data[1:first]])
        assert not merkle.verify_consistency(first, second, rewritten, new, path)
        assert not merkle.verify_consistency(first, second, old, new, path[:-1])


@given(
    st.integers(1, 40),
    st.integers(-1, 41),
    st.lists(st.binary(min_size=31, max_size=33), max_size=8),
)
def test_a_made_up_path_proves_nothing(size: int, index: int, path: list[bytes]) -> None:
    root = naive_root(leaves_of(size))
    if size > 1:
        assert not merkle.verify_inclusion(merkle.leaf_hash(b"x"), index, size, path, root)
    assert not merkle.verify_consistency(index, size, b"x" * 32, root, path) or index == 0


def test_an_inner_node_is_no_leaf() -> None:
    data = leaves_of(4)
    _, nodes = grown(data)
    root = naive_root(data)
    assert not merkle.verify_inclusion(nodes[1, 0], 0, 4, [nodes[1, 1]], root)
    assert merkle.verify_inclusion(nodes[1, 0], 0, 2, [nodes[1, 1]], root)  # why sizes are signed


def test_what_cannot_be_asked() -> None:
    for index, size in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(ValueError, match="is not in a tree"):
            merkle.inclusion_ranges(index, size)
    for first, second in ((0, 3), (4, 3)):
        with pytest.raises(ValueError, match="has no proof"):
            merkle.consistency_ranges(first, second)
    with pytest.raises(ValueError, match="peaks"):
        merkle.Frontier(3, [b"x" * 32])
    assert merkle.verify_consistency(0, 3, merkle.EMPTY_ROOT, b"x" * 32, [])
