"""The table of what the command does without a word counts losses, and pictures that are left alone."""

import math

from flowhelm.bench.quality.unattended import Row, line


def test_a_row_counts_gains_losses_and_what_is_left_alone():
    gains = (2.0, 1.1, -0.1, 0.0)
    rows = [
        Row(name, 30.0, 30.0 + gain, "denoise" if gain else None, (30.0 + gain / 2, 29.0))
        for name, gain in zip("abcd", gains, strict=True)
    ]
    cells = [each.strip() for each in line((1.3, 4, 90), rows).strip("|").split("|")]
    assert cells[:4] == ["1.3", "4", "90", "1 of 4"]
    assert cells[4].startswith("0.75 ± ")
    assert cells[5:7] == ["-0.10", "1"]
    assert cells[7].startswith("0.38 ± ")
    assert cells[8] == "-1.00 ± 0.00"


def test_a_clean_picture_has_nothing_to_gain_and_is_named_if_it_is_changed():
    rows = [Row("a", math.inf, math.inf, None, (50.0, 40.0)), Row("b", math.inf, 43.71, "denoise", (41.0, 60.0))]
    assert (
        line((0.0, 0, None), rows)
        == "| 0 | 0 | PNG | 1 of 2 | nothing to gain: b at 43.7 dB |  | 1 | at 45.5 dB | at 50.0 dB |"
    )
