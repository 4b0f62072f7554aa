from worker.ops.terminal import formats


def test_steps_are_told_in_their_order_whatever_order_they_come_in_and_strangers_last() -> None:
    # As jsonb gives them: the shortest names first.
    told = {"stray": 1.0, "cutout": 2.0, "upload": 3.0, "download": 4.0}
    assert list(formats.in_turn(told).items()) == [
        ("download", 4.0),
        ("cutout", 2.0),
        ("upload", 3.0),
        ("stray", 1.0),
    ]
