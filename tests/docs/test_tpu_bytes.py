"""The bytes that a compiled program for a TPU moves are counted from its text."""

import pytest

pytest.importorskip("torch")

from examples.tpu_bytes import off_chip

PROGRAM = """
ENTRY %main (x: f32[32,100]) -> f32[32,100] {
  %x = f32[32,100]{1,0:T(8,128)} parameter(0)
  %copy-start = (f32[32,100]{1,0:T(8,128)S(1)}, f32[32,100]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %copy-done = f32[32,100]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %slice-start = ((f32[32,100]{1,0:T(8,128)}), f32[8,100]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={}
  %slice-done = f32[8,100]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  ROOT %sum = f32[32,100]{1,0:T(8,128)} fusion(%copy-done, %slice-done), kind=kLoop
}
"""


def test_a_copy_counts_its_operand_and_a_slice_what_it_reads():
    row = 128 * 4
    assert off_chip(PROGRAM) == 32 * row + 8 * row + 32 * row
