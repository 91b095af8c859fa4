def test_errors_fall_with_the_order(examples, shell, tmp_path):
    """Halving the step divides the error by 2, 4 and 16: the printed orders are those of the methods; the picture is there."""
    ended = shell(tmp_path).run(examples / "decay.py", "decay.png")
    assert (ended.status, ended.err) == (0, "")
    rows = [line.split() for line in ended.out.splitlines()]
    assert rows[0] == ["steps", "10", "20", "40", "80", "order"]
    assert {name: round(float(order), 1) for name, *_, order in rows[1:]} == {"Euler": 1.0, "Midpoint": 2.1, "RK4": 4.1}
    errors = [float(value) for value in rows[1][1:-1]]
    assert errors == sorted(errors, reverse=True)
    assert (tmp_path / "decay.png").stat().st_size > 10_000
